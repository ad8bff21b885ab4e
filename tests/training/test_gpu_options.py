"""What needs a GPU is refused without one, before anything is trained; torch.compile trains the same model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from weitiao.errors import WeitiaoError

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is refused")


@NO_GPU
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"attention": "flash_attention_2"}, "train.attention=flash_attention_2, and the run is on "),
        ({"liger": True}, "train.liger=true, and the run is on "),
    ],
)
def test_without_a_gpu_its_options_are_refused(option: dict[str, Any], said: str, options: dict[str, Any]) -> None:
    options["train"] |= option
    with pytest.raises(WeitiaoError, match=said):
        weitiao.train(options)
    assert not Path(options["output"]["dir"]).exists()


@pytest.mark.beyond_test
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_training_has_the_same_losses(options: dict[str, Any], tmp_path: Path) -> None:
    """With LoRA, whose layers are our own autograd function; compiling takes most of a minute."""
    losses = []
    for compiled in (False, True):
        seen: list[float] = []
        options["method"] = {"type": "lora"}
        options["train"] |= {"compile": compiled, "max_steps": 2, "eval_strategy": "no"}
        options["output"] = {"dir": str(tmp_path / str(compiled))}
        weitiao.train(options, listener=lambda e, seen=seen: seen.append(e["loss"]) if e["event"] == "log" else None)  # type: ignore[misc]
        losses.append(seen)
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
