"""The same seed in two processes gives the same bits, and train.deterministic holds for the run alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import weitiao
from conftest import Tally
from support.fork_server import ForkServer
from weitiao.catalogue.download import sha256_of


@pytest.mark.beyond_check
@pytest.mark.fault("the same run in two processes: the same sha256")
@pytest.mark.parametrize(
    ("method", "deterministic"),
    [
        ("full", False),
        ("lora", True),
        pytest.param("full", True, marks=pytest.mark.beyond_test),
        pytest.param("lora", False, marks=pytest.mark.beyond_test),
    ],
)
def test_twice_the_same(
    method: str, deterministic: bool, options: dict[str, Any], tmp_path: Path, tally: Tally, fork_server: ForkServer
) -> None:
    train = {**options["train"], "bf16": "auto", "dropout": 0.1, "learning_rate": 1e-3, "deterministic": deterministic}
    hashes = []
    for i, seed in enumerate((42, 42, 43)):
        run = tmp_path / str(i)
        config = {**options, "method": {"type": method}, "train": {**train, "seed": seed}, "output": {"dir": str(run)}}
        (tmp_path / f"{i}.yaml").write_text(yaml.safe_dump(config))
        ended = fork_server.run("train", str(tmp_path / f"{i}.yaml"))
        assert ended.returncode == 0, ended.stderr
        name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
        hashes.append(sha256_of(run / "model" / name))
    tally.tried = 1
    assert hashes[0] == hashes[1] != hashes[2]
    tally.survived = 1


@pytest.mark.parametrize("wanted", [False, True])
def test_torch_is_told_and_put_back(wanted: bool, options: dict[str, Any]) -> None:
    seen = set()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "log":
            seen.add(torch.are_deterministic_algorithms_enabled())

    weitiao.train({**options, "train": {**options["train"], "deterministic": wanted}}, listener=listen)
    assert seen == {wanted}
    assert not torch.are_deterministic_algorithms_enabled()
