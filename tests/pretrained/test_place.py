"""A model is placed one tensor after the other: what is held meanwhile, and that values are what casting all would give."""

import copy
import dataclasses
import os
import subprocess
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from accelerate import Accelerator
from torch import nn

from support.bert import load
from weitiao.config.data import DataConfig
from weitiao.config.method import LoraConfig
from weitiao.config.run import RunConfig
from weitiao.kernels.lora import layers_to_pack
from weitiao.kernels.nf4 import PackedLinear
from weitiao.measure.cost import Trace
from weitiao.methods import lora
from weitiao.methods.eva import start_from_data
from weitiao.methods.starts import starts_on
from weitiao.planning.blueprint import draw
from weitiao.planning.rows import read_inputs
from weitiao.pretrained.load import load_tokenizer
from weitiao.pretrained.place import place, streamed
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import classification
from weitiao.training import adapt
from weitiao.training.events import EventLog
from weitiao.training.world import World

SHAPE = {
    "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 256,
}  # fmt: skip


def adapted(**options: Any) -> Any:
    """A language model of 12 layers with LoRA."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, pad_token_id=0))  # type: ignore[arg-type]
    return with_lora(model, **options)


def with_lora(model: Any, **options: Any) -> Any:
    model.name_or_path = "somewhere"
    return lora.apply(model, LoraConfig(r=4, **options), (), "somewhere")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_placing_holds_one_tensor_beside_what_stays(dtype: str) -> None:
    model = adapted()
    item = getattr(torch, dtype).itemsize
    frozen = [p for p in model.parameters() if not p.requires_grad]
    with Trace() as trace:
        place(model, dtype)
    assert trace.held_bytes == item * sum(p.numel() for p in frozen)
    assert trace.peak_bytes <= trace.held_bytes + item * max(p.numel() for p in frozen)


def test_packing_holds_one_layer_beside_what_stays() -> None:
    """Casting all first, as fuse_lora alone packs them, holds several times as much: the test can tell."""
    pytest.importorskip("bitsandbytes")
    peaks = []
    for at_once in (False, True):
        model = adapted()
        packed, left = layers_to_pack(model)
        largest = 2 * max(p.numel() for p in model.parameters())
        assert (len(packed), left) == (7 * 12, 0)
        with Trace() as trace:
            if at_once:
                place(model, "bfloat16")
            place(model, "bfloat16", packed=packed)
        assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 7 * 12
        peaks.append(trace.peak_bytes)
    held = sum(t.untyped_storage().nbytes() for t in [*model.parameters(), *model.buffers()])
    assert peaks[0] <= 1.25 * held + largest  # NF4's scales are no buffers
    assert peaks[1] > 2 * peaks[0]


def test_values_are_those_of_a_model_that_is_cast_whole() -> None:
    model = adapted()
    model.get_output_embeddings().weight = model.get_input_embeddings().weight  # one parameter of two modules
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    place(model, "bfloat16")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():
        expected = before[name] if parameter.requires_grad else before[name].bfloat16()
        assert torch.equal(parameter, expected), name
        assert parameter.dtype == expected.dtype, name
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
        assert buffer.dtype == buffers[name].dtype, name


RESIDENT = """
import sys, torch
from pathlib import Path
from weitiao.pretrained.load import load_model
from weitiao.pretrained.resolve import resolve
from weitiao.pretrained.place import place
def held(what):
    return next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(what))
model, _ = load_model(sys.argv[1], "AutoModel", (), 0, resolve(False, "eager"))
model.requires_grad_(False)
before = held("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
place(model, "bfloat16")
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are let go on Linux alone")
def test_the_file_is_not_held_beside_the_copies(tmp_path: Path) -> None:
    """In resident memory: 16 bits a parameter and a tensor, not 48."""
    large = SHAPE | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    model = transformers.BertModel(transformers.BertConfig(**large))
    model.save_pretrained(tmp_path)
    size = sum(p.numel() for p in model.parameters())
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path)], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert 1.8 * size < int(done.stdout) < 3.2 * size


def test_a_plan_counts_what_a_run_places(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate({**options, "method": {"type": "lora"}})
    inputs = dataclasses.replace(read_inputs(config), resolved=Resolved("cpu", "bfloat16", "eager", {}))
    traces: list[Trace] = []

    def traced(*args: Any, **more: Any) -> None:
        with Trace() as trace:
            place(*args, **more)
        traces.append(trace)

    placing = draw(config, inputs).placing
    monkeypatch.setattr(adapt, "place", traced)
    with EventLog(tmp_path / "events.jsonl") as events:
        found = adapt.adapt(config, inputs, World(Accelerator(cpu=True), "ddp"), events)
    assert (placing.frozen_peak, placing.frozen) == (traces[0].peak_bytes, traces[0].held_bytes)
    trained = sum(p.numel() for p in found.model.parameters() if p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in found.model.buffers())
    assert placing.before == 4 * trained + buffers


@pytest.mark.parametrize("start", ["pissa", "olora", True])
def test_a_start_is_computed_layer_by_layer(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's weight stays in the dtype that computes before the next one is decomposed, and values are the same."""
    options = {"init_lora_weights": start, "use_dora": start is True}
    plain = adapted(**options)
    narrow: list[int] = []
    init = peft.tuners.lora.layer.Linear.update_layer
    model: Any = None

    def update(self: Any, *args: Any, **more: Any) -> Any:
        narrow.append(sum(p.dtype == torch.bfloat16 for p in bases))
        return init(self, *args, **more)

    monkeypatch.setattr(peft.tuners.lora.layer.Linear, "update_layer", update)
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, pad_token_id=0))  # type: ignore[arg-type]
    bases = [m.weight for m in base.modules() if isinstance(m, nn.Linear)]
    with starts_on(torch.device("cpu"), torch.bfloat16, packs_base=False):
        model = with_lora(base, **options)
    assert narrow == list(range(7 * 12))
    place(plain, "bfloat16")
    place(model, "bfloat16")
    found = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, found[name]), name
        assert parameter.dtype == found[name].dtype, name


def test_a_start_on_a_packed_base_packs_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    with starts_on(torch.device("cpu"), torch.float32, packs_base=True):
        model = adapted(init_lora_weights="olora")
    plain = adapted(init_lora_weights="olora")
    for one in (model, plain):
        place(one, "float32", packed=layers_to_pack(one)[0])
    ids = torch.arange(1, 20)[None]
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=0, rtol=0)


@pytest.mark.parametrize("packs", [False, True])
def test_eva_starts_on_a_model_that_is_placed(tiny_model: Path, rows_file: Path, packs: bool) -> None:
    """Frozen weights in 16 or 4 bits beside fp32 ones that train: the directions are nearly those of the fp32 model."""
    if packs:
        pytest.importorskip("bitsandbytes")
    texts = [row["text"] for row in read_jsonl(rows_file)]
    data = DataConfig(train="-", max_length=64)
    rows = classification.encode(texts, [], ["bad", "good"], load_tokenizer(str(tiny_model)), data)
    found = []
    for placed in (False, True):
        model, new = load(tiny_model)
        model = lora.apply(model, LoraConfig(r=4, init_lora_weights="eva"), new, str(tiny_model))
        if placed:
            place(model, "bfloat16", packed=layers_to_pack(model)[0] if packs else ())
        start_from_data(model, rows, 0, 1)
        found.append({n: p.detach() for n, p in model.named_parameters() if ".lora_A." in n})
    for name, exact in found[0].items():
        assert found[1][name].dtype == torch.float32
        shared = torch.linalg.svdvals(exact @ found[1][name].T)  # cosines between the two spaces
        assert shared.mean() > 0.9, name


def test_a_streamed_model_computes_elsewhere_and_lies_where_it_lay(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that a CPU does not have is copies of the tensors here."""
    model, _ = load(tiny_model)
    model.eval()
    device: Any = types.SimpleNamespace(type="elsewhere")
    own, alive, most = torch.Tensor.to, weakref.WeakSet[Any](), 0

    def to(self: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        nonlocal most
        if not args or args[0] is not device:
            return own(self, *args, **more)
        moved = self.clone()
        alive.add(moved.untyped_storage())
        most = max(most, sum(storage.nbytes() for storage in alive))
        return moved

    monkeypatch.setattr(torch.Tensor, "to", to)
    ids = torch.arange(5, 25)[None]
    expected = model(ids).logits
    homes = {name: t.data_ptr() for name, t in copy.copy(model.state_dict()).items()}
    with streamed(model, device), torch.no_grad():
        found = model(ids).logits
    assert torch.equal(found, expected)
    assert {name: t.data_ptr() for name, t in model.state_dict().items()} == homes
    assert most > 0
    assert not [
        hook for module in model.modules() for hook in (module._forward_hooks, module._forward_pre_hooks) if hook
    ]
