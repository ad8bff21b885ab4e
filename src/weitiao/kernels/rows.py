"""Train only those rows of an embedding that the training data can touch, with AdamW's exact dense result.

A row whose token never occurs has gradient 0, so its AdamW moments stay 0 and only weight decay moves it, by the same
factor as every other untouched row. Training the occurring rows alone and applying that factor once at the end is
therefore the dense update, without its gradient, moments and master for the (often 97 %) other rows.
"""

from collections.abc import Iterable

import torch
from torch import nn


class RowsEmbedding(nn.Module):
    """An embedding [V, H] split into trained rows ``weight`` [R, H] and a frozen table for all others."""

    table: torch.Tensor
    rows: torch.Tensor
    place: torch.Tensor

    def __init__(self, full: nn.Embedding, rows: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(full.weight.detach()[rows].clone())
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
        known = place >= 0
        trained = nn.functional.embedding(place.clamp(min=0), self.weight)
        frozen = nn.functional.embedding(ids, self.table).to(trained.dtype)
        return torch.where(known[..., None], trained, frozen)

    def whole(self, decay: float, trained: torch.Tensor | None = None) -> nn.Embedding:
        """The ordinary embedding again, fp32: untouched rows times ``decay``.

        Args:
            trained: the rows [R, H], where this process holds only a part of ``weight``.
        """
        weight = self.table.float() * decay
        weight[self.rows] = (self.weight.detach() if trained is None else trained).float()
        return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.padding_idx)  # type: ignore[no-any-return]


def shrink_embedding(model: nn.Module, ids: Iterable[int]) -> RowsEmbedding | None:
    """Replace the input embedding by its occurring rows; None where that does not apply.

    Args:
        ids: every token id that training will see, the one used for padding included.

    It does not apply when the table is frozen, tied to an output head (whose gradient touches every row), or one of
    the modules that peft saves whole (it would save the rows alone).
    """
    full = model.get_input_embeddings()  # type: ignore[operator]
    if type(full) is not nn.Embedding or not full.weight.requires_grad or full.max_norm is not None:
        return None
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is full.weight]
    if len(names) != 1 or ".modules_to_save." in names[0]:
        return None
    padding = set() if full.padding_idx is None else {full.padding_idx}
    rows = torch.tensor(sorted(set(ids) | padding))
    small = RowsEmbedding(full, rows)
    model.set_input_embeddings(small)  # type: ignore[operator]
    return small


def restore_embedding(model: nn.Module, small: RowsEmbedding, decay: float) -> None:
    """Put the ordinary, whole embedding back."""
    model.set_input_embeddings(small.whole(decay))  # type: ignore[operator]
