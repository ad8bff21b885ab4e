"""Liger's layers equal ours, by Triton's interpreter on a CPU, and reach the one model that asked for them."""

import importlib.util
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError
from weitiao.kernels import gpu
from weitiao.kernels.gpu import LIGER_MODEL_TYPES, takes_liger

HAS_LIGER = all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))
# In a process of its own: the interpreter is chosen when Triton is imported.
COMPARED = """
import sys
import torch
import transformers
import triton.language as tl
from liger_kernel.ops import rms_norm
from triton.runtime import interpreter
from weitiao.kernels.gpu import use_liger
from weitiao.kernels.layers import fuse_layers

class Number(float):  # the interpreter hands numbers on as they are, and kernels convert them
    def to(self, dtype):
        return self

rms_norm.rsqrt = lambda x: 1.0 / tl.sqrt(x)  # libdevice's is empty there
convert = interpreter._implicit_cvt
interpreter._implicit_cvt = lambda value: Number(value) if isinstance(value, float) else convert(value)

kind = sys.argv[1]
sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
config = transformers.AutoConfig.for_model(kind, **sizes, intermediate_size=48, vocab_size=60)
ids, found, functions = torch.arange(14).view(2, 7), [], []
module = sys.modules[type(transformers.AutoModelForCausalLM.from_config(config)).__module__]
before = dict(vars(module))
for is_liger in (False, True):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    (use_liger if is_liger else fuse_layers)(model)
    functions.append({part.forward.__func__.__qualname__ for part in model.modules() if hasattr(part.forward, "__func__")})
    logits = model(ids).logits
    logits.square().sum().backward()
    found.append((logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
assert {name for name in functions[1] if name.startswith("Liger")} >= {"LigerRMSNorm.forward", "LigerSwiGLUMLP.forward"}, functions
assert dict(vars(module)) == before  # other models keep their own
torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
print("equal")
"""


@pytest.mark.skipif(not HAS_LIGER, reason="needs liger-kernel and triton")
@pytest.mark.parametrize("kind", LIGER_MODEL_TYPES)
def test_ligers_layers_equal_ours(kind: str) -> None:
    """Logits and gradients of a tiny random model. It takes most of a minute."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARED, kind],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]


def test_which_layers_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = TrainConfig()
    assert auto.liger == "auto"
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert not takes_liger(auto, "cuda", "llama")  # not installed
    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    assert takes_liger(auto, "cuda", "llama")
    assert not takes_liger(auto, "cpu", "llama")
    assert not takes_liger(auto, "cuda", "gemma3")  # not tested to equal ours
    assert not takes_liger(TrainConfig(fused_layers=False), "cuda", "llama")
    assert not takes_liger(TrainConfig(liger=False), "cuda", "llama")


@pytest.mark.parametrize(
    ("device", "kind", "said"),
    [("cpu", "llama", "the run is on cpu"), ("cuda", "bert", "Liger has no kernels for bert")],
)
def test_what_is_demanded_and_cannot_be_is_refused(
    device: str, kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    patches: Any = ModuleType("monkey_patch")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    package: Any = ModuleType("liger_kernel.transformers")
    package.monkey_patch = patches
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    assert takes_liger(TrainConfig(liger=True, fused_layers=False), "cuda", "llama")
    with pytest.raises(ConfigError, match=f"train.liger=true, and {said}"):
        takes_liger(TrainConfig(liger=True), device, kind)
