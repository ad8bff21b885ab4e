"""Named tensors on disk: in one file, or with sharding one file of each process; read again by any number of processes.

<stem>.safetensors, or <stem>-00001-of-00002.safetensors ... with the first row of each part in the file's header. Not
torch.distributed.checkpoint: its index is a pickle, which anyone who hands over a run folder could fill with code.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from weitiao.training.shards import local, own_rows

Tensors = dict[str, torch.Tensor]


def parameter_of(name: str) -> str:
    """The parameter that a weight or a moment (``<parameter>|<key>``) belongs to."""
    return name.partition("|")[0]


def save_whole(path: Path, tensors: Tensors) -> None:
    """All tensors in one file."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def save_part(
    folder: Path, stem: str, tensors: Tensors, parameters: Mapping[str, torch.Tensor], share: tuple[int, int]
) -> Path:
    """This process's file: its rows of what belongs to sharded parameters; the first process has all other tensors too.

    Args:
        share: (this process, processes).
    """
    rank, size = share
    kept, first_rows = {}, {}
    for name, value in tensors.items():
        like = parameters.get(parameter_of(name))
        rows = None if like is None or value.ndim == 0 else own_rows(like)
        if like is not None and rows is not None:
            assert value.shape == local(like).shape, f"{name} is not shared out as its parameter is"
            kept[name], first_rows[name] = value.contiguous(), rows.start
        elif rank == 0:
            kept[name] = value.contiguous()
    path = folder / f"{stem}-{rank + 1:05d}-of-{size:05d}.safetensors"
    save_file(kept, path, {"first_rows": json.dumps(first_rows)})
    return path


class Saved:
    """The tensors that :func:`save_whole` or the processes' :func:`save_part` wrote."""

    def __init__(self, folder: Path, stem: str) -> None:
        alone = folder / f"{stem}.safetensors"
        paths = [alone] if alone.exists() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
        self._files: list[Any] = [safe_open(path, "pt") for path in paths]
        self._pieces: dict[str, list[tuple[int, int]]] = {}  # (file, first row)
        for i, file in enumerate(self._files):
            first_rows = json.loads((file.metadata() or {}).get("first_rows", "{}"))
            for name in file.keys():  # noqa: SIM118  no dict
                self._pieces.setdefault(name, []).append((i, first_rows.get(name, 0)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def read(self, parameters: Mapping[str, torch.Tensor]) -> Tensors:
        """Every tensor, of those that belong to a sharded parameter this process's rows."""
        return {name: self._read_one(name, parameters.get(parameter_of(name))) for name in self}

    def _read_one(self, name: str, like: torch.Tensor | None) -> torch.Tensor:
        found = [(first, self._files[i].get_slice(name)) for i, first in self._pieces[name]]
        shape, rows = found[0][1].get_shape(), None if like is None else own_rows(like)
        if len(found) == 1 and (rows is None or not shape):
            return self._files[self._pieces[name][0][0]].get_tensor(name)  # type: ignore[no-any-return]
        if rows is None:
            rows = slice(0, max(first + piece.get_shape()[0] for first, piece in found))
        parts: list[torch.Tensor] = []
        for first, piece in sorted(found, key=lambda one: one[0]):
            begin, end = max(first, rows.start), min(first + piece.get_shape()[0], rows.stop)
            if begin < end or not parts:  # an empty one has the right shape and dtype
                parts.append(piece[begin - first : max(begin, end) - first])
        joined = torch.cat(parts)
        assert len(joined) == rows.stop - rows.start, f"{name}: rows are missing"
        return joined
