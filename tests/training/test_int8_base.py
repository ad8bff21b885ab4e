"""LoRA on a base in int8: channels that stay apart, the same packing in a resumed run, rows that are streamed."""

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import weitiao
from weitiao.errors import ConfigError
from weitiao.kernels import int8
from weitiao.kernels.lora import fuse_lora

pytestmark = pytest.mark.skipif(not int8.is_supported(), reason="this CPU or this torch has no int8 product")


class Stop(Exception):
    """Ends a run from inside."""


def layers(size: int = 256) -> nn.Module:
    torch.manual_seed(0)
    net = nn.ModuleDict({name: nn.Linear(size, 128) for name in ("query", "key", "value")})
    return peft.get_peft_model(net, peft.LoraConfig(r=8, target_modules=list(net), init_lora_weights=False))


def outputs(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([net.base_model.model[name](x) for name in ("query", "key", "value")], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_channels_do_not_take_the_steps_of_the_others(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in real encoders: a few channels are thirty times as large as the others, in every token."""
    x = torch.randn(64, 256)
    x[:, [3, 70, 201]] *= 30
    exact = outputs(layers(), x).detach()
    errors = {}
    for channels in (0, 8):
        monkeypatch.setattr(int8, "CHANNELS", channels)
        net = layers().to(dtype)
        assert fuse_lora(net, "int8", dtype) == (3, 0)
        errors[channels] = float((outputs(net, x.to(dtype)).detach() - exact).norm() / exact.norm())
    assert errors[8] < 0.5 * errors[0]
    assert errors[8] < 0.01


def test_an_input_is_quantised_once_for_all_layers_that_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    kept = int8.quantise
    monkeypatch.setattr(
        "weitiao.kernels.lora.quantise", lambda x, c=None: calls.append(tuple(c.tolist())) or kept(x, c)
    )
    net = layers()
    fuse_lora(net, "int8", torch.float32)
    first, second = torch.randn(16, 256), torch.randn(16, 256) * 9
    with torch.no_grad():
        for x in (first, second, first):
            outputs(net, x)
    assert len(calls) == 3
    assert len(set(calls)) == 1  # chosen with the first input, and kept
    assert set(calls[0]) == set(int8.largest_channels(first).tolist())


@pytest.mark.parametrize("streams", [False, True])
def test_a_resumed_run_packs_as_the_first_one_did(
    streams: bool, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    kept = int8.largest_channels
    monkeypatch.setattr("weitiao.kernels.lora.largest_channels", lambda x: seen.append(x.clone()) or kept(x))
    train = {**options["train"], "int8_base": True, "save_steps": 3, "max_steps": 9, "eval_strategy": "no"}
    lines = Path(options["data"]["train"]).read_text(encoding="utf-8").splitlines(keepends=True)
    for name, own in (("train", lines[16:]), ("held", lines[:16])):
        (tmp_path / f"{name}.jsonl").write_text("".join(own), encoding="utf-8")
    data = {"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "held.jsonl"), "streaming": streams}
    case = {**options, "method": {"type": "lora", "r": 4}, "train": train, "data": data}

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == 5:
            raise Stop

    whole = weitiao.train({**case, "output": {"dir": str(tmp_path / "whole")}})
    with pytest.raises(Stop):
        weitiao.train({**case, "output": {"dir": str(tmp_path / "cut")}}, listener=stop)
    weitiao.train(resume=tmp_path / "cut")
    a, b = (load_file(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole.summary["steps"] == 9
    assert len(seen) % 3 == 0
    runs = [
        seen[i :: len(seen) // 3] for i in range(len(seen) // 3)
    ]  # of each layer: the whole run, the cut one, the resumed one
    assert all(torch.equal(first, again) for first, *others in runs for again in others)
    assert {x.shape[0] for x in seen} == {64 if len(seen[0]) < 512 else 512}  # no batch of the run


def test_a_model_with_few_positions(options: dict[str, Any], tmp_path: Path) -> None:
    """Fewer than the tokens of the rows that the base is packed with."""
    from transformers import BertConfig, BertModel

    folder = Path(shutil.copytree(options["model"], tmp_path / "short"))
    config = BertConfig.from_pretrained(folder, max_position_embeddings=32)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    train = {**options["train"], "int8_base": True, "max_steps": 2}
    data = {**options["data"], "max_length": 32}
    run = weitiao.train({**options, "model": str(folder), "data": data, "method": {"type": "lora"}, "train": train})
    assert run.summary["steps"] == 2


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ({"type": "lora", "use_dora": True}, "method.use_dora=true"),
        ({"type": "lora", "lora_dropout": 0.1}, "method.lora_dropout=0.1"),
        ({"type": "lora", "bias": "lora_only"}, "method.bias=lora_only"),
        ({"type": "adalora"}, "method.type=adalora"),
        ({"type": "full"}, "method.type=full"),
        ({"type": "lora", "target_modules": ["word_embeddings"]}, "none of the 1 adapted layers is a plain linear one"),
    ],
)
def test_what_would_stay_as_it_is_is_refused(method: dict[str, Any], named: str, options: dict[str, Any]) -> None:
    """The option would change nothing, and the run would be said to have a base in int8."""
    with pytest.raises(ConfigError, match=named):
        weitiao.train({**options, "method": method, "train": {**options["train"], "int8_base": True}})
