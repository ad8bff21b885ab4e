"""train.bf16=auto: what is faster here by measurement, the same in every cell of a comparison and after a stop."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import weitiao
from weitiao.measure import rates
from weitiao.pretrained.place import place
from weitiao.pretrained.resolve import bf16_support, resolve, tf32_problem
from weitiao.rundir.folder import RunDir

needs_bf16 = pytest.mark.skipif(not bf16_support("cpu")[0], reason="no bf16 on this CPU")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides otherwise")
FASTER = {"float32": (1e11, 3e11), "bfloat16": (1e12, 3e11)}  # (bf16, fp32) products a second


@needs_bf16
@on_cpu
@pytest.mark.parametrize(
    ("measured", "dtype"), [*((found, dtype) for dtype, found in FASTER.items()), ((1e11, 1.1e11), "bfloat16")]
)
def test_the_faster_dtype_is_taken(measured: tuple[float, float], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lead of a tenth does not outweigh half the memory."""
    monkeypatch.setattr(rates, "product_rates", lambda: measured)
    resolved = resolve("auto", "auto")
    assert resolved.dtype == dtype
    assert resolved.reasons["dtype"].startswith(dtype)
    assert f"{measured[1] / 1e9:.0f}" in resolved.reasons["dtype"]
    assert resolve("bfloat16", "auto").dtype == "bfloat16"
    assert resolve("float32", "auto").dtype == "float32"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16")]
)
def test_a_gpu_without_bf16_computes_in_float16(
    capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Volta on, whose tensor cores take it; a GPU's answers are put in torch's place."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    found = resolve("auto", "auto")
    assert (found.device, found.dtype) == ("cuda", dtype)
    assert found.reasons["dtype"].startswith(dtype)
    if dtype == "float16":
        assert f"compute capability {capability[0]}.{capability[1]}" in found.reasons["dtype"]
    assert resolve("float32", "auto").dtype == "float32"
    assert (tf32_problem("cuda") is None) == (capability >= (8, 0))


@on_cpu
def test_a_cpu_computes_in_float16_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("auto", "auto").dtype != "float16"
    found = resolve("float16", "auto")
    assert (found.dtype, found.reasons["dtype"]) == (
        "float16",
        "float16: asked for, and not measured on cpu: for tests",
    )
    assert tf32_problem("cpu") == "the run computes on cpu"


def test_rates_are_those_of_real_products() -> None:
    threads = torch.get_num_threads()
    bf16, fp32 = rates.product_rates.__wrapped__()  # not what an earlier test kept
    assert torch.get_num_threads() == threads
    assert 1e8 < bf16 < 1e15
    assert 1e8 < fp32 < 1e15


@needs_bf16
@on_cpu
@pytest.mark.parametrize("began", ["float32", "bfloat16"])
def test_a_run_goes_on_in_the_dtype_it_began_in(
    began: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop_at_five(event: dict[str, Any]) -> None:
        if event.get("step") == 5:
            raise Stop

    options["train"] |= {"bf16": "auto", "save_steps": 3}
    monkeypatch.setattr(rates, "product_rates", lambda: FASTER[began])
    with pytest.raises(Stop):
        weitiao.train(options, listener=stop_at_five)
    other = next(dtype for dtype in FASTER if dtype != began)
    monkeypatch.setattr(rates, "product_rates", lambda: FASTER[other])
    finished = weitiao.train(resume=options["output"]["dir"])
    assert finished.summary["dtype"] == began
    assert finished.read_json("environment.json")["resolved"]["dtype"].startswith(began)


@needs_bf16
@on_cpu
@pytest.mark.beyond_check
def test_a_comparison_has_one_dtype(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided once, before the first cell; a cell that is run again later is as the others are."""
    asked = {k: v for k, v in options.items() if k != "method"} | {"output": {"dir": str(tmp_path / "cmp")}}
    asked["train"] = {**options["train"], "bf16": "auto", "max_steps": 2}
    asked["compare"] = {"methods": ["full", "lora"]}
    monkeypatch.setattr(rates, "product_rates", lambda: FASTER["bfloat16"])
    first = weitiao.compare(asked)
    (tmp_path / "cmp" / "cells" / "lora-seed42" / "DONE").unlink()
    monkeypatch.setattr(rates, "product_rates", lambda: FASTER["float32"])
    again = weitiao.compare(asked)
    for result in (first, again):
        runs = [RunDir(Path(cell["run_dir"])) for cell in result["cells"]]
        assert [run.summary["dtype"] for run in runs] == ["bfloat16", "bfloat16"]
        assert [run.config.train.bf16 for run in runs] == [True, True]  # left open, each cell would measure for itself
    assert yaml.safe_load((tmp_path / "cmp" / "compare.yaml").read_text())["train"]["bf16"] == "auto"


def test_fp32_weights_leave_their_file() -> None:
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    mapped = layer.weight.data_ptr()
    place(layer, "float32")
    assert layer.weight.data_ptr() != mapped
    assert layer.weight.dtype == torch.float32
