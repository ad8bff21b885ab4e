"""The least of a model."""

import torch
from torch import nn


class Net(nn.Module):
    """The least that has an input embedding as transformers' models have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 8, padding_idx=1)
        self.out = nn.Linear(8, 3)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def set_input_embeddings(self, module: nn.Module) -> None:
        self.words = module

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(ids).tanh().mean(1))
