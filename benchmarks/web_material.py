"""Run folders for the pages to show: one finished run made in a moment, its copies as links, and long events."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

CHARACTERS = "很好看的书质量不太差喜欢孩酒店又脏服务快慢推荐啊真值得买"


def model(folder: Path) -> Path:
    """A random encoder of two layers, with a tokenizer of single characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    if (folder / "config.json").exists():
        return folder
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(CHARACTERS))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **special).save_pretrained(folder)
    return folder


def rows(path: Path) -> Path:
    """128 short labelled texts."""
    if not path.exists():
        found = []
        for i in range(128):
            text = "".join(CHARACTERS[(i * 7 + j * (i % 5 + 1)) % len(CHARACTERS)] for j in range(6 + i % 5))
            found.append({"text": f"{text}{i}", "label": "good" if i % 2 else "bad"})
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return path


def base(scratch: Path) -> list[str]:
    """The options of every run here."""
    place = scratch / "web"
    place.mkdir(parents=True, exist_ok=True)
    data = [f"data.train={rows(place / 'rows.jsonl')}", "data.test_size=32", "data.near_duplicates=off"]
    train = ["train.max_steps=40", "train.tokens_per_batch=96", "train.logging_steps=2", "train.bf16=false"]
    return [f"model={model(place / 'model')}", *data, *train]


def finished(scratch: Path) -> Path:
    """One finished run of `weitiao train`, made once."""
    return _made(scratch, "finished", "train", "method.type=lora")


def comparison(scratch: Path) -> Path:
    """One finished comparison of `weitiao compare`, made once."""
    return _made(scratch, "comparison", "compare", "compare.seeds=[1,2,3]")


def _made(scratch: Path, name: str, command: str, *words: str) -> Path:
    import sys

    import record

    folder = scratch / "web" / name
    if not (folder / "DONE").exists() and not (folder / "evidence.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        whole = [sys.executable, "-m", "weitiao", command, *base(scratch), *words, f"output.dir={folder}", "--json"]
        record.last_json([*whole])
    return folder


def copies(run: Path, root: Path, count: int) -> list[Path]:
    """``count`` runs whose files are links to those of one."""
    found = []
    for number in range(count):
        to = root / f"run-{number:04d}"
        found.append(to)
        if not (to / "DONE").exists():
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(run, to, copy_function=os.link)
    return found


def long_events(run: Path, points: int) -> list[dict[str, Any]]:
    """The events of a run with ``points`` steps logged instead of its own."""
    known = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    log = next(event for event in known if event["event"] == "log")
    before = [event for event in known if event["event"] in ("stage", "train")]
    for event in before:
        if event["event"] == "train":
            event["total_steps"] = points
    began = max(event["seconds"] for event in before)
    steps = [
        {**log, "step": i, "seconds": began + i / 10, "num_tokens": 90 * i, "loss": 0.7 * 0.9995**i + 0.01 * (i % 7)}
        for i in range(1, points + 1)
    ]
    return [*before, *steps, *(event for event in known if event["event"] in ("eval", "done"))]


def write_events(path: Path, events: list[dict[str, Any]]) -> None:
    """Under a new name first: the old file may be a link that other runs share."""
    aside = path.with_suffix(".new")
    aside.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    aside.replace(path)
