"""AdamW on fp32 master weights, in chunks, and the learning-rate schedules."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from weitiao.config.train import TrainConfig
from weitiao.methods.galore import GaLore
from weitiao.methods.step_hooks import Beside
from weitiao.training.shards import local, part_of, whole

# Gradients are widened to fp32 one chunk at a time, so that their copy never holds a whole model.
_CHUNK_ELEMENTS = 8_000_000


class MasterAdamW:
    """AdamW (Loshchilov & Hutter 2019) whose weights and moments are fp32 whatever the model computes in.

    With ``compute_dtype`` bfloat16, every trainable parameter is cast to it and its fp32 values become its master: the
    step updates the master and rounds it back. With float32 a parameter is its own master. Biases and norm weights are
    not decayed. ``rate_factor``: by which the learning rate of a parameter is multiplied, by name. ``galore``: has the
    moments of some parameters in a projection.

    ``config.stochastic_rounding``: the masters live for one chunk's update and are rounded back at random, so that an
    update below bfloat16's step still counts on average (Gupta et al. 2015, arXiv 1502.02551).
    ``config.optimizer_in_backward``: :meth:`arm` before the backward pass, which then updates each parameter once its
    gradient is complete (LOMO, Lv et al. 2023, arXiv 2306.09782; here with AdamW).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        config: TrainConfig,
        compute_dtype: torch.dtype = torch.float32,
        rate_factor: Callable[[str], float] = lambda name: 1.0,
        galore: GaLore | None = None,
    ) -> None:
        named = list(named_parameters)
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.masters = {name: _own(p) for name, p in self.parameters.items()}
        self.rounds = config.stochastic_rounding and compute_dtype == torch.bfloat16
        self.in_backward = config.optimizer_in_backward
        if compute_dtype != torch.float32:
            # a view of the checkpoint's file holds all of it in memory: where few parameters train, they are copied
            few = 2 * sum(p.numel() for p in self.parameters.values()) < sum(p.numel() for _, p in named)
            for name, parameter in self.parameters.items():
                master = local(parameter.detach()).to(torch.float32, copy=few)
                self.masters[name] = torch.nn.Parameter(master, requires_grad=False)
                parameter.data = parameter.data.to(compute_dtype)
                if self.rounds:
                    self._forget_master(name)
        self.galore = galore
        self._chunks: list[tuple[list[str], torch.optim.Optimizer]] = []
        projected = galore.names if galore is not None else frozenset[str]()
        parts = [{n: p for n, p in self.parameters.items() if (n in projected) is part} for part in (False, True)]
        most = 0 if self.in_backward else _CHUNK_ELEMENTS
        for names in (names for part in parts for names in _chunks(part, most)):
            alike: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
            for name in names:
                kind = (self.parameters[name].ndim > 1, rate_factor(name))
                alike.setdefault(kind, []).append(self.masters[name])
            groups = [
                {"params": chosen, "weight_decay": config.weight_decay if decays else 0.0, "factor": factor}
                for (decays, factor), chosen in alike.items()
            ]
            betas, eps = (config.adam_beta1, config.adam_beta2), config.adam_epsilon
            if galore is not None and names[0] in projected:
                self._chunks.append((names, galore.optimizer(groups, betas, eps)))
            else:
                self._chunks.append((names, torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)))
        self.beside: Beside | None = None  # what the method does between steps
        self._number = 0
        self._rate: float | None = None
        self._squares: list[torch.Tensor] = []
        if self.in_backward:
            for names, optimizer in self._chunks:
                self.parameters[names[0]].register_post_accumulate_grad_hook(
                    partial(self._update_one, names, optimizer)
                )

    def arm(self, learning_rate: float, step: int) -> None:
        """Before the passes of ``step``. With ``optimizer_in_backward`` the next backward pass updates, until :meth:`step`."""
        self._rate = learning_rate if self.in_backward else None
        self._number = step
        if self.beside is not None:
            self._forget_moments(self.beside.before(step))

    def _update_one(self, names: list[str], optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> None:
        if self._rate is None:
            return
        square = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).square()
        self._squares.append(square)
        if self.galore is not None and not torch.isfinite(square):
            parameter.grad = None  # has no singular values; the run ends by its norm
            return
        self._update(names, optimizer, self._rate, None)

    def step(self, learning_rate: float, max_grad_norm: float | None, skip_non_finite: bool = False) -> torch.Tensor:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping (a tensor: no sync).

        Args:
            skip_non_finite: with a norm that is not finite, change nothing (reads the norm: a sync on a GPU).
        """
        if self.beside is not None:
            self.beside.add_gradients()
        norm = self._step(learning_rate, max_grad_norm, skip_non_finite)
        if self.beside is not None:
            self.load_masters(dict(self.beside.after(self._number)))
        return norm

    def _step(self, learning_rate: float, max_grad_norm: float | None, skip_non_finite: bool) -> torch.Tensor:
        if self.in_backward:
            squares, self._squares, self._rate = self._squares, [], None
            return torch.stack(squares).sum().sqrt()
        gradients = [local(p.grad) for p in self.parameters.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float32)))
        if self.is_sharded:
            norm = norm.square()
            torch.distributed.all_reduce(norm)
            norm = norm.sqrt()
        if (skip_non_finite or self.galore is not None) and not torch.isfinite(norm):  # infinity has no singular values
            for parameter in self.parameters.values():
                parameter.grad = None
            return norm  # type: ignore[no-any-return]
        scale = None if max_grad_norm is None else (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for names, optimizer in self._chunks:
            self._update(names, optimizer, learning_rate, scale)
        return norm  # type: ignore[no-any-return]

    def _update(
        self, names: list[str], optimizer: torch.optim.Optimizer, learning_rate: float, scale: torch.Tensor | None
    ) -> None:
        """One chunk: widen, update, round back, clear the gradients."""
        for name in names:
            parameter, master = self.parameters[name], self.masters[name]
            if parameter.grad is None:
                continue
            if self.rounds:
                master.data = local(parameter.detach()).float()
            gradient = local(parameter.grad).float()
            master.grad = gradient if scale is None else gradient.mul_(scale)
            if master is not parameter:
                parameter.grad = None  # frees the narrow one before the update
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        optimizer.step()
        if self.galore is not None:
            self.galore.settle(optimizer)
        if self.beside is not None:
            self.beside.updated(names)
        with torch.no_grad():
            for name in names:
                parameter, master = self.parameters[name], self.masters[name]
                if master is parameter or master.grad is None:
                    continue
                if self.rounds:
                    local(parameter).copy_(stochastic_round(master))
                    self._forget_master(name)
                else:
                    local(parameter).copy_(master)
        optimizer.zero_grad(set_to_none=True)

    def _forget_moments(self, names: Iterable[str]) -> None:
        """Free the moments of parameters that no longer train; should they train again, they begin anew."""
        gone = set(names)
        for chunk, optimizer in self._chunks:
            for name in gone.intersection(chunk):
                optimizer.state.pop(self.masters[name], None)

    def _forget_master(self, name: str) -> None:
        self.masters[name].data = torch.empty(0)

    def _value(self, name: str) -> torch.Tensor:
        """The fp32 values of this process's part."""
        return local(self.parameters[name].detach()).float() if self.rounds else self.masters[name].detach()

    def adopt_masters(self) -> None:
        """Give the model its fp32 masters, so that what is saved is exactly what was trained; moments and gradients go."""
        for name, parameter in self.parameters.items():
            parameter.data, parameter.grad = self._value(name), None
        self._chunks.clear()

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds parts of the parameters."""
        return any(hasattr(p, "to_local") for p in self.parameters.values())

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole fp32 weights by name (with sharding: every process must call it)."""
        return {name: whole(self._value(name), parameter) for name, parameter in self.parameters.items()}

    def load_masters(self, masters: dict[str, torch.Tensor]) -> None:
        """Set whole weights by name, in the masters and in the model."""
        with torch.no_grad():
            for name, value in masters.items():
                part = part_of(value.to(self.parameters[name].device), self.parameters[name])
                if not self.rounds:
                    self.masters[name].copy_(part)
                local(self.parameters[name]).copy_(part)

    def state(self) -> dict[str, torch.Tensor]:
        """The whole moments and the step counts by ``<parameter>|<key>`` (with sharding: every process must call it)."""
        moments = {
            f"{name}|{key}": whole(value, self.parameters[name])
            for name, moments in self._moments()
            for key, value in moments.items()
            if isinstance(value, torch.Tensor)
        }
        return moments | (self.beside.state() if self.beside is not None else {})

    def load_state(self, state: dict[str, torch.Tensor], step: int) -> None:
        """The inverse of :meth:`state`, after ``step`` steps."""
        by_name: dict[str, dict[str, torch.Tensor]] = {}
        if self.beside is not None:
            self.beside.load_state({k: v for k, v in state.items() if k.partition("|")[0] not in self.masters}, step)
        for full, value in state.items():
            name, _, key = full.rpartition("|")
            if name not in self.masters:
                continue
            by_name.setdefault(name, {})[key] = part_of(value, self.parameters[name])
        for names, optimizer in self._chunks:
            for name in names:
                if name not in by_name:
                    continue
                if self.galore is not None and name in self.galore.names:
                    self.galore.restore(optimizer, self.masters[name], by_name[name])
                else:
                    optimizer.state[self.masters[name]] = by_name[name]

    def _moments(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        for names, optimizer in self._chunks:
            for name in names:
                if self.galore is not None and name in self.galore.names:
                    yield name, self.galore.tensors(optimizer, self.masters[name])
                else:
                    yield name, optimizer.state.get(self.masters[name], {})


def _own(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The parameter, or one that shares the memory of this process's part of it."""
    part = local(parameter.detach())
    return (
        parameter
        if part.data_ptr() == parameter.data_ptr() and not hasattr(parameter, "to_local")
        else torch.nn.Parameter(part, requires_grad=False)
    )


def stochastic_round(values: torch.Tensor) -> torch.Tensor:
    """fp32 values -> bfloat16, up or down with the chance that makes the mean right. Draws from torch's random state."""
    noise = torch.randint_like(values, 0, 1 << 16, dtype=torch.int32)
    return (values.view(torch.int32) + noise).bitwise_and_(-1 << 16).view(torch.float32).to(torch.bfloat16)


def _chunks(parameters: dict[str, torch.nn.Parameter], most: int) -> Iterator[list[str]]:
    names: list[str] = []
    elements = 0
    for name, parameter in parameters.items():
        if names and elements + parameter.numel() > most:
            yield names
            names, elements = [], 0
        names.append(name)
        elements += parameter.numel()
    if names:
        yield names


def gathered(model: torch.nn.Module, optimizer: MasterAdamW) -> dict[str, torch.Tensor]:
    """The state dict of a sharded model, whole: fp32 masters of what trained, the rest as it is. Every process calls it."""
    weights = optimizer.weights()
    return {
        name: weights[name] if name in weights else whole(local(value.detach()), value)
        for name, value in model.state_dict().items()
    }


def decay_factor(total_steps: int, steps: int, peak: float, config: TrainConfig) -> float:
    """What decoupled weight decay alone has made of a weight after ``steps`` steps: the product of 1 - rate * decay."""
    rates = (learning_rate_at(step, total_steps, peak, config) for step in range(1, steps + 1))
    return math.prod(1 - rate * config.weight_decay for rate in rates)


def learning_rate_at(step: int, total_steps: int, peak: float, config: TrainConfig) -> float:
    """The rate of optimizer step ``step`` (from 1): linear warm-up, then the schedule down to 0 after the last step.

    The same values as transformers' ``get_{linear,cosine}_schedule_with_warmup``.
    """
    done = step - 1
    warmup = math.ceil(config.warmup_ratio * total_steps)
    if done < warmup:
        return peak * done / warmup
    share = (done - warmup) / max(1, total_steps - warmup)
    match config.lr_scheduler_type:
        case "linear":
            return peak * (1 - share)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * share))
        case "constant":
            return peak
