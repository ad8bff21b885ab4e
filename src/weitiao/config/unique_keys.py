"""JSON and YAML whose keys stand once. Their own readers keep the last of two, and say nothing."""

from collections.abc import Hashable
from typing import Any

import yaml

_MAPPING = yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG
_MERGE = "tag:yaml.org,2002:merge"


class KeyTwice(yaml.YAMLError):
    """A key that stands twice in one mapping."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set[Hashable]()
    for key, _ in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE else None
        if name is not None and name in seen:
            raise KeyTwice(f"the key '{name}' stands twice, again in line {key.start_mark.line + 1}")
        seen.add(name)
    loader.flatten_mapping(node)
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


class Loader(yaml.SafeLoader):
    """As ``yaml.SafeLoader``."""


class QuickLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """As ``yaml.CSafeLoader``, where libyaml is there."""


Loader.add_constructor(_MAPPING, _mapping)
QuickLoader.add_constructor(_MAPPING, _mapping)


class Repeated(ValueError):
    """``key`` stands twice in one object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key '{key}' stands twice")
        self.key = key


def of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads(object_pairs_hook=...)``. Raises Repeated for a key that stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Repeated(next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1))
    return found
