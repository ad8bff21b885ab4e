"""What a step of a model costs, counted without running it: operations, bytes moved, bytes held.

The model's own code (our kernels included) runs on torch's meta device, where tensors have shapes and no values. Every
operation passes through :class:`Trace`, which adds up

    flops          2 for each multiply-add of a matrix product (torch.utils.flop_counter's formulas)
    bytes          read and written by every operation that is no view
    held bytes     storages that are alive: after the forward pass those are what autograd saved, whatever kernel saved it

so nothing has to be known about architectures. Time is a roofline (Williams et al. 2009, doi 10.1145/1498765.1498785):
an operation takes the longer of flops / rate and bytes / bandwidth, plus a fixed overhead. A GPU computes while the host
prepares the next operations: there a step takes the longer of the two sums.
"""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from weitiao.measure.fused_kernels import kernels_of

MASTER_BYTES = 4  # fp32 weights beside the ones that compute
# Widening the gradient, clipping, AdamW's reads and writes, rounding back: bytes a trained parameter and step.
UPDATE_TRAFFIC_BYTES = 48
# With moments in 8 bits, estimated: the sum over the operations of training/eight_bit.py; a CPU looks codes up one by one.
NARROWED_TRAFFIC_BYTES = {"cpu": 9 * UPDATE_TRAFFIC_BYTES, "cuda": 160}
UPDATE_OPERATIONS = 3  # a tensor and step, in units of a traced operation's overhead
# Products of a mixture's experts, torch's own and transformers' stand-in: torch has no formula for them.
_GROUPED = "grouped_mm"
_MULTIPLIES = re.compile(r"mm$|mm_|matmul|einsum|lstm|\bgru|convolution|attention")
_IN_PLACE = {torch.ops.aten.addmm_: torch.ops.aten.addmm, torch.ops.aten.baddbmm_: torch.ops.aten.baddbmm}
Kind = Literal["product", "batched product", "int8 product"]


class Work(NamedTuple):
    """What an operation moves and computes: bytes read and written, 2 for each multiply-add, and which products they are."""

    moved: int
    flops: float
    kind: Kind


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second. Each is measured (measure/rates.py) or estimated (measure/devices.py)."""

    gemm_flops_per_s: float
    gemm_bytes_per_s: float  # of products with a narrow side, an adapter's: they compute little for what they move
    batched_gemm_flops_per_s: float  # attention's small products
    elementwise_bytes_per_s: float  # on tensors of the size of an activation: mostly in cache on a CPU
    memory_bytes_per_s: float  # on tensors that no cache holds
    int8_gemm_flops_per_s: float
    overhead_s: float  # of one operation
    host_s: float = 0.0  # of one operation on the host, while the device computes; 0: they are the same

    def work_seconds(self, work: Mapping[Work, int]) -> float:
        """Of the operations themselves, however many there are: the longer of computing and moving."""
        flops = {
            "product": self.gemm_flops_per_s,
            "batched product": self.batched_gemm_flops_per_s,
            "int8 product": self.int8_gemm_flops_per_s,
        }
        return sum(n * max(one.moved / self._moving(one), one.flops / flops[one.kind]) for one, n in work.items())

    def _moving(self, one: Work) -> float:
        return self.gemm_bytes_per_s if one.flops and one.kind == "product" else self.elementwise_bytes_per_s

    def overhead_seconds(self, work: Mapping[Work, int], operations: int) -> float:
        """What the number of operations alone makes; a view costs a device nothing."""
        return self.overhead_s * (sum(work.values()) if self.host_s else operations)

    def host_seconds(self, operations: int) -> float:
        """Of the host beside a device; a step takes the longer of the two."""
        return self.host_s * operations

    def update_seconds(self, trained_parameters: int, tensors: int, traffic: int = UPDATE_TRAFFIC_BYTES) -> float:
        """One optimizer step over so many parameters in so many tensors, of so many bytes moved a parameter."""
        operations = UPDATE_OPERATIONS * tensors
        moved = traffic * trained_parameters / self.memory_bytes_per_s
        return max(moved + operations * self.overhead_s, operations * self.host_s)


@dataclass(frozen=True)
class Passes:
    """Operations of a forward pass, or of a forward and backward pass, and how often each occurs."""

    work: Mapping[Work, int]
    operations: int  # views included

    @property
    def flops(self) -> float:
        return sum(one.flops * n for one, n in self.work.items())

    def seconds(self, rates: Rates) -> float:
        """On a machine of these rates."""
        device = rates.work_seconds(self.work) + rates.overhead_seconds(self.work, self.operations)
        return max(device, rates.host_seconds(self.operations))


@dataclass(frozen=True)
class StepCost:
    """One forward and backward pass of one batch, on any machine."""

    forward: Passes
    both: Passes
    saved_bytes: int  # alive after the forward pass
    peak_bytes: int  # most alive at once, on top of what the model holds; gradients included
    # Operations that multiply, by their names, and have no formula: they count as moving alone.
    uncounted: tuple[str, ...]

    @property
    def flops(self) -> float:
        return self.both.flops


@dataclass(frozen=True)
class _Operation:
    """What an operation costs on inputs of some shapes.

    Args:
        fresh: shape, stride and dtype of each result where all are new tensors.
        returns_first: it writes into its first argument and returns that.
        holds: some result is a new storage.
        work: None for a view.
        uncounted: its name, where it multiplies and has no formula.
    """

    fresh: list[Any] | None = None
    returns_first: bool = False
    holds: bool = False
    work: Work | None = None
    uncounted: str | None = None


# Signature -> operation, for the whole process: plans of a grid, and trials of batch sizes, trace the same again and again.
_KNOWN: dict[Any, _Operation] = {}
_MOST_KNOWN = 20_000  # then it starts anew; a signature takes about a kilobyte


class Trace(TorchDispatchMode):
    """Counts the operations inside its ``with`` block. Storages made before it are not counted as held."""

    def __init__(self, int8_weights: set[int] = frozenset(), padded: bool = True) -> None:  # type: ignore[assignment]
        """
        Args:
            int8_weights: :func:`storage_key` of the frozen weights that a run keeps in int8.
            padded: the batch has a mask, and it is not all ones. Models ask for that value alone; without a mask they ask
                whether the positions are those of one row, and they are.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._int8, self._padded = int8_weights, padded
        self.work: Counter[Work] = Counter()
        self.operations = 0
        self.held_bytes = self.peak_bytes = 0
        self.uncounted: set[str] = set()
        self._alive: dict[int, weakref.ref[Any]] = {}

    def passes(self) -> Passes:
        """What was counted so far."""
        return Passes(dict(self.work), self.operations)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return not self._padded
        self.operations += 1
        key = (func, torch.get_default_dtype(), *_signature(args), *_signature(kwargs.items()))
        if (seen := _KNOWN.get(key)) is None:
            out = func(*args, **kwargs)
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            seen = _KNOWN[key] = _look(func, args, kwargs, out)
        elif seen.fresh is not None:  # a meta function takes up to a millisecond of Python, and layers repeat
            made = [None if like is None else torch.empty_strided(*like[:2], dtype=like[2], device="meta") for like in seen.fresh]  # fmt: skip
            out = tuple(made) if len(made) > 1 else made[0]
        else:
            out = args[0] if seen.returns_first else func(*args, **kwargs)
        if seen.uncounted is not None:
            self.uncounted.add(seen.uncounted)
        if (work := seen.work) is not None:
            self.work[work._replace(kind="int8 product") if self._int8 and self._takes_int8(args) else work] += 1
        if seen.holds:
            for tensor in _tensors((out,)):
                self._hold(tensor.untyped_storage())
        return out

    def _takes_int8(self, args: Any) -> bool:
        return any(storage_key(t) in self._int8 for t in _tensors(args))

    def _hold(self, storage: Any) -> None:
        size, key = storage.nbytes(), storage._cdata
        if key in self._alive:
            return

        def release(_: Any) -> None:
            del self._alive[key]
            self.held_bytes -= size

        self._alive[key] = weakref.ref(storage, release)
        self.held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)


def _look(func: Any, args: Any, kwargs: Any, out: Any) -> "_Operation":
    """What an operation on such inputs does; its results on other tensors of the same shapes are alike."""
    inputs, outputs = _tensors((*args, *kwargs.values())), _tensors((out,))
    known = {storage_key(t) for t in inputs}
    fresh = [t for t in outputs if storage_key(t) not in known]
    mutable = func._schema.is_mutable
    if not fresh and not mutable:
        return _Operation()  # a view moves nothing
    parts = out if isinstance(out, tuple) else (out,)
    tensors = [t for t in parts if t is not None]
    replayed = bool(tensors) and not mutable and all(isinstance(t, torch.Tensor) and t.is_meta for t in tensors)
    batched = bool(inputs) and inputs[0].ndim > 2
    moved = sum(t.numel() * t.element_size() for t in [*inputs, *outputs])
    flops, uncounted = _flops(func, args, kwargs, out) if moved else (0.0, None)
    return _Operation(
        fresh=[None if t is None else (t.shape, t.stride(), t.dtype) for t in parts]
        if replayed and len(fresh) == len(tensors)
        else None,
        returns_first=mutable and bool(args) and out is args[0],
        holds=bool(fresh),
        work=Work(moved, flops, "batched product" if batched else "product") if moved else None,
        uncounted=uncounted,
    )


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> tuple[float, str | None]:
    """2 for each multiply-add; and the name of an operation that multiplies and has no formula."""
    packet = _IN_PLACE.get(func._overloadpacket, func._overloadpacket)
    counted = flop_registry.get(packet)
    if counted is None:
        if _GROUPED in str(packet):
            return _grouped_flops(args, out), None
        return 0.0, str(packet) if _MULTIPLIES.search(str(packet)) else None
    kwargs = {key: value for key, value in kwargs.items() if key not in ("alpha", "beta")}
    return float(counted(*args, **kwargs, out_val=out)), None


def _grouped_flops(args: Any, out: Any) -> float:
    """Rows of one operand, each with the matrix of its group: 2 T K N, forward and for either gradient."""
    if isinstance(out, tuple):  # the stand-in's backward pass: gradients of both
        tokens, weight = (
            next(t for t in _tensors(args) if t.dim() == 2),
            next(t for t in _tensors(args) if t.dim() == 3),
        )
        return 4.0 * tokens.shape[0] * weight.shape[1] * weight.shape[2]
    a, b = _tensors(args)[:2]
    if a.dim() == b.dim() == 2:  # [M, T] and [T, N], T cut into groups
        return 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
    if a.dim() == b.dim():
        return 2.0 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
    rows, weight = (a, b) if a.dim() == 2 else (b, a)
    return 2.0 * rows.numel() * (weight.numel() // weight.shape[0]) / (rows.shape[1] if a.dim() == 2 else rows.shape[0])


def _signature(values: Iterable[Any]) -> Iterable[Any]:
    """What an operation's result depends on but for the values of tensors."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value.shape, value.stride(), value.dtype, value.device
        elif isinstance(value, list | tuple):
            yield tuple(_signature(value))
        else:
            yield type(value), value  # 1, 1.0 and True are equal, and give results of other dtypes


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def storage_key(tensor: torch.Tensor) -> int:
    """Tells storages apart, as long as they live."""
    return int(tensor.untyped_storage()._cdata)


def step_cost(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    int8_weights: set[int] = frozenset(),  # type: ignore[assignment]
    device: str = "cpu",
    padded: bool = True,
) -> StepCost:
    """The cost of ``loss()`` and its backward pass, for a model whose tensors are all on the meta device.

    Args:
        int8_weights, padded: see :class:`Trace`.
        device: "cpu", "cuda" and the like: whose kernels (measure/fused_kernels.py).
    """
    for parameter in model.parameters():
        parameter.grad = None
    with kernels_of(device), Trace(int8_weights, padded) as trace:
        value = loss()
        forward, saved = trace.passes(), trace.held_bytes
        value.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.grad = None
    return StepCost(
        forward=forward,
        both=trace.passes(),
        saved_bytes=saved,
        peak_bytes=trace.peak_bytes,
        uncounted=tuple(sorted(trace.uncounted)),
    )


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's parameters and buffers, each storage once."""
    sizes = {storage_key(t): t.untyped_storage().nbytes() for t in [*model.parameters(), *model.buffers()]}
    return sum(sizes.values())


def safetensors_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> int:
    """The exact size of a safetensors file of these tensors: 8 bytes, a JSON header padded to 8, the values.

    Source: the format's description in the safetensors README.
    """
    import json

    names = {
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int64: "I64",
        torch.float64: "F64",
    }
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": names.get(tensor.dtype, "F32"),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-text // 8) * 8 + end
