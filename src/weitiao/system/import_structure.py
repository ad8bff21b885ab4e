"""What transformers' model files export, remembered: it reads all 1,600 of them at every import, twice.

The names are the same until another version is installed. They are kept as JSON in $WEITIAO_HOME.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

_READER = "transformers.utils.import_utils"
_FUNCTION = "create_import_structure_from_path"


@contextlib.contextmanager
def remembered(folder: Path) -> Iterator[None]:
    """Within it an import of transformers reads the names from ``folder``, and writes them there the first time."""
    finder = _Finder(folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _READER else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Remembering(spec.loader, self._folder)
        return spec


class _Remembering(Loader):
    """Loads the module as its own loader does, then puts the remembering function in place."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self._loader, self._folder = loader, folder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if read := getattr(module, _FUNCTION, None):
            setattr(module, _FUNCTION, _remembering(read, self._folder))


def _remembering(read: Callable[[Any], dict[str, Any]], folder: Path) -> Callable[[Any], dict[str, Any]]:
    known: dict[Path, dict[str, Any]] = {}

    def structure(module_path: Any) -> dict[str, Any]:
        models = Path(module_path)
        models = models.parent if models.is_file() else models
        if models.name != "models" or "site-packages" not in models.parts:  # a checkout under development may change
            return read(module_path)
        if models not in known:
            file = folder / f"transformers-exports-{_version(models)}.json"
            found = _load(file)
            if found is None:
                found = read(module_path)
                _save(file, found)
            known[models] = found
        return known[models]

    return structure


def _version(models: Path) -> str:
    """Changes with the installed version, and with a new installation of the same one."""
    installed = models.parent / "__init__.py"
    return f"{version('transformers')}-{installed.stat().st_mtime_ns:x}-{models.stat().st_mtime_ns:x}"


def _load(file: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # broken: it is read anew
        plain: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found: dict[str, Any] = _from_plain(plain)
        return found
    return None


def _save(file: Path, found: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written is done without
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(_to_plain(found)), encoding="utf-8")
        temporary.replace(file)


def _to_plain(value: Any) -> Any:
    """Sets become lists under a mark, and a dictionary by sets becomes a list of its pairs."""
    if isinstance(value, dict):
        return [[_to_plain(key), _to_plain(inner)] for key, inner in value.items()]
    if isinstance(value, set | frozenset):
        return {type(value).__name__: sorted(value)}
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return {_from_plain(key): _from_plain(inner) for key, inner in value}
    if isinstance(value, dict):
        return frozenset(value["frozenset"]) if "frozenset" in value else set(value["set"])
    return value
