"""Master weights: the fp32 values that the optimizer updates, whatever dtype the model computes in.

train in           master                            after an update
float32            the parameter itself              -
bfloat16, float16  a copy in fp32 (:class:`Masters`) rounded into the parameter
bfloat16, rounds   made for one update from the      rounded at random, and let go
                   parameter (:class:`RoundedMasters`)
"""

from collections.abc import Iterable, Iterator, Mapping

import torch

from weitiao.config.train import TrainConfig
from weitiao.training.shards import local, whole


class Masters:
    """fp32 masters by the names of the parameters that train. With sharding a master is this process's part.

    Making them casts the parameters to ``compute_dtype``.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, torch.nn.Parameter]], compute_dtype: torch.dtype = torch.float32
    ) -> None:
        named = list(named_parameters)
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.tensors = {name: _own(p) for name, p in self.parameters.items()}
        if compute_dtype == torch.float32:
            return
        # a view of the checkpoint's file holds all of it in memory: where few parameters train, they are copied
        few = 2 * sum(p.numel() for p in self.parameters.values()) < sum(p.numel() for _, p in named)
        for name, parameter in self.parameters.items():
            master = local(parameter.detach()).to(torch.float32, copy=few)
            self.tensors[name] = torch.nn.Parameter(master, requires_grad=False)
            parameter.data = parameter.data.to(compute_dtype)
            self._narrowed(name)

    def _narrowed(self, name: str) -> None:
        """A parameter has been cast."""

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds parts of the parameters."""
        return any(hasattr(p, "to_local") for p in self.parameters.values())

    def take_gradients(self, names: Iterable[str], scale: torch.Tensor | None) -> None:
        """Before an update: the parameters' gradients, in fp32 and times ``scale``, become the masters'."""
        found = [(name, gradient) for name in names if (gradient := self.parameters[name].grad) is not None]
        held, narrow = [name for name, _ in found], [local(gradient) for _, gradient in found]
        wide = [g if g.dtype == torch.float32 else torch.empty_like(g, dtype=torch.float32) for g in narrow]
        _copy([(to, g) for to, g in zip(wide, narrow, strict=True) if to is not g])
        if scale is not None and wide:
            torch._foreach_mul_(wide, scale)
        for name, gradient in zip(held, wide, strict=True):
            parameter, master = self.parameters[name], self.tensors[name]
            master.grad = gradient
            if master is not parameter:
                parameter.grad = None  # frees the narrow one before the update

    def settle(self, names: Iterable[str]) -> None:
        """After an update: round the masters into the parameters."""
        pairs = [(self.parameters[name], self.tensors[name]) for name in names]
        _copy([(local(p), master) for p, master in pairs if master is not p and master.grad is not None])

    def value(self, name: str) -> torch.Tensor:
        """The fp32 values of this process's part."""
        return self.tensors[name].detach()

    def values(self) -> dict[str, torch.Tensor]:
        """The fp32 weights of this process's parts, by name."""
        return {name: self.value(name) for name in self.parameters}

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set this process's parts by name, in the masters and in the model."""
        for name, weight in weights.items():
            part = weight.to(self.parameters[name].device)
            self._set(name, part)
            local(self.parameters[name]).copy_(part)

    def _set(self, name: str, part: torch.Tensor) -> None:
        self.tensors[name].copy_(part)


class RoundedMasters(Masters):
    """Masters that live for one update, and are rounded at random into bfloat16.

    An update below bfloat16's step then still counts on average (Gupta et al. 2015, arXiv 1502.02551).
    """

    def _narrowed(self, name: str) -> None:
        self.tensors[name].data = torch.empty(0)

    def take_gradients(self, names: Iterable[str], scale: torch.Tensor | None) -> None:
        names = list(names)
        for name in names:
            if self.parameters[name].grad is not None:
                self.tensors[name].data = local(self.parameters[name].detach()).float()
        super().take_gradients(names, scale)

    def settle(self, names: Iterable[str]) -> None:
        for name in names:
            if self.tensors[name].grad is not None:
                local(self.parameters[name]).copy_(stochastic_round(self.tensors[name]))
                self._narrowed(name)

    def value(self, name: str) -> torch.Tensor:
        return local(self.parameters[name].detach()).float()

    def _set(self, name: str, part: torch.Tensor) -> None:
        """The parameter is all there is."""


def masters_of(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], config: TrainConfig, compute_dtype: torch.dtype
) -> Masters:
    """The masters that the options ask for."""
    rounds = config.stochastic_rounding and compute_dtype == torch.bfloat16
    return (RoundedMasters if rounds else Masters)(named_parameters, compute_dtype)


def stochastic_round(values: torch.Tensor) -> torch.Tensor:
    """fp32 values -> bfloat16, up or down with the chance that makes the mean right. Draws from torch's random state."""
    noise = torch.randint_like(values, 0, 1 << 16, dtype=torch.int32)
    return (values.view(torch.int32) + noise).bitwise_and_(-1 << 16).view(torch.float32).to(torch.bfloat16)


def gathered(model: torch.nn.Module, masters: Masters, frozen: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The state dict of a sharded model, one whole tensor at a time: fp32 masters of what trained, the rest as it is.

    Every process takes each tensor in turn.

    Args:
        frozen: with the sharded parameters that did not train.
    """
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(
            value, torch.nn.Parameter
        ):  # tied: written once, or the second would stand there rounded and untied
            if id(value) in seen:
                continue
            seen.add(id(value))
        if name in masters.parameters:
            yield name, whole(masters.value(name), masters.parameters[name])
        elif frozen or not hasattr(value, "to_local"):
            yield name, whole(local(value.detach()), value)


def _copy(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Each second tensor into the first, rounded: one launch on a GPU, however many there are."""
    if both := list(pairs):
        torch._foreach_copy_([to for to, _ in both], [given for _, given in both])


def _own(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The parameter, or one that shares the memory of this process's part of it."""
    part = local(parameter.detach())
    is_whole = part.data_ptr() == parameter.data_ptr() and not hasattr(parameter, "to_local")
    return parameter if is_whole else torch.nn.Parameter(part, requires_grad=False)
