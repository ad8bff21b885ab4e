"""Activation offloading with CPU tensors: the hooks of a GPU run, whose second stream is missing here."""

import weakref
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from weitiao.config.train import TrainConfig
from weitiao.kernels import offload as module
from weitiao.kernels.checkpointing import checkpoint_layers
from weitiao.kernels.layers import fuse_layers
from weitiao.kernels.offload import Offload


@pytest.fixture
def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).train()


IDS = torch.arange(48).view(2, 24) % 60


def gradients(model: Any, offload: Offload | None = None) -> list[torch.Tensor]:
    model.zero_grad()
    if offload is None:
        loss = model(input_ids=IDS, labels=IDS).loss
    else:
        with offload:
            loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("which", [None, "selective", "full"])
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_the_same_to_the_bit(llama: Any, which: Any, fused: bool) -> None:
    if fused:
        fuse_layers(llama, remakes=False)
    if which:
        checkpoint_layers(llama, which)
    expected = gradients(llama)
    offload = Offload(llama, smallest=1)
    for _ in range(2):  # a second pass begins anew
        assert all(map(torch.equal, gradients(llama, offload), expected))
    inputs = 2 * 24 * 32 * 4
    if which == "full":  # the inputs of all layers but the last, and what the embedding looks up
        assert 3 * inputs <= offload.host_bytes <= 3 * inputs + 8 * 2 * 24 * 2
    else:
        assert offload.host_bytes > 20 * inputs / (2 if which else 1)


class Block(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin().t().exp().t()  # keeps an input, and an output as a view


class Stack(torch.nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.config = type("Config", (), {"get_text_config": lambda self: self, "num_hidden_layers": depth})()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 4096).view(64, 64))
        self.layers = torch.nn.ModuleList(Block() for _ in range(depth))

    def forward(self) -> torch.Tensor:
        x = self.weight.t() @ self.weight
        for layer in self.layers:
            x = layer(x)
        return x.sum()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Storages that have left."""
    seen: list[weakref.ref[Any]] = []
    send = Offload._send

    def noted(self: Offload, flat: torch.Tensor) -> Any:
        seen.append(weakref.ref(flat.untyped_storage()))
        return send(self, flat)

    monkeypatch.setattr(Offload, "_send", noted)
    return seen


def test_what_was_sent_is_freed_and_weights_stay(sent: list[weakref.ref[Any]]) -> None:
    model = Stack(12)
    model().backward()
    expected, model.weight.grad = model.weight.grad, None
    with Offload(model):
        loss = model()
    alive = [one for one in sent if one() is not None]
    # what a layer makes is the next one's input, and goes once; the product keeps the weight, which stays
    assert len(sent) == 12
    assert len(alive) == module.IN_FLIGHT
    loss.backward()
    assert torch.equal(model.weight.grad, expected)
    del loss
    assert not [one for one in sent if one() is not None]


def test_no_more_is_fetched_than_is_needed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Stack(12)
    here: list[weakref.ref[Any]] = []
    most = 0
    fetch = Offload._fetch

    def noted(self: Offload, stored: Any) -> None:
        nonlocal most
        fetch(self, stored)
        here.append(weakref.ref(stored.flat))
        most = max(most, sum(one() is not None for one in here))

    monkeypatch.setattr(Offload, "_fetch", noted)
    with Offload(model):
        loss = model()
    loss.backward()
    assert len(here) == 12 - module.IN_FLIGHT
    assert most <= module.AHEAD + 2


def test_a_storage_goes_once(sent: list[weakref.ref[Any]]) -> None:
    model = Stack(2)
    x = torch.rand(64, 64, requires_grad=True)
    y = x * 1.0
    with Offload(model):
        first = (y.sin() + y[:10].cos().sum() + y.t().square().sum()).sum()
    assert len(sent) == 1
    first.backward()
    reference = x.detach().clone().requires_grad_()
    (reference.sin() + reference[:10].cos().sum() + reference.t().square().sum()).sum().backward()
    assert torch.allclose(x.grad, reference.grad)  # type: ignore[arg-type]


def test_a_change_in_place_is_seen(llama: Any) -> None:
    model = Stack(2)
    x = torch.rand(64, 64, requires_grad=True)
    offload = Offload(model, smallest=1 << 30)  # all stays
    with offload:
        y = x * 1.0
        loss = y.square().sum()
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_it_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="activation_offloading"):
        TrainConfig(activation_offloading=True, compile=True)
