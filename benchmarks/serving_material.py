"""Runs to serve: a few that are trained, and many made of one of them, with random adapters and heads of their own sizes."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import material

STEPS = 20


def trained(scratch: Path, name: str, *words: str) -> Path:
    """A short run of weitiao train, made once."""
    import record

    folder = scratch / "serving" / name
    if not (folder / "DONE").exists():
        shutil.rmtree(folder, ignore_errors=True)
        common = [
            f"train.max_steps={STEPS}",
            "train.eval_strategy=no",
            "data.check=warn",
            f"output.dir={folder}",
            "--json",
        ]
        record.last_json([os.sys.executable, "-m", "weitiao", "train", *words, *common])
    return folder


def reviews(scratch: Path, model: str = material.E5, name: str = "reviews", *words: str) -> Path:
    place = material.model_path(model, scratch)
    rows = [f"data.train={material.reviews(scratch, 600)}", f"data.eval={material.held_out(scratch)}"]
    return trained(scratch, name, f"model={place}", "method.type=lora", *rows, *words)


def entities(scratch: Path) -> Path:
    words = [
        "model=multilingual-e5-small",
        "task=token_classification",
        "method.type=lora",
        "data.train=peoples-daily-ner",
    ]
    return trained(scratch, "ner", *words, "data.train_size=300", "data.test_size=50")


def numbers(scratch: Path) -> Path:
    """Stars by the label of a review, so that something can be learnt."""
    rows = [json.loads(line) for line in material.reviews(scratch, 600).read_text(encoding="utf-8").splitlines()]
    labels = sorted({row["label"] for row in rows})
    path = material.write_jsonl(
        scratch / "stars.jsonl", [{"text": row["text"], "label": 1.0 + 4 * labels.index(row["label"])} for row in rows]
    )
    words = ["model=multilingual-e5-small", "task=regression", "method.type=lora"]
    return trained(scratch, "stars", *words, f"data.train={path}", "data.test_size=50")


def chats(scratch: Path) -> Path:
    words = [f"model={material.SMOLLM}", "task=causal_lm", "method.type=lora", "data.train=chatterbot-zh"]
    return trained(scratch, "chat", *words, "data.test_size=20", "train.generate_rows=0", "train.tokens_per_batch=512")


def many(run: Path, folder: Path, count: int, labels: tuple[int, int]) -> list[Path]:
    """``count`` runs like one of LoRA with a classifier, of so many labels each; files that do not differ are links."""
    import torch
    from safetensors.torch import load_file, save_file

    chance = random.Random(5)
    state = load_file(run / "model" / "adapter_model.safetensors")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    made = []
    for number in range(count):
        to = folder / f"a{number:04d}"
        made.append(to)
        if (to / "DONE").exists():
            continue
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(run, to, copy_function=os.link)
        size = chance.randint(*labels)
        torch.manual_seed(number)
        own = {name: _like(name, value, size, len(summary["label_names"])) for name, value in state.items()}
        for name, write in (
            ("model/adapter_model.safetensors", lambda path, own=own: save_file(own, path)),
            ("summary.json", lambda path, size=size: path.write_text(_named(summary, size), encoding="utf-8")),
        ):
            (to / name).unlink()
            write(to / name)
    return made


def _like(name: str, value: Any, size: int, before: int) -> Any:
    import torch

    is_last = ("classifier" in name or "score" in name) and value.shape[0] == before
    shape = (size, *value.shape[1:]) if is_last else value.shape
    return torch.randn(shape) * 0.02


def _named(summary: dict[str, Any], size: int) -> str:
    return json.dumps({**summary, "label_names": [f"label{i}" for i in range(size)]}, ensure_ascii=False)
