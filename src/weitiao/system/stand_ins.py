"""Stand-ins for modules that torch and transformers import and a command never uses.

A stand-in has the few names that are touched on the way. Any other name brings the real module in its place.
"""

import importlib
import sys
from collections.abc import Callable, Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_DYNAMO = "torch._dynamo"
_IN_MASKS = "torch._dynamo._trace_wrapped_higher_order_op"
_SYMBOLS = "torch.fx.experimental.symbolic_shapes"  # sizes that torch.compile does not know yet
_SHARDED = "torch.distributed.tensor"
_DETECTION = "scipy.optimize"
_MARKS = ("allow_in_graph", "assume_constant_result", "disable", "graph_break", "mark_static_address")


class StandIn(ModuleType):
    """In place of a module: what is given here serves, and any other name brings the real module."""

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(name, None, is_package=True)  # find_spec says that it is there
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ == _SYMBOLS and name.islower():
            return _later(_SYMBOLS, name)  # functions are imported by the dozen, and one of them is called
        return getattr(_real(self.__name__), name)


class PartsFinder(MetaPathFinder):
    """For `import stand_in.part`, which asks no attribute: the real module comes, and then the part of it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        parent = name.rpartition(".")[0]
        if not isinstance(sys.modules.get(parent), StandIn):
            return None
        real = _real(parent)
        if name not in sys.modules:
            return PathFinder.find_spec(name, real.__path__)
        found = sys.modules[name]  # the real one has imported it, and importlib would run it again by its own spec
        spec = ModuleSpec(name, _Imported(found))
        found.__dict__["__spec__"] = spec  # some modules refuse to have it set
        return spec


class _Imported(Loader):
    """Gives a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__  # the module's own, put back in the end

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__spec__"] = self._spec


class NoInstance:
    """In place of a class that nothing is an instance of as long as its real module is not loaded."""


def for_compiling() -> dict[str, ModuleType]:
    """torch.compile: its marks leave functions as they are, and sizes are plain numbers. Not for a run that compiles."""
    asks = {name: _unless_symbolic(name, answer) for name, answer in PLAIN_ANSWERS.items()}
    in_masks = StandIn(_IN_MASKS, TransformGetItemToIndex=_later(_IN_MASKS, "TransformGetItemToIndex"))
    frames = StandIn(f"{_DYNAMO}.eval_frame", OptimizedModule=NoInstance)
    marks = dict.fromkeys(_MARKS, _as_it_is)
    return {
        _DYNAMO: StandIn(_DYNAMO, eval_frame=frames, **marks),
        _IN_MASKS: in_masks,
        _SYMBOLS: StandIn(_SYMBOLS, **asks),
        "sympy": StandIn("sympy", Basic=NoInstance),
    }


def for_sharding() -> dict[str, ModuleType]:
    """Tensors that are split over devices: nothing is one where a run has one process."""
    return {_SHARDED: StandIn(_SHARDED, DTensor=NoInstance)}


def for_detection() -> dict[str, ModuleType]:
    """What losses of object detection take from scipy."""
    return {_DETECTION: StandIn(_DETECTION, linear_sum_assignment=_later(_DETECTION, "linear_sum_assignment"))}


# What torch asks of sizes that may be symbols, and the answers where they are plain numbers.
PLAIN_ANSWERS: dict[str, Callable[..., Any]] = {
    "expect_true": lambda condition, skip=0: condition,
    "guard_or_false": lambda condition: condition,
    "guard_or_true": lambda condition: condition,
    "statically_known_true": lambda condition: condition,
    "is_nested_int": lambda size: False,
    "sym_and": lambda *conditions: all(conditions),
    "sym_or": lambda *conditions: any(conditions),
    "sym_eq": lambda a, b: a == b,
    "free_unbacked_symbols": lambda sizes: set(),
}


def _unless_symbolic(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*values: Any) -> Any:
        if all(type(part) is bool or type(part) is int for value in values for part in _parts(value)):
            return plain(*values)
        return getattr(_real(_SYMBOLS), name)(*values)

    return answer


def _parts(value: Any) -> Iterable[Any]:
    """The numbers of a size, of a tensor's sizes and strides, or the value itself."""
    if isinstance(value, tuple | list):
        return value
    return (*value.shape, *value.stride()) if hasattr(value, "stride") else (value,)


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    return (lambda inner: inner) if function is None else function


def _later(module: str, name: str) -> Any:
    """A function or class by name, imported when it is called."""
    return lambda *args, **options: getattr(_real(module), name)(*args, **options)


def _real(name: str) -> ModuleType:
    """The module itself, in place of what stands in for it and its parts."""
    root = _DYNAMO if name.startswith(_DYNAMO) else name
    for known in [known for known in sys.modules if known == root or known.startswith(f"{root}.")]:
        if isinstance(sys.modules[known], StandIn):
            del sys.modules[known]
    return importlib.import_module(name)
