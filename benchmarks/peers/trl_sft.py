"""A peer: TRL's SFTTrainer, packed, in bf16 or fp32, with peft for LoRA, on rows of {"instruction", "input", "output"}.

Loss on the answers alone (completion_only_loss), gradient checkpointing off: TRL turns it on, and it costs speed.
With --held, rows that are scored every few steps by the same masks as ours. Prints one JSON line.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
import transformers
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from weitiao.data.chat import Chat
from weitiao.measure.meters import peak_memory_bytes  # the meter of both sides: VmHWM


class Clock(transformers.TrainerCallback):
    """Seconds of the steps after the warm-up ones."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started, self.seconds = warmup, 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == self.warmup:
            self.started = time.perf_counter()
        elif state.global_step > self.warmup:
            self.seconds = time.perf_counter() - self.started


class Score(transformers.TrainerCallback):
    """Nats a learnt token of held-out rows, every few steps: [step, log_loss]."""

    def __init__(self, rows: list[dict[str, Any]], every: int, chat: Chat) -> None:
        self.rows = chat.tokens([row["prompt"] + row["completion"] for row in rows])
        self.every, self.curve = every, list[tuple[int, float]]()

    def on_step_end(self, args, state, control, model, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step % self.every == 0:
            self.curve.append((state.global_step, self.log_loss(model)))

    @torch.no_grad()
    def log_loss(self, model) -> float:  # type: ignore[no-untyped-def]
        model.eval()
        total, count = 0.0, 0
        for ids, learnt in self.rows:
            batch = torch.tensor([ids])
            targets = torch.where(torch.tensor([learnt]), batch, -100)[0, 1:]
            logits = model(input_ids=batch).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            count += int((targets >= 0).sum())
        model.train()
        return total / count


def read(path: str) -> list[dict[str, Any]]:
    return [conversation(json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def conversation(row: dict[str, str]) -> dict[str, Any]:
    question = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--method", choices=["full", "lora"], required=True)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--held")
    parser.add_argument("--score-every", type=int, default=4)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--warmup-steps", type=int, default=1)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    arguments = SFTConfig(
        output_dir=options.output,
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        max_length=options.max_length,
        packing=True,
        completion_only_loss=True,
        gradient_checkpointing=False,
        learning_rate=options.learning_rate or (5e-4 if options.method == "lora" else 5e-5),
        seed=options.seed,
        bf16=options.precision == "bf16",
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    clock = Clock(options.warmup_steps)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    score = Score(read(options.held), options.score_every, Chat.of(tokenizer, None)) if options.held else None
    trainer = SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(read(options.train)),
        processing_class=tokenizer,
        peft_config=adapter if options.method == "lora" else None,
        callbacks=[clock, *([score] if score else [])],
    )
    collator = trainer.data_collator
    seen = {"batches": 0, "tokens": 0, "supervised": 0}

    def collate(batch):  # type: ignore[no-untyped-def]
        made = collator(batch)
        seen["batches"] += 1
        if options.warmup_steps < seen["batches"] <= options.steps:
            real = made["attention_mask"].sum() if "attention_mask" in made else made["input_ids"].numel()
            seen["tokens"] += int(real)
            seen["supervised"] += int((made["labels"] != -100).sum())
        return made

    trainer.data_collator = collate
    trainer.train()
    print(
        json.dumps(
            {
                "tokens_per_s": seen["tokens"] / clock.seconds,
                "supervised_tokens_per_s": seen["supervised"] / clock.seconds,
                "seconds": clock.seconds,
                "peak_memory_bytes": peak_memory_bytes(),
                **({"curve": score.curve} if score else {}),
            }
        )
    )


if __name__ == "__main__":
    main()
