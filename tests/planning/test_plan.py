"""The plan against what runs do: counts and storage exactly, memory's parts, and what it says when a device is too small."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import weitiao
from weitiao.config.method import FullConfig, LoraConfig
from weitiao.config.method_names import name_of
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.kernels.attention import ShortAttention
from weitiao.kernels.lora import FusedForward, LoraLinearFunction
from weitiao.measure import devices
from weitiao.measure.cost import Rates, safetensors_bytes, step_cost
from weitiao.planning.blueprint import Blueprint, draw
from weitiao.planning.estimate import HOLES_SHARE, HOLES_TO_COME, Memory, measured_memory, seconds_of, trace_shapes
from weitiao.planning.plan import plan_errors
from weitiao.planning.rows import batches_of, read_inputs
from weitiao.training.world import World

RATES = Rates(1e9, 1e9, 1e9, 1e9, 1e9, 2e9, 0.0)
# More methods: tests/methods/test_methods.py.
VARIANTS = {
    "full-top1": {"type": "full", "top_k": 1},
    "lora-top1": {"type": "lora", "top_k": 1},
    "lora-bias": {"type": "lora", "bias": "all"},
}
TRAIN = {"dense": {"sparse_embedding": False}, "dropout": {"dropout": "model"}, "whole": {"first_token": False}}


@pytest.mark.parametrize("name", [*VARIANTS, *TRAIN])
def test_counts_and_storage_are_those_of_the_run(name: str, options: dict[str, Any]) -> None:
    """plan.json is written before step 1; summary.json counts the trained model and the files."""
    changed = {"method": VARIANTS.get(name, {"type": "full"}), "train": {**options["train"], **TRAIN.get(name, {})}}
    run = weitiao.train({**options, **changed})
    planned, summary = run.read_json("plan.json")["methods"][0], run.summary
    for key in ("num_params", "num_trainable_params", "trainable_percent", "steps"):
        assert planned[key] == summary[key], key
    assert planned["artifact_bytes"] == pytest.approx(summary["artifact_bytes"], rel=0.01)
    assert summary["plan_error"]["storage"] == pytest.approx(0, abs=0.01)
    assert all(isinstance(summary["plan_error"][key], float) for key in ("memory", "time"))


def test_int8_base_is_planned(options: dict[str, Any]) -> None:
    from weitiao.kernels.int8 import is_supported

    if not is_supported():
        pytest.skip("this CPU or this torch has no int8 product")
    train = {**options["train"], "int8_base": True}
    config = RunConfig.model_validate({**options, "method": {"type": "lora"}, "train": train})
    blueprint = draw(config, read_inputs(config))
    assert len(blueprint.int8_weights) == 2 * 6  # query, key, value, two outputs and the way up, in two layers
    both = blueprint.cost(8, 12).both
    slow, fast = (both.seconds(dataclasses.replace(RATES, int8_gemm_flops_per_s=r)) for r in (1e6, 1e12))
    assert slow > 2 * fast
    run = weitiao.train(config)
    assert run.read_json("plan.json")["methods"][0]["num_trainable_params"] == run.summary["num_trainable_params"]


def test_packed_weights_and_projected_moments_are_planned(options: dict[str, Any]) -> None:
    """The plan's frozen bytes fall by what NF4 spares; its moments are those that the optimizer of a run holds."""

    def drawn(method: dict[str, Any]) -> Blueprint:
        config = RunConfig.model_validate({**options, "method": method})
        return draw(config, read_inputs(config))

    plain, packed = drawn({"type": "lora"}), drawn({"type": "qlora"})
    counts = [f.base.in_features * f.base.out_features for f in fused_of(plain)]
    assert len(counts) == len(list(fused_of(packed))) == 2 * 6
    assert plain.frozen_bytes - packed.frozen_bytes == sum(plain.dtype.itemsize * n - n // 2 - n // 64 for n in counts)
    for drawn_one in (plain, packed):
        most = max(p.numel() for p in plain.model.parameters() if not p.requires_grad) * plain.dtype.itemsize
        assert drawn_one.placing.frozen <= drawn_one.placing.frozen_peak <= drawn_one.placing.frozen + most
    assert packed.placing.frozen_peak < plain.placing.frozen

    train = {**options["train"], "max_steps": 2, "save_steps": 2}
    run = weitiao.train({**options, "method": {"type": "galore", "galore_rank": 4}, "train": train})
    (moments,) = run.checkpoints.glob("step-2/optimizer.safetensors")
    held = sum(t.numel() * t.element_size() for key, t in load_file(moments).items() if not key.endswith("|step"))
    assert drawn({"type": "galore", "galore_rank": 4}).moment_bytes == held


def test_a_table_is_planned_where_it_stays_in_memory(
    options: dict[str, Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its file, where that is fp32 and the system lets pages go; else the whole of it is held."""
    from transformers import AutoModel, AutoTokenizer

    half = tmp_path / "half"
    model = AutoModel.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(half)
    table = 4 * model.get_input_embeddings().weight.numel()

    def weights(checkpoint: Path) -> int:
        (planned,) = weitiao.plan({**options, "model": str(checkpoint)}, methods=["full"])["methods"]
        return int(planned["memory_bytes"]["weights"])

    monkeypatch.setattr("weitiao.planning.estimate.can_let_go", lambda: True)
    in_its_file = weights(tiny_model)
    assert weights(half) - in_its_file == table
    monkeypatch.setattr("weitiao.planning.estimate.can_let_go", lambda: False)
    assert weights(tiny_model) - in_its_file == table


def test_a_method_is_planned_by_its_own_name_and_options(options: dict[str, Any]) -> None:
    """GaLore stands beside full fine-tuning, not in its place."""
    galore = {**options, "method": {"type": "galore", "galore_rank": 4}}
    planned = weitiao.plan(galore)["methods"]
    assert [m["name"] for m in planned] == ["full", "lora", "galore"]
    assert planned[2]["memory_bytes"]["optimizer"] < planned[0]["memory_bytes"]["optimizer"]
    (alone,) = weitiao.plan(galore, methods=["galore"])["methods"]
    assert alone["memory_bytes"]["optimizer"] == planned[2]["memory_bytes"]["optimizer"]
    names = {
        "full": {}, "head-only": {"top_k": 0}, "top-k": {"top_k": 1}, "bitfit": {"parameters": "bias"},
        "lisa": {"lisa_layers": 3}, "galore": {"galore_rank": 9},
    }  # fmt: skip
    assert {name_of(FullConfig(**given)) for given in names.values()} == set(names)
    assert name_of(LoraConfig(r=3)) == "lora"
    train = {**options["train"], "int8_base": True}
    int8 = {**options, "method": {"type": "rslora", "r": 7}, "train": train}
    (own,) = weitiao.plan(int8, device="Xeon-8480-AMX-256GB")["methods"]  # this machine need not have the product
    rank7 = weitiao.plan({**options, "method": {"type": "lora", "r": 7}}, methods=["lora"])["methods"][0]
    assert (own["name"], own["num_trainable_params"]) == ("rslora", rank7["num_trainable_params"])
    assert name_of(LoraConfig(r=3, load_in_4bit=True)) == "qlora"


def fused_of(blueprint: Blueprint) -> Iterator[FusedForward]:
    forwards = (module.__dict__.get("forward") for module in blueprint.model.modules())
    return (f for f in forwards if isinstance(f, FusedForward))


def test_a_plan_that_fails_stops_no_run(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr("weitiao.run.plan_run", broken)
    run = weitiao.train(options)
    assert run.is_done
    assert not (run.path / "plan.json").exists()
    assert run.summary["plan_error"] == {"memory": None, "time": None, "storage": None}


def test_parts_sum_to_the_total(options: dict[str, Any]) -> None:
    for method in weitiao.plan(options)["methods"]:
        parts = dict(method["memory_bytes"])
        assert parts.pop("total") == sum(parts.values())
        assert all(value >= 0 for value in parts.values())
        assert method["fits"] == "yes"
        assert method["seconds"]["total"] >= method["seconds"]["training"] > 0


@pytest.mark.parametrize("peak", [500, 1000, 3000])
def test_a_calibrated_total_is_the_measured_peak_and_what_is_to_come(options: dict[str, Any], peak: int) -> None:
    """Also where the parts sum to more: what was freed before the peak is no part of it."""
    config = RunConfig.model_validate(options)
    inputs = read_inputs(config)
    batches = dataclasses.replace(batches_of(config, inputs), steps=1)  # nothing more to grow
    parts = Memory(process=9, weights=300, masters=0, gradients=0, optimizer=0, activations=100, other=7)
    measured = {"batches": [0], "process_bytes": 700, "peak_memory_bytes": peak}
    found = measured_memory(parts, measured, draw(config, inputs).model, batches, holes_bytes=800)
    assert found.total == peak
    assert all(value >= 0 for value in dataclasses.asdict(found).values())
    longer = dataclasses.replace(batches, steps=500)
    model = draw(config, inputs).model
    with_holes = measured_memory(parts, measured, model, longer, holes_bytes=10**9)
    assert with_holes.total - peak == pytest.approx(10**9 * HOLES_TO_COME / HOLES_SHARE, abs=1)


def test_checkpoints_are_counted(options: dict[str, Any]) -> None:
    train = {**options["train"], "save_steps": 2, "save_total_limit": 2, "load_best_model_at_end": True}
    run = weitiao.train({**options, "train": train})
    planned = run.read_json("plan.json")["methods"][0]
    tensors = list(run.checkpoints.rglob("*.safetensors"))
    weights = sum(f.stat().st_size for f in tensors)
    headers = sum(8 + int.from_bytes(f.read_bytes()[:8], "little") for f in tensors)
    # each parameter also keeps a step count of 4 bytes
    assert planned["kept_checkpoints_bytes"] == pytest.approx(weights - headers, rel=0.01)


def test_bf16_has_masters_and_fp32_none(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = weitiao.plan(options, methods=["full"], device="T4-16GB")["methods"][0]["memory_bytes"]
    train = {**options["train"], "bf16": True}
    bf16 = weitiao.plan({**options, "train": train}, methods=["full"], device="A100-80GB")["methods"][0]["memory_bytes"]
    assert fp32["masters"] == 0
    assert bf16["masters"] == fp32["gradients"]
    assert bf16["gradients"] * 2 == fp32["gradients"]
    assert bf16["optimizer"] == fp32["optimizer"] == 2 * fp32["gradients"]


def test_an_option_moves_what_it_should(options: dict[str, Any]) -> None:
    def of(**train: Any) -> dict[str, Any]:
        return weitiao.plan({**options, "train": {**options["train"], **train}}, methods=["full"], device="T4-16GB")["methods"][0]  # type: ignore[no-any-return] # fmt: skip

    usual, long = of(), of(num_train_epochs=4)
    assert long["steps"] == 2 * usual["steps"]
    assert long["seconds"]["training"] == pytest.approx(2 * usual["seconds"]["training"])
    small = of(tokens_per_batch=32)["memory_bytes"]["activations"]
    assert small < 0.6 * usual["memory_bytes"]["activations"]
    dense = of(sparse_embedding=False)["memory_bytes"]["optimizer"]
    assert dense > usual["memory_bytes"]["optimizer"]


def test_a_tiny_device_does_not_fit(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = dataclasses.replace(devices.DEVICES["T4-16GB"], name="toy", memory_bytes=1000)
    monkeypatch.setitem(devices.DEVICES, "toy", small)
    assert {m["fits"] for m in weitiao.plan(options, device="toy")["methods"]} == {"no"}
    from weitiao.commands.app import app

    words = [f"model={options['model']}", f"data.train={options['data']['train']}", f"output.dir={tmp_path / 'x'}"]
    done = CliRunner().invoke(app, ["plan", *words, "--device", "TOY"])
    assert done.exit_code == 0, done.output
    assert "full does not fit" in done.output
    assert "lora does not fit" in done.output
    assert "fitted to published runs" in done.output
    assert not (tmp_path / "x").exists()


def test_a_plan_needs_no_run_folder(options: dict[str, Any], tmp_path: Path) -> None:
    """Neither as a dict nor as a file; a run still asks for one."""
    without = {key: value for key, value in options.items() if key != "output"}
    (tmp_path / "c.yaml").write_text(json.dumps(without))
    counts = [
        [m["num_trainable_params"] for m in weitiao.plan(c)["methods"]] for c in (options, without, tmp_path / "c.yaml")
    ]
    assert counts[0] == counts[1] == counts[2]
    with pytest.raises(ConfigError, match="output"):
        weitiao.train(without)


def test_wrong_words_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        weitiao.plan(options, device="A100")
    assert all(name in str(error.value) for name in devices.DEVICES)
    assert "Did you mean" in str(error.value)
    with pytest.raises(ConfigError, match="apollo"):
        weitiao.plan(options, methods=["apollo"])
    with pytest.raises(ConfigError, match="two steps more than both"):
        weitiao.plan({**options, "method": {"type": "adalora", "tinit": 1000}}, methods=["adalora"])
    with pytest.raises(ConfigError, match="--calibrate"):
        weitiao.plan(options, device="T4-16GB", calibrate=True)


def test_arms_of_a_comparison(options: dict[str, Any]) -> None:
    config = {key: value for key, value in options.items() if key != "method"}
    config["compare"] = {"methods": ["full", {"type": "lora", "r": 2, "name": "small"}, {"type": "lora", "r": 8}]}
    planned = weitiao.plan(config, device="T4-16GB")["methods"]
    assert [m["name"] for m in planned] == ["full", "small", "lora"]
    counts = [m["num_trainable_params"] for m in planned]
    assert counts[0] > counts[2] > counts[1]


def test_own_method_keeps_its_options(options: dict[str, Any]) -> None:
    ranks = []
    for r in (2, 8):
        planned = weitiao.plan({**options, "method": {"type": "lora", "r": r}}, device="T4-16GB")["methods"]
        assert [m["name"] for m in planned] == ["full", "lora"]
        ranks.append(planned[1]["num_trainable_params"])
    assert ranks[0] < ranks[1]


def test_shapes_alone_cost_what_real_tensors_cost(options: dict[str, Any]) -> None:
    """The same trace over a real step on the CPU: saved bytes and operations of the meta device are right."""
    from accelerate import Accelerator

    from weitiao.training.adapt import adapt
    from weitiao.training.events import EventLog

    for method in ({"type": "full"}, {"type": "lora"}):
        config = RunConfig.model_validate({**options, "method": method})
        inputs = read_inputs(config)
        drawn = draw(config, inputs).cost(6, 12)
        with EventLog(Path(options["output"]["dir"]).parent / "events.jsonl") as events:
            model = adapt(config, inputs, World(Accelerator(cpu=True), "ddp"), events).model.train()
        ids = torch.from_numpy(inputs.train.flat[:72].astype("int64")).view(6, 12)
        batch = {"input_ids": ids, "labels": torch.zeros(6, dtype=torch.long)}
        batch["attention_mask"] = torch.ones(6, 12, dtype=torch.long)
        batch["attention_mask"][0, -1] = 0
        real = step_cost(model, lambda: inputs.task.loss(model, batch))  # noqa: B023
        assert drawn.flops == pytest.approx(real.flops, rel=0.01)  # the last layer's SDPA is split up otherwise
        assert drawn.saved_bytes == pytest.approx(real.saved_bytes, rel=0.03)
        assert drawn.peak_bytes == pytest.approx(real.peak_bytes, rel=0.05)


def test_kernels_save_what_their_formulas_say() -> None:
    """Closed forms: attention keeps q, k, v and the probabilities; a LoRA layer its input and the narrow product."""
    n, length, d = 8, 16, 4
    parts = [torch.zeros(n, length, d, device="meta", requires_grad=True) for _ in range(3)]
    made: list[torch.Tensor] = []

    def attention() -> torch.Tensor:
        made.append(ShortAttention.apply(*parts, None, 0.5))
        return made[0].sum()

    cost = step_cost(torch.nn.Module(), attention)
    output = n * length * d * 4  # held by the list, as the next layer holds it
    assert cost.saved_bytes == (n * length * d + n * length * length) * 4 + output + 4  # 4: the sum
    assert cost.flops == 6 * 2 * n * length * length * d  # two products forward, four backward

    tokens, i, o, r = 32, 24, 40, 2
    x, a, b = (torch.zeros(*s, device="meta", requires_grad=True) for s in ((tokens, i), (r, i), (o, r)))
    weight = torch.zeros(o, i, device="meta")
    cost = step_cost(torch.nn.Module(), lambda: LoraLinearFunction.apply(x, weight, None, a, b, 1.0, None).sum())
    assert cost.saved_bytes == tokens * r * 4 + 4
    assert cost.flops == 2 * 2 * tokens * i * o + 3 * 2 * tokens * r * (i + o)  # no gradient of the weight


def test_safetensors_bytes_are_exact(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a.weight": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16), "字": torch.zeros(1)}
    for metadata in (None, {"format": "pt"}):
        save_file(tensors, tmp_path / "file", metadata)
        assert safetensors_bytes(tensors, metadata) == (tmp_path / "file").stat().st_size


def test_errors_are_signed_and_per_step() -> None:
    method = {"memory_bytes": {"total": 90}, "seconds": {"training": 10.0}, "steps": 20, "artifact_bytes": 50}
    summary = {"peak_memory_bytes": 100, "train_seconds": 4.0, "steps": 10}
    assert plan_errors({"methods": [method]}, summary, 50) == {"memory": -0.1, "time": 0.25, "storage": 0.0}
    assert plan_errors(None, summary, 50) == {"memory": None, "time": None, "storage": None}


def test_calibration_runs_real_steps(options: dict[str, Any]) -> None:
    method = weitiao.plan(options, methods=["lora"], calibrate=True)
    planned = method["methods"][0]
    assert method["calibrated"]
    assert planned["time_scale"] > 0
    parts = dict(planned["memory_bytes"])
    assert parts.pop("total") == sum(parts.values())
    assert all(value >= 0 for value in parts.values())
    assert parts["process"] > 1e8  # of the other process: interpreter and libraries


def test_every_key_is_documented(options: dict[str, Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w]+)`", page))

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()

    found = keys(weitiao.plan(options, device="A100-80GB"))
    assert json.dumps(sorted(found - documented)) == "[]"


@pytest.mark.parametrize(
    "budget", [{"train": {"max_seconds": 2}}, {"compare": {"budget": "seconds", "budget_value": 2}}]
)
def test_a_run_that_the_clock_ends_is_planned_to_its_end(budget: dict[str, Any], options: dict[str, Any]) -> None:
    """compare.budget=seconds has a million epochs, and none of them is over."""
    train = {**options["train"], "num_train_epochs": 100_000, **budget.get("train", {})}
    compare = {"compare": {**budget["compare"], "methods": ["full"]}} if "compare" in budget else {}
    given = {key: value for key, value in options.items() if not compare or key != "method"}
    (found,) = weitiao.plan({**given, "train": train, **compare}, methods=["full"])["methods"]
    assert found["seconds"]["training"] == pytest.approx(2, rel=0.05)
    assert 0 < found["steps"] < 100_000
    assert found["seconds"]["evaluation"] < 60


def test_the_frozen_layers_are_timed_where_they_compute(options: dict[str, Any]) -> None:
    """Their outputs are stored once, and the saved model computes all layers."""
    config = RunConfig.model_validate({**options, "method": {"type": "full", "top_k": 1}})
    inputs = read_inputs(config)
    blueprint, batches = draw(config, inputs), batches_of(config, inputs)
    assert blueprint.prefix is not None
    shapes = trace_shapes(blueprint, batches, RATES)
    short = float(shapes.forward_seconds(batches.eval_rows, batches.eval_lengths).sum())
    whole = float(shapes.whole_seconds(batches.eval_rows, batches.eval_lengths).sum())
    assert whole > 1.5 * short
    plain = RunConfig.model_validate({**options, "train": {**options["train"], "cache_prefix": False}})
    other = trace_shapes(draw(plain, inputs), batches, RATES)
    assert whole == pytest.approx(float(other.whole_seconds(batches.eval_rows, batches.eval_lengths).sum()), rel=0.25)
    rows = len(inputs.train.flat) / len(inputs.eval.flat) + 1
    stored = seconds_of(blueprint, batches, shapes, config.train, rates=RATES).stored_layers
    assert stored == pytest.approx((whole - short) * rows)
    assert trace_shapes(blueprint, batches, RATES) == shapes  # nothing is left changed


def test_a_checkpoint_that_does_not_name_its_dtype_is_asked_itself(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    from weitiao.pretrained.architecture import is_fp32

    folder = Path(shutil.copytree(tiny_model, tmp_path / "old"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "dtype" not in k}))
    assert is_fp32(str(folder))
    weights = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert not is_fp32(str(folder))


def test_a_calibration_chooses_how_libraries_are_loaded() -> None:
    """Its module must not bring torch: all of the libraries would weigh more than a run's (system/imports.py)."""
    code = "import weitiao.planning.calibration_process, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
