"""Train, or hold, only those rows of an embedding that the data can touch; trained with AdamW's exact dense result.

A row whose token never occurs has gradient 0, so its AdamW moments stay 0 and only weight decay moves it, by the same
factor as every other untouched row. Training the occurring rows alone and applying that factor once at the end is
therefore the dense update, without its gradient, moments and master for the (often 97 %) other rows.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from weitiao.kernels.mapped import pieces, rows_of


class RowsEmbedding(nn.Module):
    """An embedding [V, H] split into trained rows ``weight`` [R, H] and a frozen table for all others."""

    table: torch.Tensor
    rows: torch.Tensor
    place: torch.Tensor

    def __init__(self, full: nn.Embedding, rows: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows_of(full.weight.detach(), rows))
        self.padding_idx = full.padding_idx
        self.register_buffer("table", full.weight.detach(), persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        place = torch.full((full.num_embeddings,), -1)
        place[rows] = torch.arange(len(rows))
        self.register_buffer("place", place, persistent=False)
        # As in nn.Embedding, the padding row gets no gradient.
        self.padding_row = None if full.padding_idx is None else int(place[full.padding_idx])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [...] -> vectors [..., H]. In training every id must be a trained row."""
        place = self.place[ids]
        if self.training:
            return nn.functional.embedding(place, self.weight, self.padding_row)
        found = nn.functional.embedding(place.clamp(min=0), self.weight)
        if (unknown := place < 0).any():  # those alone: the table is better not read
            rows, which = ids[unknown].unique(return_inverse=True)
            found[unknown] = rows_of(self.table, rows).to(found.dtype)[which]
        return found

    def whole(self, decay: float, trained: torch.Tensor | None = None) -> nn.Embedding:
        """The ordinary embedding again, fp32: untouched rows times ``decay``.

        Args:
            trained: the rows [R, H], where this process holds only a part of ``weight``.
        """
        weight = torch.empty_like(self.table, dtype=torch.float32)
        for part in pieces(self.table):
            torch.mul(self.table[part].float(), decay, out=weight[part])
        weight[self.rows] = (self.weight.detach() if trained is None else trained).float()
        return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.padding_idx)  # type: ignore[no-any-return]


def shrink_embedding(model: nn.Module, ids: Iterable[int]) -> RowsEmbedding | None:
    """Replace the input embedding by its occurring rows; None where that does not apply.

    Args:
        ids: every token id that training will see, the one used for padding included.

    It does not apply when the table is frozen, tied to an output head (whose gradient touches every row), or one of
    the modules that peft saves whole (it would save the rows alone).
    """
    full = _plain_embedding(model)
    if full is None or not full.weight.requires_grad:
        return None
    small = RowsEmbedding(full, _sorted_rows(full, ids))
    model.set_input_embeddings(small)  # type: ignore[operator]
    return small


@contextlib.contextmanager
def held_rows(model: nn.Module, ids: Iterable[int]) -> Iterator[None]:
    """In the block a model that answers holds the input embedding's rows of ``ids``; others come from the table, as ever.

    Nothing changes where something else uses that table, and on a GPU, whose memory no file is mapped into.
    """
    full = _plain_embedding(model)
    if full is not None and full.weight.device.type != "cpu":
        full = None
    if full is not None:
        model.set_input_embeddings(RowsEmbedding(full, _sorted_rows(full, ids)).requires_grad_(False).eval())  # type: ignore[operator]
    yield
    if full is not None:
        model.set_input_embeddings(full)  # type: ignore[operator]


class KnownRows(nn.Module):
    """The rows ``weight`` [R, H] of a frozen embedding [V, H] whose ids will come; the others are not held at all."""

    place: torch.Tensor

    def __init__(self, full: nn.Embedding, rows: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows_of(full.weight.detach(), rows), requires_grad=False)
        place = torch.full((full.num_embeddings,), -1)
        place[rows] = torch.arange(len(rows))
        self.register_buffer("place", place, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [...] -> vectors [..., H]. Raises IndexError for an id that was not announced."""
        return nn.functional.embedding(self.place[ids], self.weight)


def keep_known_rows(model: nn.Module, ids: Iterable[int]) -> KnownRows | None:
    """Replace a frozen input embedding by the rows of ``ids``; None where that does not apply.

    For models whose artifact leaves the embedding out (adapters): the whole table is not there any more. It does not apply
    when the table trains, is tied to an output head, or has an adapter of its own.
    """
    full = _plain_embedding(model)
    if full is None or full.weight.requires_grad:
        return None
    small = KnownRows(full, _sorted_rows(full, ids))
    model.set_input_embeddings(small)  # type: ignore[operator]
    return small


def _plain_embedding(model: nn.Module) -> nn.Embedding | None:
    """The input embedding, where nothing else uses its table."""
    full = model.get_input_embeddings()  # type: ignore[operator]
    if type(full) is not nn.Embedding or full.max_norm is not None:
        return None
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is full.weight]
    return full if len(names) == 1 and ".modules_to_save." not in names[0] else None


def _sorted_rows(full: nn.Embedding, ids: Iterable[int]) -> torch.Tensor:
    padding = set() if full.padding_idx is None else {full.padding_idx}
    return torch.tensor(sorted(set(ids) | padding), dtype=torch.long)


def embedding_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are looked up by rows."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | RowsEmbedding)}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in tables)


def restore_embedding(model: nn.Module, small: RowsEmbedding, decay: float) -> None:
    """Put the ordinary, whole embedding back."""
    model.set_input_embeddings(small.whole(decay))  # type: ignore[operator]
