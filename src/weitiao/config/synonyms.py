"""Names that other tools have for our options."""

# The field's other names for the same thing (LLaMA-Factory, axolotl, ms-swift, TRL, AutoTrain), from full path to path.
SYNONYMS = {
    "model_name_or_path": "model",
    "base_model": "model",
    "dataset": "data.train",
    "eval_dataset": "data.eval",
    "val_dataset": "data.eval",
    "val_size": "data.test_size",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_length": "data.max_length",
    "block_size": "data.max_length",
    "text_column": "data.text",
    "label_column": "data.label",
    "target_column": "data.label",
    "finetuning_type": "method.type",
    "tuner_type": "method.type",
    "training_type": "method.type",
    "lora_r": "method.r",
    "lora_rank": "method.r",
    "lora_alpha": "method.lora_alpha",
    "lora_dropout": "method.lora_dropout",
    "lora_target": "method.target_modules",
    "lora_target_modules": "method.target_modules",
    "target_modules": "method.target_modules",
    "additional_target": "method.modules_to_save",
    "lora_modules_to_save": "method.modules_to_save",
    "lr": "train.learning_rate",
    "epochs": "train.num_train_epochs",
    "batch_size": "train.per_device_train_batch_size",
    "micro_batch_size": "train.per_device_train_batch_size",
    "enable_activation_offloading": "train.activation_offloading",
    "optim": "train.optimizer",
    "lr_scheduler": "train.lr_scheduler_type",
    "output_dir": "output.dir",
}  # fmt: skip


# TRL's names of what data.train_on_prompt turns off. Its defaults, null and false for assistant_only_loss, ask for nothing.
ANSWERS_ONLY = {"completion_only_loss": (True, False), "assistant_only_loss": (True,)}
