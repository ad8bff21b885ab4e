"""Full fine-tuning on named entities, in a script with arguments, a collator and metrics of its own."""

import argparse

import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default="out")
    given = parser.parse_args()
    names = ["O", "B-LOC", "I-LOC"]
    tokenizer = AutoTokenizer.from_pretrained("intfloat/multilingual-e5-small")
    collator = DataCollatorForTokenClassification(tokenizer)

    def align(rows):
        return tokenizer(rows["tokens"], truncation=True, is_split_into_words=True)

    model = AutoModelForTokenClassification.from_pretrained(
        "intfloat/multilingual-e5-small", num_labels=len(names), ignore_mismatched_sizes=True
    )
    args = TrainingArguments(
        given.output,
        learning_rate=3e-5,
        fp16=torch.cuda.is_available(),
        warmup_ratio=0.1,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        report_to="none",
        seed=7,
    )
    trainer = Trainer(
        model,
        args,
        data_collator=collator,
        compute_metrics=lambda found: {},
        callbacks=[EarlyStoppingCallback(early_stopping_patience=3)],
    )
    trainer.train()


main()
