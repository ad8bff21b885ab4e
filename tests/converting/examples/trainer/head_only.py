"""A head on frozen features, with rows that the script draws itself."""

from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

tokenizer = AutoTokenizer.from_pretrained("hfl/rbt3")
rows = load_dataset("json", data_files="../rows/ratings.jsonl", split="train")
rows = rows.filter(lambda row: len(row["text"]) > 1).select(range(2))
rows = rows.train_test_split(0.5, seed=3)
rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=64), batched=True)
rows = rows.rename_column("score", "label")

model = AutoModelForSequenceClassification.from_pretrained("hfl/rbt3", num_labels=1, problem_type="regression")
for parameter in model.base_model.parameters():
    parameter.requires_grad = False

trainer = Trainer(
    model=model,
    args=TrainingArguments(output_dir="out", lr_scheduler_type="cosine", optim="adamw_torch", weight_decay=0.01),
    data_collator=DataCollatorWithPadding(tokenizer),
    train_dataset=rows["train"],
    eval_dataset=rows["test"],
)
trainer.train()
