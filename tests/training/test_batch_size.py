"""What a batch may hold, and what happens when it holds too much or something that is not a number."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import write_jsonl
from weitiao import train
from weitiao.data.batch import BatchPlan
from weitiao.data.encode import Encoded
from weitiao.errors import RunError
from weitiao.training.schedule import EpochSchedule


def config(folder: Path, model: Path, rows: Path, **options: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "data": {"train": str(rows), "test_size": 0.25},
        "train": {"bf16": False, "num_train_epochs": 1, "tokens_per_batch": 80, "logging_steps": 1, **options},
        "output": {"dir": str(folder)},
    }


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_cut_batches_keep_the_rows_of_every_step(parts: int) -> None:
    encoded = Encoded.of([[1] * (3 + i % 5) for i in range(40)])
    whole, cut = (EpochSchedule(encoded, BatchPlan(30), 0, 2, 2, parts=n) for n in (1, parts))
    assert whole.total_steps() == cut.total_steps()
    for a, b in zip(whole.steps(), cut.steps(), strict=True):
        assert [i for batch in a.batches for i in batch] == [i for batch in b.batches for i in batch]
        assert max(map(len, b.batches)) <= -(-max(map(len, a.batches)) // parts)


def test_auto_token_budget(tiny_model: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="weitiao"):
        run = train(config(tmp_path / "run", tiny_model, rows_file, tokens_per_batch="auto"))
    reason = next(m for m in caplog.messages if m.startswith("tokens_per_batch="))
    assert "(auto): 256: " in reason
    assert "tokens/s" in reason
    assert run.summary["metrics"]["num_rows"] == 16


_LIMITED = """
import resource, sys
import torch, transformers, peft
from weitiao import train
def limit(event):
    message = event.get("message", "")
    if message.startswith("loading"):
        room = int(open("/proc/self/statm").read().split()[0]) * 4096 + 2_500_000_000
        resource.setrlimit(resource.RLIMIT_AS, (room, -1))
    if message.startswith("evaluating"):  # a second model is loaded then
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
train({"model": sys.argv[1], "data": {"train": sys.argv[2], "test_size": 0.1}, "method": {"type": "lora"},
       "train": {"bf16": False, "max_steps": 1, "tokens_per_batch": 40000, "eval_tokens_per_batch": 512,
                 "eval_strategy": "no", "auto_batch": sys.argv[4] == "yes", "attention": "eager"},
       "output": {"dir": sys.argv[3]}}, listener=limit)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory through RLIMIT_AS")
@pytest.mark.beyond_test
@pytest.mark.fault("memory runs out: refused before step 1, or the batch cut and the step kept")
def test_out_of_memory_halves_the_batch_and_keeps_the_step(e5: Path, tmp_path: Path) -> None:
    """A real limit on the address space: refused without auto_batch, trained with it, all rows in the one step."""
    rows = write_jsonl(
        tmp_path / "rows.jsonl",
        [{"text": f"第{i}本" + "书很好看" * 40 + "差" * (i % 3), "label": "ab"[i % 2]} for i in range(100)],
    )
    outcomes = {}
    for auto in ("no", "yes"):
        command = [sys.executable, "-c", _LIMITED, str(e5), str(rows), str(tmp_path / auto), auto]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        outcomes[auto] = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert outcomes["no"].returncode != 0
    assert "does not fit into memory" in outcomes["no"].stderr
    assert outcomes["yes"].returncode == 0, outcomes["yes"].stderr[-2000:]
    summary = json.loads((tmp_path / "yes" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 1


@pytest.fixture
def poisoned(tiny_model: Path, tmp_path: Path) -> tuple[Path, str]:
    """A model in which one character's vector is not a number, and the character."""
    import shutil

    folder = tmp_path / "poisoned"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    name = next(name for name in tensors if "word_embeddings" in name)
    tensors[name][vocabulary["净"]] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, "净"


def rows_with(character: str, path: Path) -> Path:
    rows = [{"id": f"row{i}", "text": "很好看的书" + "真的" * (i % 4) + "啊" * (i // 4), "label": "ab"[i % 2]} for i in range(60)]  # fmt: skip
    rows[7]["text"] += character
    return write_jsonl(path, rows)


def clean(path: Path) -> Path:
    return write_jsonl(path, [{"text": "太差了" + "啊" * i, "label": "ab"[i % 2]} for i in range(8)])


@pytest.mark.fault("a loss that is no number: stopped with its rows named, or left out and counted")
def test_a_loss_that_is_no_number_stops_and_names_the_rows(poisoned: tuple[Path, str], tmp_path: Path) -> None:
    model, character = poisoned
    rows = rows_with(character, tmp_path / "rows.jsonl")
    options = config(tmp_path / "run", model, rows)
    options["data"] |= {"eval": str(clean(tmp_path / "eval.jsonl")), "near_duplicates": "off"}
    with pytest.raises(RunError, match=r"not a finite number at step \d+, rows (\S+, )*rows\.jsonl:8(?!\d)"):
        train(options)


@pytest.mark.fault("a loss that is no number: stopped with its rows named, or left out and counted")
def test_such_a_step_can_be_left_out(poisoned: tuple[Path, str], tmp_path: Path) -> None:
    model, character = poisoned
    options = config(tmp_path / "run", model, rows_with(character, tmp_path / "rows.jsonl"), non_finite="skip")
    options["data"] |= {"eval": str(clean(tmp_path / "eval.jsonl")), "near_duplicates": "off"}
    run = train(options)
    assert run.summary["skipped_steps"] == 1
    (skipped,) = events(run.path, "skipped")
    assert "rows.jsonl:8" in skipped["rows"]
    name, tensor = next((n, t) for n, t in load_file(run.model / "model.safetensors").items() if "word_embeddings" in n)
    assert int(torch.isnan(tensor).any(dim=1).sum()) == 1, f"{name}: only the poisoned vector is not a number"
