"""AdamW on fp32 master weights, in chunks."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from weitiao.config.train import TrainConfig
from weitiao.errors import ModelError
from weitiao.methods.galore import GaLore
from weitiao.methods.step_hooks import StepHooks
from weitiao.training.eight_bit import EightBitAdamW, is_narrowed, moment_bytes, scratch_bytes
from weitiao.training.loss_scale import LossScale
from weitiao.training.masters import Masters
from weitiao.training.shards import local

# Gradients are widened to fp32 one chunk at a time, so that their copy never holds a whole model.
_CHUNK_ELEMENTS = 8_000_000


class MasterAdamW:
    """AdamW (Loshchilov & Hutter 2019) whose weights and moments are fp32 whatever the model computes in.

    The step updates the masters and rounds them into the parameters. Biases and norm weights are not decayed.

    ``config.optimizer_in_backward``: :meth:`arm` before the backward pass, which then updates each parameter once its
    gradient is complete (LOMO, Lv et al. 2023, arXiv 2306.09782; here with AdamW).

    Args:
        rate_factor: by which the learning rate of a parameter is multiplied, by name.
        projection: has the moments of some parameters in a projection.
        hooks: what the method does between steps.
        in_fp32: parameters whose moments stay fp32 where ``config.optimizer`` holds them in 8 bits.

    ``scaling``: in float16 the scale of the loss, else None. :meth:`step` takes gradients that are larger by it.
    """

    def __init__(
        self,
        masters: Masters,
        config: TrainConfig,
        *,
        rate_factor: Callable[[str], float] = lambda name: 1.0,
        projection: GaLore | None = None,
        hooks: StepHooks | None = None,
        in_fp32: Collection[str] = (),
    ) -> None:
        self.masters, self.projection, self.hooks = masters, projection, hooks
        self.config, self.in_fp32 = config, frozenset(in_fp32)
        self.in_backward = config.optimizer_in_backward
        narrow = next((p for p in masters.parameters.values() if p.dtype == torch.float16), None)
        self.scaling = None if narrow is None else LossScale(narrow.device)
        self._chunks: list[tuple[list[str], torch.optim.Optimizer]] = []
        projected = projection.names if projection is not None else frozenset[str]()
        trained = masters.parameters
        parts = [{n: p for n, p in trained.items() if (n in projected) is part} for part in (False, True)]
        most = 0 if self.in_backward else _CHUNK_ELEMENTS
        for names in (names for part in parts for names in _chunks(part, most)):
            alike: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
            for name in names:
                kind = (trained[name].ndim > 1, rate_factor(name))
                alike.setdefault(kind, []).append(masters.tensors[name])
            groups = [
                {"params": chosen, "weight_decay": config.weight_decay if decays else 0.0, "factor": factor}
                for (decays, factor), chosen in alike.items()
            ]
            self._chunks.append((names, self._optimizer(names, groups)))
        self._number = 0
        self._rate: float | None = None
        self._squares: list[torch.Tensor] = []
        if self.in_backward:
            for names, optimizer in self._chunks:
                trained[names[0]].register_post_accumulate_grad_hook(partial(self._update_one, names, optimizer))

    def _optimizer(self, names: list[str], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """That of one chunk."""
        config, betas = self.config, (self.config.adam_beta1, self.config.adam_beta2)
        if self.projection is not None and names[0] in self.projection.names:
            return self.projection.optimizer(groups, betas, config.adam_epsilon)
        if config.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.adam_epsilon, fused=True)
        whole = [self.masters.tensors[name] for name in self.in_fp32.intersection(names)]
        paged = config.optimizer == "paged_adamw_8bit"
        return EightBitAdamW(groups, betas, config.adam_epsilon, in_fp32=whole, paged=paged)

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Hold as much of a GPU as the moments and one chunk's gradients in fp32 will, for a trial that has to see them.

        On a CPU memory that nothing has written to is not taken, so nothing is held there.
        """
        parameters = {name: local(p) for name, p in self.masters.parameters.items() if p.requires_grad}  # LISA's rest
        device = next((p.device for p in parameters.values()), torch.device("cpu"))
        held = None
        if device.type not in ("cpu", "meta"):
            projected = self.projection.names if self.projection is not None else frozenset[str]()
            sizes = {name: parameter.numel() for name, parameter in parameters.items()}
            held_moments = device_bytes(
                {n: size for n, size in sizes.items() if n not in projected}, self.config, self.in_fp32
            )
            chunk = max((sum(sizes.get(name, 0) for name in names) for names, _ in self._chunks), default=0)
            wanted = held_moments + update_bytes(chunk, self.config, device.type)
            try:
                held = torch.empty(wanted, dtype=torch.uint8, device=device)
            except torch.OutOfMemoryError:
                raise ModelError(
                    f"The optimizer's moments do not fit onto the GPU: {wanted / 1e9:.1f} GB.\n"
                    "Expected room for them next to the model.\nUse method.type=lora, or a larger GPU (weitiao plan)."
                ) from None
        try:
            yield
        finally:
            del held

    def arm(self, learning_rate: float, step: int) -> None:
        """Before the passes of ``step``. With ``optimizer_in_backward`` the next backward pass updates, until :meth:`step`."""
        self._rate = learning_rate if self.in_backward else None
        self._number = step
        if self.hooks is not None:
            self._forget_moments(self.hooks.before(step))

    def _update_one(self, names: list[str], optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> None:
        if self._rate is None:
            return
        square = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).square()
        self._squares.append(square)
        if self.projection is not None and not torch.isfinite(square):
            parameter.grad = None  # has no singular values; the run ends by its norm
            return
        self._update(names, optimizer, self._rate, None)

    def step(self, learning_rate: float, max_grad_norm: float | None, skip_non_finite: bool = False) -> torch.Tensor:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping (a tensor: no sync).

        Args:
            skip_non_finite: with a norm that is not finite, change nothing (reads the norm: a sync on a GPU). In float16
                nothing is changed then anyway.
        """
        if self.hooks is not None:
            self.hooks.add_gradients(None if self.scaling is None else self.scaling.scale)
        norm = self._step(learning_rate, max_grad_norm, skip_non_finite)
        if self.hooks is not None:
            self.masters.load(self.hooks.after(self._number))
        return norm

    def _step(self, learning_rate: float, max_grad_norm: float | None, skip_non_finite: bool) -> torch.Tensor:
        if self.in_backward:
            squares, self._squares, self._rate = self._squares, [], None
            return torch.stack(squares).sum().sqrt()
        trained = self.masters.parameters.values()
        gradients = [local(p.grad) for p in trained if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float32)))
        if self.masters.is_sharded:
            norm = norm.square()
            torch.distributed.all_reduce(norm)
            norm = norm.sqrt()
        scale = None
        if self.scaling is not None:
            scale = self.scaling.scale.reciprocal()
            norm = norm * scale
            overflows = ~torch.isfinite(norm)
            self.scaling.update(self._number, overflows)
            for _, optimizer in self._chunks:  # AdamW's kernel then leaves the step out
                optimizer.found_inf = overflows.float()  # type: ignore[attr-defined]
            # hooks look at gradients, and moments in 8 bits would be narrowed again
            skip_non_finite = self.hooks is not None or self.config.optimizer != "adamw"
        # infinity has no singular values
        if (skip_non_finite or self.projection is not None) and not torch.isfinite(norm):
            for parameter in trained:
                parameter.grad = None
            return norm  # type: ignore[no-any-return]
        if max_grad_norm is not None:
            clip = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            scale = clip if scale is None else clip * scale
        for names, optimizer in self._chunks:
            self._update(names, optimizer, learning_rate, scale)
        return norm  # type: ignore[no-any-return]

    def _update(
        self, names: list[str], optimizer: torch.optim.Optimizer, learning_rate: float, scale: torch.Tensor | None
    ) -> None:
        """One chunk: widen, update, round back, clear the gradients."""
        self.masters.take_gradients(names, scale)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        optimizer.step()
        if self.projection is not None:
            self.projection.settle(optimizer)
        if self.hooks is not None:
            self.hooks.updated(names)
        with torch.no_grad():
            self.masters.settle(names)
        optimizer.zero_grad(set_to_none=True)

    def _forget_moments(self, names: Iterable[str]) -> None:
        """Free the moments of parameters that no longer train; should they train again, they begin anew."""
        gone = set(names)
        for chunk, optimizer in self._chunks:
            for name in gone.intersection(chunk):
                optimizer.state.pop(self.masters.tensors[name], None)

    def adopt_masters(self) -> None:
        """Give the model its fp32 masters, so that what is saved is exactly what was trained; moments and gradients go."""
        for name, parameter in self.masters.parameters.items():
            parameter.data, parameter.grad = self.masters.value(name), None
        self._chunks.clear()

    def state(self) -> dict[str, torch.Tensor]:
        """The moments of this process's parts and the step counts, by ``<parameter>|<key>``."""
        if self.config.optimizer == "paged_adamw_8bit" and torch.cuda.is_available():
            torch.cuda.synchronize()  # moments may still be on their way to the host
        moments = {
            f"{name}|{key}": value
            for name, moments in self._moments()
            for key, value in moments.items()
            if isinstance(value, torch.Tensor)
        }
        return moments | (self.hooks.state() if self.hooks is not None else {})

    def load_state(self, state: dict[str, torch.Tensor], step: int) -> None:
        """The inverse of :meth:`state`, after ``step`` steps."""
        tensors, parameters = self.masters.tensors, self.masters.parameters
        by_name: dict[str, dict[str, torch.Tensor]] = {}
        if self.hooks is not None:
            self.hooks.load_state({k: v for k, v in state.items() if k.partition("|")[0] not in tensors}, step)
        for full, value in state.items():
            name, _, key = full.rpartition("|")
            if name in tensors:
                by_name.setdefault(name, {})[key] = value.to(parameters[name].device)
        for names, optimizer in self._chunks:
            for name in names:
                if name not in by_name:
                    continue
                if self.projection is not None and name in self.projection.names:
                    self.projection.restore(optimizer, tensors[name], by_name[name])
                elif isinstance(optimizer, EightBitAdamW):
                    optimizer.state[tensors[name]] = optimizer.place(by_name[name])
                else:
                    optimizer.state[tensors[name]] = by_name[name]

    def _moments(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        for names, optimizer in self._chunks:
            for name in names:
                if self.projection is not None and name in self.projection.names:
                    yield name, self.projection.tensors(optimizer, self.masters.tensors[name])
                else:
                    yield name, optimizer.state.get(self.masters.tensors[name], {})


def host_bytes(sizes: Mapping[str, int], config: TrainConfig, in_fp32: Collection[str] = ()) -> int:
    """Bytes of the moments that lie in the host's memory beside a GPU."""
    if config.optimizer != "paged_adamw_8bit":
        return 0
    return sum(moment_bytes(n) for name, n in sizes.items() if name not in in_fp32 and is_narrowed(n))


def device_bytes(sizes: Mapping[str, int], config: TrainConfig, in_fp32: Collection[str] = ()) -> int:
    """Bytes of AdamW's moments on the device, of parameters of these numbers of values."""
    if config.optimizer == "adamw":
        return 8 * sum(sizes.values())
    held = sum(moment_bytes(n, name in in_fp32) for name, n in sizes.items())
    return held - host_bytes(sizes, config, in_fp32)


def update_bytes(chunk: int, config: TrainConfig, device: str) -> int:
    """Bytes that the update of so many values takes for a while: their gradient in fp32, and moments in hand."""
    return 4 * chunk + (0 if config.optimizer == "adamw" else scratch_bytes(chunk, device))


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
