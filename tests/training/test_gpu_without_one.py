"""What only a GPU shows at work, as far as it can be shown without one: where tensors go, what is counted, what is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import weitiao
from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ModelError
from weitiao.kernels.frozen_layers import layers
from weitiao.kernels.nf4 import PackedLinear
from weitiao.measure import meters
from weitiao.planning.rows import read_inputs
from weitiao.training import base, checkpoint, fit
from weitiao.training.accumulate import Accumulator, is_narrow
from weitiao.training.fit import _train
from weitiao.training.masters import Masters, RoundedMasters
from weitiao.training.optim import MasterAdamW


def test_resumed_moments_follow_the_weights() -> None:
    """A checkpoint is read on the CPU; the meta device stands for a GPU."""
    model = torch.nn.Linear(3, 2, device="meta")
    optimizer = MasterAdamW(Masters(model.named_parameters()), TrainConfig())
    moments = {f"weight|{key}": torch.ones(2, 3) for key in ("exp_avg", "exp_avg_sq")}
    optimizer.load_state(moments | {"weight|step": torch.tensor(3.0)}, 3)
    state = next(state for name, state in optimizer._moments() if name == "weight")
    assert {value.device.type for value in state.values()} == {"meta"}
    assert state.keys() == {"exp_avg", "exp_avg_sq", "step"}


def test_a_checkpoint_keeps_every_gpu_s_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {0: torch.arange(8, dtype=torch.uint8), 1: torch.arange(8, 16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(states.values()))
    saved = checkpoint._random_state()
    put: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.update({device: state}))
    checkpoint._set_random_state(saved)
    assert put.keys() == states.keys()
    assert all(torch.equal(put[i], states[i]) for i in states)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert checkpoint._random_state()["cuda"] == []
    checkpoint._set_random_state({k: v for k, v in saved.items() if k != "cuda"})  # an older checkpoint


def test_several_batches_add_up_in_fp32() -> None:
    """256 gradients of 1 in bfloat16 stop at 256; a 257th of 1 would be lost, and so would small ones before."""
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    accumulator = Accumulator([parameter, unused])
    for value in (256.0, *[1.0] * 64):
        parameter.grad = torch.full_like(parameter, value)
        accumulator.take()
        assert parameter.grad is None
    accumulator.give()
    assert parameter.grad is not None
    assert parameter.grad.dtype == torch.bfloat16
    assert parameter.grad.tolist() == [320.0] * 4
    assert unused.grad is None
    accumulator.give()  # nothing is left of it
    assert parameter.grad.tolist() == [320.0] * 4


def test_only_fewer_bits_than_fp32_are_narrow() -> None:
    wide, narrow = (torch.nn.Parameter(torch.zeros(1, dtype=d)) for d in (torch.float32, torch.bfloat16))
    assert is_narrow([wide, narrow])
    assert not is_narrow([wide])


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The counters of a GPU, in bytes."""
    counters = SimpleNamespace(reserved=0, allocated=0, most_reserved=0, most_allocated=0, free=80, total=100)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: counters.reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: counters.allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: counters.most_reserved)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: counters.most_allocated)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (counters.free, counters.total))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def reset() -> None:
        counters.most_reserved, counters.most_allocated = counters.reserved, counters.allocated

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(meters, "_load_peak_bytes", 0)
    return counters


def test_loading_and_training_are_told_apart(card: SimpleNamespace) -> None:
    card.reserved, card.most_reserved, card.most_allocated = 30, 60, 55
    meters.begin_steps()
    card.most_reserved, card.most_allocated = 40, 38
    assert meters.gpu_memory() == {"load": 60, "allocated": 38, "reserved": 40, "used": 20}
    assert meters.peak_memory_bytes() == 60, "the most of a run, loading included"
    card.reserved, card.most_reserved = 10, 90
    meters.begin_loading()  # a second run of this process
    assert meters.peak_memory_bytes() == 10


def test_host_and_device_memory_are_never_mixed(card: SimpleNamespace) -> None:
    card.reserved, card.allocated = 30, 25
    assert meters.memory_bytes("cuda") == 30
    assert meters.available_memory_bytes("cuda") == 85
    assert meters.memory_bytes() > 1_000_000
    assert meters.available_memory_bytes() > 1_000_000


def test_without_a_gpu_nothing_is_said_of_one() -> None:
    assert meters.gpu_memory() is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")])  # fmt: skip
def test_memory_that_runs_out_in_a_step_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def steps(fitting: object, stop: object) -> None:
        raise error

    monkeypatch.setattr("weitiao.training.fit._take_steps", steps)
    fitting = SimpleNamespace(progress=SimpleNamespace(step=7), schedule=SimpleNamespace(total_steps=lambda: 9))
    with pytest.raises(ModelError, match="Memory ran out after step 7 of 9"):
        _train(fitting, None)  # type: ignore[arg-type]


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(fitting: object, stop: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("weitiao.training.fit._take_steps", steps)
    with pytest.raises(RuntimeError, match="a mistake"):
        _train(None, None)  # type: ignore[arg-type]


def test_the_trial_of_the_longest_batch_sees_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held: 8 bytes for each trained parameter and a chunk's gradients in fp32, on the weights' device."""
    model = torch.nn.Linear(10, 10)
    optimizer = MasterAdamW(Masters(model.named_parameters()), TrainConfig())
    asked: list[tuple[int, str]] = []
    empty = torch.empty

    def record(size: int, **options: object) -> torch.Tensor:
        if "device" in options:
            asked.append((size, str(options["device"])))
        return empty(0)

    monkeypatch.setattr(torch, "empty", record)
    with optimizer.room():
        pass
    assert asked == [], "nothing on a CPU"
    for rounds in (False, True):  # masters that live for one update hold nothing in between
        masters = (RoundedMasters if rounds else Masters)(model.named_parameters(), torch.bfloat16)
        optimizer = MasterAdamW(masters, TrainConfig())
        for name, own in list(masters.parameters.items()):
            rests = rounds and name == "bias"  # as LISA's other layers do
            on_gpu = SimpleNamespace(device=torch.device("cuda:0"), numel=own.numel, requires_grad=not rests)
            masters.parameters[name] = on_gpu  # type: ignore[assignment]
        with optimizer.room():
            pass
    assert asked == [(12 * 110, "cuda:0"), (12 * 100, "cuda:0")]

    def full(size: int, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ModelError, match="moments do not fit"), optimizer.room():
        pass


def test_random_states_survive_a_file(tmp_path: Path) -> None:
    before = checkpoint._random_state()
    first = torch.rand(3)
    checkpoint._set_random_state(before)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize(("kind", "method"), [("gptq", "lora"), ("awq", "full"), ("bitsandbytes", "qlora")])
def test_a_base_that_a_quantiser_has_packed_is_refused_before_rows_are_read(
    options: dict[str, Any], kind: str, method: str, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    shutil.copytree(options["model"], packed)
    config = json.loads((packed / "config.json").read_text())
    quantised = {"quant_method": kind, "bits": 4, "load_in_4bit": True, "group_size": 128}
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    told: list[Any] = []
    with pytest.raises(ModelError, match=f"{kind} has packed"):
        weitiao.train(options | {"model": str(packed), "method": {"type": method}}, listener=told.append)
    assert told == []
    assert not Path(options["output"]["dir"]).exists()


def test_layers_of_a_model_of_several_parts_are_the_text_s() -> None:
    """Gemma 3 with pictures: both parts have as many layers."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "intermediate_size": 16, "vocab_size": 300,
    }  # fmt: skip
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    name, found = layers(model)
    assert "vision" not in name
    assert type(found[0]).__name__ == "Gemma3DecoderLayer"


def test_a_run_counts_loading_from_before_the_model_and_steps_from_after_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of batches belong to the steps: the peak of loading would stop them too early."""
    order: list[str] = []
    for name in ("begin_loading", "adapt", "begin_steps", "plan_batches"):
        own = getattr(fit, name)
        monkeypatch.setattr(fit, name, lambda *a, _own=own, _name=name, **k: (order.append(_name), _own(*a, **k))[1])
    weitiao.train(options | {"train": {"bf16": False, "max_steps": 1, "eval_strategy": "no"}})
    assert order == ["begin_loading", "adapt", "begin_steps", "plan_batches"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_gpu_holds_the_base_as_it_held_the_saved_model(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shapes: all in the dtype that the saved model was scored in, and of qlora the layers in 4 bits."""
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    config = RunConfig.model_validate({**options, "method": {"type": method}})
    inputs = read_inputs(config)
    inputs = replace(inputs, resolved=replace(inputs.resolved, device="meta"))
    load = base.load_model
    monkeypatch.setattr(base, "load_model", lambda *args: (load(*args)[0].to("meta"), ()))
    model = base.load_base(config, inputs, inputs.label_names, "bfloat16")
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.bfloat16}
    assert {p.device.type for p in model.parameters()} == {"meta"}
    packed = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert bool(packed) == (method == "qlora")
