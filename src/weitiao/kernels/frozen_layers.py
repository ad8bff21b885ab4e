"""The frozen lower layers of a model: found by structure, run once, and replayed from stored states.

With dropout 0 a frozen prefix (embeddings and the lowest layers) gives a row the same hidden states in every epoch.
They are captured once; in training the first layer hands them out and the other frozen layers pass them on.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from weitiao.errors import ConfigError

BATCH_KEY = "prefix_states"
_OTHER_PARTS = re.compile("vision|visual|audio")


def layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of layers and its name: the ModuleList of ``num_hidden_layers``, of several parts the text's.

    Raises:
        ConfigError: there is none.
    """
    config: Any = model.config
    wanted = getattr(config.get_text_config(), "num_hidden_layers", None)
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == wanted]
    for name, module in sorted(found, key=lambda one: _OTHER_PARTS.search(one[0]) is not None):  # stable
        return name, module
    raise ConfigError(
        f"{type(model).__name__} has no single stack of {wanted} layers.\nExpected an encoder or a decoder for top_k, "
        "lisa_layers, galore_rank, gradient_checkpointing, activation_offloading and FSDP2.\nLeave them out."
    )


def depth(model: nn.Module, top_k: int) -> int:
    """How many layers are frozen when the ``top_k`` upper ones train.

    Raises:
        ConfigError: the model has fewer layers.
    """
    count = len(layers(model)[1])
    if top_k > count:
        raise ConfigError(
            f"method.top_k is {top_k}, and the model has {count} layers.\nExpected at most {count}.\nLower it, or leave it out."
        )
    return count - top_k


def frozen_names(model: nn.Module, top_k: int) -> list[str]:
    """Parameters of the embeddings (what is registered before the layers, and tables behind them that all layers read) and of
    the layers below the top ``top_k``.
    """
    stack = layers(model)[0]
    frozen = depth(model, top_k)
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    names: list[str] = []
    seen_layers = False
    for name, _ in model.named_parameters():
        if name.startswith(stack + "."):
            seen_layers = True
            if int(name[len(stack) + 1 :].partition(".")[0]) < frozen:
                names.append(name)
        elif not seen_layers or name in tables:
            names.append(name)
    return names


class _Captured(Exception):
    pass


class Prefix:
    """The lowest ``frozen`` layers of a model (which may be wrapped by peft)."""

    def __init__(self, model: nn.Module, frozen: int) -> None:
        self.model = model
        _, self._layers = layers(model)
        self.frozen = frozen
        self._states: torch.Tensor | None = None

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the stored states depend on."""
        stack, _ = layers(self.model)
        for name, parameter in [*self.model.named_parameters(), *self.model.named_buffers()]:
            below = name.startswith(stack + ".") and int(name[len(stack) + 1 :].partition(".")[0]) < self.frozen
            if below or "embed" in name:
                yield name, parameter

    def is_exact(self) -> bool:
        """Whether stored states can stand for the frozen layers: nothing that these read trains, and each hands on one tensor.

        DeBERTa's layers hand on a pair.
        """
        return not any(p.requires_grad for _, p in self.parameters()) and self._hands_on_tensors()

    @torch.no_grad()
    def _hands_on_tensors(self) -> bool:
        """Asks the first layer, by a row of two tokens."""
        found: list[bool] = []

        def stop(_: nn.Module, args: Any, output: Any) -> None:
            found.append(isinstance(output, torch.Tensor))
            raise _Captured

        hook = self._layers[0].register_forward_hook(stop)
        table: Any = self.model.get_input_embeddings().weight  # type: ignore[operator]
        try:
            self.model(inputs_embeds=table.new_zeros(1, 2, table.shape[-1]))
        except _Captured:
            pass
        finally:
            hook.remove()
        return found == [True]

    @torch.no_grad()
    def capture(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The states [B, L, H] that the first trained layer (or, with none, what follows the layers) reads."""
        caught: list[torch.Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _Captured

        def stop_after(_: nn.Module, args: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            raise _Captured

        if self.frozen < len(self._layers):
            hook = self._layers[self.frozen].register_forward_pre_hook(stop, with_kwargs=True)
        else:
            hook = self._layers[-1].register_forward_hook(stop_after)
        try:
            self.model(**inputs)
        except _Captured:
            pass
        finally:
            hook.remove()
        return caught[0]

    def replay(self) -> None:
        """From now on a batch brings its states under ``BATCH_KEY``, and the frozen layers do no work."""

        def take(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            self._states = kwargs.pop(BATCH_KEY)
            return args, kwargs

        self._hook = self.model.register_forward_pre_hook(take, with_kwargs=True)
        self._layers[0].forward = lambda *_, **__: self._states
        for layer in list(self._layers)[1 : self.frozen]:
            layer.forward = lambda hidden_states, *_, **__: hidden_states

    def restore(self) -> None:
        """Undo :meth:`replay`."""
        self._hook.remove()
        for layer in list(self._layers)[: self.frozen]:
            del layer.forward
