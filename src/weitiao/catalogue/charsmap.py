"""SentencePiece's compiled normalisation table, built from plain records.

``tokenizers.normalizers.Precompiled`` wants the binary form that SentencePiece stores in its models:

    u32 trie_bytes | trie (double array of u32 units, as in darts-clone) | replacements, each ended by NUL

A unit holds its label (low byte), whether a leaf hangs below it (bit 8) and the XOR offset to its children
(bits 10-30); a leaf holds the byte position of its replacement.
Source: darts-clone (github.com/s-yata/darts-clone), and the reader in huggingface/spm_precompiled.
"""

import struct
from collections.abc import Mapping

_LEAF = 1 << 31
_HAS_LEAF = 1 << 8


class _Node:
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.value: int | None = None


def build_charsmap(replacements: Mapping[str, str]) -> bytes:
    """The precompiled table that maps each key to its replacement (which may be empty).

    Raises:
        ValueError: a key is empty or a text holds NUL, which the format cannot express.
    """
    root, blob = _Node(), bytearray()
    for key, replacement in sorted(replacements.items()):
        if not key or "\0" in key + replacement:
            raise ValueError(f"cannot encode the rule {key!r} -> {replacement!r}")
        node = root
        for byte in key.encode("utf-8"):
            node = node.children.setdefault(byte, _Node())
        node.value = len(blob)
        blob += replacement.encode("utf-8") + b"\0"
    units = _double_array(root)
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + bytes(blob)


def _double_array(root: _Node) -> list[int]:
    """Place the trie: the child of a node at ``position`` over ``label`` sits at ``position ^ offset ^ label``."""
    units: list[int | None] = [0]
    queue: list[tuple[_Node, int]] = [(root, 0)]
    first_free = 1
    while queue:
        node, position = queue.pop()
        labels = sorted(node.children)
        if node.value is not None:
            labels.insert(0, 0)  # label 0 is the leaf: no UTF-8 byte of a key is 0
        while first_free < len(units) and units[first_free] is not None:
            first_free += 1
        base = _free_base(units, labels, first_free)
        units.extend([None] * (max(base ^ label for label in labels) + 1 - len(units)))
        offset = position ^ base
        assert offset < 1 << 21, "the table is larger than a short offset reaches"
        unit = units[position]
        assert unit is not None
        units[position] = unit | offset << 10 | (_HAS_LEAF if node.value is not None else 0)
        for label in labels:
            child = base ^ label
            if label == 0:
                assert node.value is not None
                units[child] = _LEAF | node.value
            else:
                units[child] = label
                queue.append((node.children[label], child))
    # A reader follows any byte of its text before it compares labels, so every block of 256 must be whole.
    units.extend([None] * (-len(units) % 256))
    return [unit if unit is not None else 0 for unit in units]


def _free_base(units: list[int | None], labels: list[int], first_free: int) -> int:
    """The first base at which every ``base ^ label`` is free; beyond the end everything is."""
    base = first_free ^ labels[0]
    slot = first_free
    while not all(base ^ label and _is_free(units, base ^ label) for label in labels):
        slot += 1
        base = slot ^ labels[0]
    return base


def _is_free(units: list[int | None], position: int) -> bool:
    return position >= len(units) or units[position] is None
