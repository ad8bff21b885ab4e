"""One base in memory, and the adapters of many runs: one pass of its body over rows of all of them.

A batch is sorted by adapter. Each layer computes all rows once, and adds to each adapter's rows what its A and B make of them
(as S-LoRA, Sheng et al. 2023, arXiv 2311.03285, on padded rows). Each run's own head then reads its rows' states.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from weitiao.inference.packed import PackedLinear
from weitiao.inference.sharing import turn_of
from weitiao.kernels import attention

Pair = tuple[torch.Tensor, torch.Tensor]
# Batches in a row of one adapter after which it is summed into a copy of the layers' weights: its own small products are a third of
# a batch's time (docs/LOG.md).
_SAME = 8
_OF_A_BATCH = ("input_ids", "attention_mask", "token_type_ids")


class Segments(threading.local):
    """Whose rows a thread's batch holds: adapter ``names[i]`` has the rows from ``bounds[i]`` up to ``bounds[i + 1]``."""

    names: Sequence[str] = ()
    bounds: Sequence[int] = (0,)

    def check(self, rows: torch.Tensor) -> None:
        """Raise CannotShare for a layer that does not see the batch row by row: it would mix up whose rows are whose."""
        if len(rows) != self.bounds[-1]:
            raise CannotShare(f"a layer sees {len(rows)} rows of a batch of {self.bounds[-1]}")

    def parts(self, known: Mapping[str, Any]) -> Iterator[tuple[Any, int, int]]:
        """What ``known`` has of each adapter of the batch, with its rows."""
        for name, first, end in zip(self.names, self.bounds[:-1], self.bounds[1:], strict=True):
            if (part := known.get(name)) is not None:
                yield part, first, end


class CannotShare(Exception):
    """An adapter does not fit beside others on one body; it needs a model of its own."""


class MixedLinear(nn.Module):
    """A linear layer, and the pairs A [r, in], B [out, r] of the adapters that change it; B holds the scale."""

    def __init__(self, own: nn.Module, segments: Segments) -> None:
        super().__init__()
        self.own, self.segments = own, segments
        self.pairs: dict[str, Pair] = {}
        self._summed: tuple[str, torch.Tensor] | None = None

    def sum_in(self, name: str | None) -> None:
        """Keep W + B A of one adapter for batches that are its alone; None: of none."""
        self._summed = None
        if name in self.pairs and type(self.own) is nn.Linear:
            a, b = self.pairs[name]
            self._summed = name, torch.addmm(self.own.weight, b, a)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, ..., in] -> [N, ..., out], N as in ``segments``."""
        self.segments.check(rows)
        summed = self._summed  # another thread may change it
        if summed is not None and list(self.segments.names) == [summed[0]]:
            return linear(rows, summed[1], self.own.bias)  # type: ignore[arg-type]
        out: torch.Tensor = self.own(rows)
        found = list(self.segments.parts(self.pairs))
        if not found:
            return out
        if len({end - first for _, first, end in found}) > 1:  # a product takes equal parts: each row is one
            found = [(pair, row, row + 1) for pair, first, end in found for row in range(first, end)]
        count, width = len(found), found[0][2] - found[0][1]
        a, b = _stacked([pair for pair, _, _ in found])
        first, end = found[0][1], found[-1][2]
        if count * width == end - first:  # no other rows among them
            states, added = rows[first:end].reshape(count, -1, rows.shape[-1]), out[first:end]
            added.view(count, -1, out.shape[-1]).baddbmm_(torch.bmm(states, a.mT), b.mT)
            return out
        places = [row for _, first, end in found for row in range(first, end)]
        states = rows[places].reshape(count, -1, rows.shape[-1])
        out[places] += torch.bmm(torch.bmm(states, a.mT), b.mT).view(-1, *out.shape[1:])
        return out


def _stacked(pairs: Sequence[Pair]) -> Pair:
    """A [N, r, in] and B [N, out, r] of all, r the highest rank; what a lower one lacks is zero."""
    if len(pairs) == 1:
        return pairs[0][0][None], pairs[0][1][None]
    most = max(len(a) for a, _ in pairs)
    if any(len(a) < most for a, _ in pairs):
        pad = nn.functional.pad
        pairs = [(pad(a, (0, 0, 0, most - len(a))), pad(b, (0, most - len(a)))) for a, b in pairs]
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])


class MixedWhole(nn.Module):
    """A module that adapters may bring whole; the others' rows go through the base's own."""

    def __init__(self, own: nn.Module, segments: Segments) -> None:
        super().__init__()
        self.own, self.segments = own, segments
        self.copies: dict[str, nn.Module] = {}

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> [N, ...]."""
        self.segments.check(rows)
        names, bounds = self.segments.names, self.segments.bounds
        if not any(name in self.copies for name in names):
            return self.own(rows)  # type: ignore[no-any-return]
        return torch.cat(
            [
                self.copies.get(name, self.own)(rows[first:end])
                for name, first, end in zip(names, bounds[:-1], bounds[1:], strict=True)
            ]
        )


class Given(nn.Module):
    """Stands where a model's body was, and answers with outputs that the same thread has already."""

    def __init__(self) -> None:
        super().__init__()
        self.known = threading.local()

    def forward(self, *_: Any, **more: Any) -> Any:
        """Whatever the arguments, but for what a shared body is not given: CannotShare."""
        if own := [name for name, value in more.items() if isinstance(value, torch.Tensor) and name not in _OF_A_BATCH]:
            raise CannotShare(f"its head gives the body {own[0]}")
        return self.known.outputs


@dataclass
class Body:
    """The body of one base, with what it holds of each adapter.

    Where batches are of one adapter alone, it is summed into a second copy of the weights that it changes, until another's come.
    """

    model: Any
    segments: Segments = field(default_factory=Segments)
    summed: str | None = None
    _last: tuple[str, int] = ("", 0)  # the adapter of the last batches, and how many they are
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: dict[str, object] = field(default_factory=dict)  # adapters, each with a mark of its own
    _seen: int = 0  # mixed modules of which is known that they see a batch row by row
    paths: dict[type, set[str]] = field(default_factory=lambda: {MixedLinear: set(), MixedWhole: set()})

    def __post_init__(self) -> None:
        self._turn = turn_of(self.model)

    @classmethod
    def load(cls, base: str, dtype: torch.dtype = torch.float32) -> "Body":
        """The base without a head; on a CPU with our attention, where that is tested."""
        import transformers

        from weitiao.pretrained.locate import NO_FOREIGN_CODE

        model = transformers.AutoModel.from_pretrained(base, dtype=dtype, use_safetensors=True, **NO_FOREIGN_CODE)
        if model.config.model_type in attention.MODEL_TYPES and model.device.type == "cpu":
            model.config._attn_implementation = attention.register()
        return cls(model.eval())

    def add(self, name: str, pairs: Mapping[str, Pair], whole: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take an adapter in.

        Args:
            pairs: A and scaled B by the path of the layer that they change.
            whole: the state dict of each module that the adapter brings whole, by its path.

        Raises:
            CannotShare: a layer lies inside a module that another adapter brings whole, or is no linear one.
        """
        linears, wholes = self.paths[MixedLinear] | set(pairs), self.paths[MixedWhole] | set(whole)
        if inside := [path for path in linears | wholes if any(path.startswith(f"{one}.") for one in wholes)]:
            raise CannotShare(f"{inside[0]} is part of a module that an adapter brings whole")
        if odd := [path for path in pairs if type(self._plain(path)) not in (nn.Linear, PackedLinear)]:
            raise CannotShare(f"{odd[0]} is no linear layer")
        if odd := [path for path in whole if not _takes_rows(self._plain(path))]:
            raise CannotShare(f"the adapter brings {odd[0]} whole, which may read more than rows")
        dtype = self.model.dtype
        for path, (a, b) in pairs.items():
            self._mixed(path, MixedLinear).pairs[name] = a.to(dtype), b.to(dtype)
        for path, state in whole.items():
            copied = _like(self._plain(path))
            copied.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
            self._mixed(path, MixedWhole).copies[name] = copied.eval()
        self._held[name] = object()

    def remove(self, name: str) -> None:
        """Let an adapter go."""
        self._held.pop(name, None)  # first: a batch of another thread that still needs it must not go unseen
        with self._lock:
            self._last = ("", 0)
            if self.summed == name:
                self._sum_in(None)
        for module in self.model.modules():
            if isinstance(module, MixedLinear):
                module.pairs.pop(name, None)
            elif isinstance(module, MixedWhole):
                module.copies.pop(name, None)

    def _plain(self, path: str) -> nn.Module:
        """The base's own module at ``path``."""
        module = self.model.get_submodule(path)
        while isinstance(module, MixedLinear | MixedWhole):
            module = module.own
        return module  # type: ignore[no-any-return]

    def _mixed(self, path: str, kind: Any) -> Any:
        """The mixed module of a kind at ``path``, put there the first time."""
        at = self.model.get_submodule(path)
        while isinstance(at, MixedLinear | MixedWhole):
            if isinstance(at, kind):
                return at
            at = at.own
        mixed = kind(self.model.get_submodule(path), self.segments)
        parent, _, last = path.rpartition(".")
        setattr(self.model.get_submodule(parent), last, mixed)
        self.paths[kind].add(path)
        return mixed

    def outputs(self, batches: Sequence[Mapping[str, torch.Tensor]], names: Sequence[str]) -> list[Any]:
        """The body's outputs for each batch, from one pass over all of them.

        Args:
            batches: input_ids [n, L] and what belongs to them; one after another by adapter.
            names: the adapter of each batch.

        Raises:
            CannotShare: an adapter is not here, or has gone meanwhile, or a layer does not see the batch row by row.
        """
        marks = [self._held.get(name) for name in names]
        self._see_rows()
        joined = _joined(batches)
        self.segments.names, self.segments.bounds = grouped(names, [len(batch["input_ids"]) for batch in batches])
        self._watch(self.segments.names)
        with self._turn:
            found = self.model(**joined)
        if gone := [
            name for name, mark in zip(names, marks, strict=True) if mark is None or mark is not self._held.get(name)
        ]:
            raise CannotShare(f"{gone[0]} is not on the shared body any more")
        outputs, first = [], 0
        for batch in batches:
            rows, length = batch["input_ids"].shape
            own = {
                key: (value[first : first + rows, :length] if value.dim() == 3 else value[first : first + rows]).float()
                for key, value in found.items()
                if isinstance(value, torch.Tensor)
            }
            outputs.append(type(found)(**own))
            first += rows
        return outputs

    def _see_rows(self) -> None:
        """Raise CannotShare where a layer does not see a batch row by row, which a batch of as many rows by chance hides."""
        mixed = sum(map(len, self.paths.values()))
        if mixed == self._seen:
            return
        self.segments.names, self.segments.bounds = [""], [0, 3]
        try:
            with self._turn:
                self.model(input_ids=torch.full((3, 5), 2))
        except CannotShare:
            raise
        except Exception as error:  # a body that wants more than tokens
            raise CannotShare(f"its body cannot be asked by itself: {error}") from error
        self._seen = mixed

    def _watch(self, names: Sequence[str]) -> None:
        """Sum an adapter in once it has had some batches to itself, and out when another one has."""
        with self._lock:
            if len(names) != 1:
                self._last = ("", 0)
                return
            self._last = (names[0], self._last[1] + 1 if names[0] == self._last[0] else 1)
            if self._last[1] == _SAME and self.summed != names[0]:
                self._sum_in(names[0])

    def _sum_in(self, name: str | None) -> None:
        self.summed = name
        for module in self.model.modules():
            if isinstance(module, MixedLinear):
                module.sum_in(name)


def _takes_rows(module: nn.Module) -> bool:
    """Whether a module is known to make one tensor of one."""
    return isinstance(module, nn.Linear | PackedLinear | nn.LayerNorm) or type(module).__name__.endswith("Pooler")


def _like(module: nn.Module) -> nn.Module:
    """A module of the same kind without values of its own."""
    import copy

    if isinstance(module, PackedLinear):
        return module.unpacked()
    with torch.device("meta"):
        return copy.deepcopy(module).to("meta")


def grouped(names: Sequence[str], rows: Sequence[int]) -> tuple[list[str], list[int]]:
    """Names and bounds of :class:`Segments`: neighbours of one adapter are one segment."""
    found: list[str] = []
    bounds = [0]
    for name, count in zip(names, rows, strict=True):
        if found and found[-1] == name:
            bounds[-1] += count
        else:
            found.append(name)
            bounds.append(bounds[-1] + count)
    return found, bounds


def _joined(batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One batch of all rows, padded to the longest; a mask is there only where something is padded."""
    ids = [batch["input_ids"] for batch in batches]
    longest = max(one.shape[1] for one in ids)
    padded = any(one.shape[1] < longest for one in ids) or any("attention_mask" in batch for batch in batches)

    def wide(one: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(one, (0, longest - one.shape[1]))

    joined = {"input_ids": torch.cat([wide(one) for one in ids])}
    if padded:
        joined["attention_mask"] = torch.cat(
            [wide(batch.get("attention_mask", torch.ones_like(batch["input_ids"]))) for batch in batches]
        )
    if any("token_type_ids" in batch for batch in batches):
        joined["token_type_ids"] = torch.cat(
            [wide(batch.get("token_type_ids", torch.zeros_like(batch["input_ids"]))) for batch in batches]
        )
    return joined
