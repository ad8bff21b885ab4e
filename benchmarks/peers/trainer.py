"""A peer: transformers' Trainer, with peft for LoRA, on rows of {"text", "label"}. Prints one JSON line.

B0, the recipe of most articles, to the letter: --padding max --precision fp32 --batch 8
B1, every flag that the Trainer has for speed:   --padding group --precision bf16 --batch 16
group_by_length sorts a part of the rows and starts with its longest, so steps must cover whole parts to be typical.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

from weitiao.measure.meters import peak_memory_bytes  # the meter of both sides: VmHWM


class Clock(transformers.TrainerCallback):
    """Seconds of the steps after the warm-up ones, and this process's CPU time in them."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started, self.seconds = warmup, 0.0, 0.0
        self.cpu_started, self.cpu_seconds = 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == self.warmup:
            self.started, self.cpu_started = time.perf_counter(), time.process_time()
        elif state.global_step > self.warmup:
            self.seconds = time.perf_counter() - self.started
            self.cpu_seconds = time.process_time() - self.cpu_started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--method", choices=["full", "lora"], required=True)
    parser.add_argument("--padding", choices=["max", "group"], required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup-steps", type=int, default=1)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    rows = [json.loads(line) for line in Path(options.train).read_text(encoding="utf-8").splitlines()]
    names = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    padding = "max_length" if options.padding == "max" else False
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=512, padding=padding)
    data = [
        {"input_ids": ids, "attention_mask": mask, "labels": names.index(row["label"])}
        for ids, mask, row in zip(encoded["input_ids"], encoded["attention_mask"], rows, strict=True)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names))
    if options.method == "lora":
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(
            r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.1, task_type="SEQ_CLS"
        )
        model = get_peft_model(model, adapter)
    arguments = transformers.TrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=1e-3 if options.method == "lora" else 5e-5,
        bf16=options.precision == "bf16",
        train_sampling_strategy="group_by_length" if options.padding == "group" else "random",
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    clock = Clock(options.warmup_steps)
    collator = DataCollatorWithPadding(tokenizer)
    seen = {"rows": 0, "tokens": 0, "batches": 0}

    def collate(batch):  # type: ignore[no-untyped-def]
        seen["batches"] += 1
        if options.warmup_steps < seen["batches"] <= options.steps:
            seen["rows"] += len(batch)
            seen["tokens"] += sum(sum(row["attention_mask"]) for row in batch)
        return collator(batch)

    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[clock])  # type: ignore[arg-type]
    trainer.train()
    print(
        json.dumps(
            {
                "samples_per_s": seen["rows"] / clock.seconds,
                "tokens_per_s": seen["tokens"] / clock.seconds,
                "seconds": clock.seconds,
                "cpu_seconds": clock.cpu_seconds,
                "rows": seen["rows"],
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )
    )


if __name__ == "__main__":
    main()
