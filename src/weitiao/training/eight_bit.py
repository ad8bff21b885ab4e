"""AdamW whose moments are held in 8 bits (Dettmers et al. 2022, arXiv 2110.02861): 2 bytes a parameter instead of 8.

A moment is cut into blocks of 256 values. Each is divided by its largest, and held as the nearest of 256 values: the dynamic
map of bitsandbytes, signed for the first moment and not for the second. A step widens a slice of both moments to fp32,
lets torch's fused AdamW update them, and narrows them again. So the same code runs on every device.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.optim.adamw import adamw

BLOCK = 256
SMALLEST = 4096  # smaller tensors keep fp32 moments, as bitsandbytes has it
SCRATCH_BYTES = 24  # a value in hand: both moments, one being narrowed with its cells and codes
_SLICES = {"cpu": 1 << 18}  # values in hand; on a CPU they stay in its cache
_GPU_SLICE = 1 << 23
_CELL_BITS = 20  # of an fp32 number: its sign, its exponent and 11 bits of its fraction choose a code
_MOMENTS = ("exp_avg", "exp_avg_sq")


def dynamic_map(signed: bool) -> torch.Tensor:
    """[256] the values of the codes, ascending: 7 decades below 1, each with twice as many values as the one before.

    With a sign a decade has half as many values on either side.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        bounds = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1)
        means = ((bounds[:-1] + bounds[1:]) / 2 * 10 ** (decade - 6)).tolist()
        values += [*means, *(-value for value in means)] if signed else means
    return torch.tensor(sorted(values))


@lru_cache
def _tables(key: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [256] of the codes, code [2**20] of each cell: the nearest value to the cell's middle)."""
    values = dynamic_map(signed=key == "exp_avg")
    rest = 32 - _CELL_BITS
    cells = torch.arange(1 << _CELL_BITS)
    cells -= (cells >> (_CELL_BITS - 1)) << _CELL_BITS  # the sign bit
    middles = ((cells << rest) + (1 << (rest - 1))).to(torch.int32).view(torch.float32)
    codes = torch.bucketize(middles.nan_to_num(0.0), (values[:-1] + values[1:]) / 2)
    return values.to(device), codes.to(torch.uint8).to(device)


def narrow(moment: torch.Tensor, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 [blocks, 256] -> codes uint8 [blocks, 256] and the blocks' largest absolute values [blocks].

    A value within 2**-12 of the middle between two codes may get either.
    """
    scale = moment.abs().amax(dim=1)
    cells = (moment / scale[:, None]).view(torch.int32)  # a block of zeros: nan, whose code is multiplied by 0
    cells = cells.bitwise_right_shift_(32 - _CELL_BITS).bitwise_and_((1 << _CELL_BITS) - 1)
    codes = _tables(key, moment.device)[1].index_select(0, cells.flatten())
    return codes.view(moment.shape), scale


def widen(codes: torch.Tensor, scale: torch.Tensor, key: str) -> torch.Tensor:
    """The inverse of :func:`narrow`, as near as 8 bits come."""
    values = _tables(key, codes.device)[0].index_select(0, codes.flatten().int())
    return values.view(codes.shape).mul_(scale[:, None])


def is_narrowed(count: int) -> bool:
    """Whether a tensor of ``count`` values is large enough for moments in 8 bits."""
    return count >= SMALLEST


def moment_bytes(count: int, in_fp32: bool = False) -> int:
    """Bytes of both moments of a tensor of ``count`` values."""
    return 8 * count if in_fp32 or not is_narrowed(count) else 2 * -(-count // BLOCK) * (BLOCK + 4)


def scratch_bytes(most: int, device: str) -> int:
    """Bytes that a step takes on top of moments and gradients, where it updates at most ``most`` values at a time."""
    return SCRATCH_BYTES * min(most, _slice(device))


def _slice(device: str) -> int:
    return _SLICES.get(device, _GPU_SLICE)


class _Piece(NamedTuple):
    """Some blocks of one parameter: flat views of it and its gradient, and where its moments lie."""

    parameter: torch.Tensor
    gradient: torch.Tensor
    state: dict[str, torch.Tensor]
    blocks: slice


class EightBitAdamW(torch.optim.Optimizer):
    """AdamW with codes [blocks, 256] and scales [blocks] as its moments.

    Args:
        groups: with ``lr`` and ``weight_decay``, as torch.optim.AdamW takes them.
        in_fp32: parameters whose moments stay fp32.
        paged: codes and scales lie in the host's memory, pinned, and are on the device for their update alone.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        eps: float,
        *,
        in_fp32: Collection[torch.Tensor] = (),
        paged: bool = False,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps})
        self._in_fp32, self.paged = {id(parameter) for parameter in in_fp32}, paged

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of the parameters that have a gradient."""
        for group in self.param_groups:
            plain: list[torch.Tensor] = []
            packed: list[torch.Tensor] = []
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter] or self._begin(parameter)
                    (packed if "exp_avg_scale" in state else plain).append(parameter)
            states = [self.state[p] for p in plain]
            gradients = [p.grad for p in plain if p.grad is not None]
            _adamw(group, plain, gradients, states, [s["step"] for s in states])
            for pieces in self._in_hand(packed):
                self._update(group, pieces)
            if packed:
                torch._foreach_add_([self.state[p]["step"] for p in packed], 1)

    def place(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state where this optimizer keeps it."""
        if not self.paged or "exp_avg_scale" not in state:
            return state
        return {k: v if k == "step" else v.cpu().pin_memory() if v.is_cuda else v.cpu() for k, v in state.items()}

    def _begin(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = {"step": torch.zeros((), device=parameter.device)}
        if id(parameter) in self._in_fp32 or not (is_narrowed(parameter.numel()) and parameter.is_contiguous()):
            state |= {key: torch.zeros_like(parameter) for key in _MOMENTS}
        else:
            blocks = -(-parameter.numel() // BLOCK)
            for key in _MOMENTS:
                state[key] = torch.zeros(blocks, BLOCK, dtype=torch.uint8, device=parameter.device)
                state[key + "_scale"] = torch.zeros(blocks, device=parameter.device)
        self.state[parameter] = self.place(state)
        return self.state[parameter]  # type: ignore[no-any-return]

    def _in_hand(self, parameters: Iterable[torch.Tensor]) -> Iterator[list[_Piece]]:
        """Pieces of the parameters that are updated together."""
        pieces: list[_Piece] = []
        room = 0
        for parameter in parameters:
            assert parameter.grad is not None
            most = _slice(parameter.device.type) // BLOCK
            flat, gradient, state = parameter.view(-1), parameter.grad.reshape(-1), self.state[parameter]
            for start in range(0, blocks := len(state["exp_avg_scale"]), most):
                part = slice(start, min(start + most, blocks))
                if pieces and part.stop - start > room:
                    yield pieces
                    pieces = []
                room = (room if pieces else most) - (part.stop - start)
                values = slice(start * BLOCK, part.stop * BLOCK)
                pieces.append(_Piece(flat[values], gradient[values], state, part))
        if pieces:
            yield pieces

    def _update(self, group: dict[str, Any], pieces: list[_Piece]) -> None:
        device = pieces[0].parameter.device
        sizes = [one.blocks.stop - one.blocks.start for one in pieces]

        def held(key: str) -> list[torch.Tensor]:
            return [one.state[key][one.blocks] for one in pieces]

        def at_device(key: str) -> torch.Tensor:
            return torch.cat([part.to(device, non_blocking=True) for part in held(key)])

        wide = {key: widen(at_device(key), at_device(key + "_scale"), key) for key in _MOMENTS}
        states = [
            {key: wide[key].view(-1)[at * BLOCK :][: one.parameter.numel()] for key in _MOMENTS}
            for one, at in zip(pieces, (sum(sizes[:i]) for i in range(len(sizes))), strict=True)
        ]
        steps = torch._foreach_add(
            [one.state["step"] for one in pieces], 0.0
        )  # copies: a parameter may be in two pieces
        _adamw(group, [one.parameter for one in pieces], [one.gradient for one in pieces], states, list(steps))
        for key in _MOMENTS:
            codes, scale = narrow(wide.pop(key), key)
            torch._foreach_copy_(held(key), codes.split(sizes), non_blocking=self.paged)
            torch._foreach_copy_(held(key + "_scale"), scale.split(sizes), non_blocking=self.paged)


def _adamw(
    group: dict[str, Any],
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: list[dict[str, torch.Tensor]],
    steps: list[torch.Tensor],
) -> None:
    """torch's fused AdamW on these tensors."""
    first, second = ([state[key] for state in states] for key in _MOMENTS)
    adamw(
        params=parameters, grads=gradients, exp_avgs=first, exp_avg_sqs=second, max_exp_avg_sqs=[], state_steps=steps,
        fused=True, amsgrad=False, maximize=False,
        beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
    )  # fmt: skip
