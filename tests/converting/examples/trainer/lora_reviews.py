"""LoRA on reviews with Trainer and peft, as articles show it."""

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

MODEL = "bert-base-chinese"
tokenizer = AutoTokenizer.from_pretrained(MODEL)


def preprocess_function(examples):
    return tokenizer(examples["text"], truncation=True, padding="max_length", max_length=128)


dataset = load_dataset("csv", data_files={"train": "../rows/reviews.csv"})
dataset = dataset.map(preprocess_function, batched=True)
model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=2)
config = LoraConfig(
    r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.1, bias="none", task_type="SEQ_CLS"
)
model = get_peft_model(model, config)
model.print_trainable_parameters()

training_args = TrainingArguments(
    output_dir="./lora_results",
    per_device_train_batch_size=8,
    num_train_epochs=3,
    learning_rate=1e-3,
    save_steps=10_000,
    save_total_limit=2,
)
trainer = Trainer(model=model, args=training_args, train_dataset=dataset["train"], eval_dataset=dataset["test"])
trainer.train()
