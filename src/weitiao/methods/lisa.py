"""LISA: a few layers, drawn anew every K steps, train beside the embeddings and the head (Pan et al. 2024, arXiv 2403.17919).

What rests has neither gradients nor moments; it begins with new moments when its turn comes, as a layer's did at step 1.
Which layers train in a step depends on the seed and the step alone, so a resumed run needs nothing but its place.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.errors import ConfigError
from weitiao.kernels.frozen_layers import layers

if TYPE_CHECKING:
    import torch

STEPS = 20  # of a period; the paper tries 3 to 122


def refuse_more(count: int, found: int) -> None:
    """Raise ConfigError where more layers are to train at a time than the model has."""
    if count > found:
        raise ConfigError(
            f"method.lisa_layers is {count}, and the model has {found} layers.\nExpected at most {found}.\n"
            "Lower it, or use method.type=full."
        )


class Lisa:
    """Turns of ``count`` layers, ``period`` steps each."""

    def __init__(self, model: Any, trained: Iterable[str], count: int, period: int, seed: int) -> None:
        stack, found = layers(model)
        refuse_more(count, len(found))
        self.count, self.period, self.seed = count, period, seed
        own = dict(model.named_parameters())
        self.layers: list[dict[str, Any]] = [{} for _ in found]
        for name in trained:
            if name.startswith(stack + "."):
                self.layers[int(name[len(stack) + 1 :].partition(".")[0])][name] = own[name]
        self.chosen = set(range(len(found)))
        self.before(1)

    def at(self, step: int) -> set[int]:
        """Indices of the layers that train in ``step`` (from 1)."""
        lot = np.random.default_rng([self.seed, (step - 1) // self.period])
        return set(lot.choice(len(self.layers), self.count, replace=False).tolist())

    def before(self, step: int) -> Iterable[str]:
        """The layers of this step train, the others rest."""
        chosen = self.at(step)
        rest = [name for i in self.chosen - chosen for name in self.layers[i]]
        for i, parameters in enumerate(self.layers):
            for parameter in parameters.values():
                parameter.requires_grad_(i in chosen)
        self.chosen = chosen
        return rest

    def add_gradients(self, loss_scale: "torch.Tensor | None" = None) -> None:
        """Nothing beside the loss."""

    def updated(self, names: Iterable[str]) -> None:
        """Nothing to remember."""

    def after(self, step: int) -> "Mapping[str, torch.Tensor]":
        """Nothing changes a weight but the optimizer."""
        return {}

    def state(self) -> "dict[str, torch.Tensor]":
        """Nothing: the seed and the step say it."""
        return {}

    def load_state(self, state: "Mapping[str, torch.Tensor]", step: int) -> None:
        """The layers that trained in ``step``, whose moments were saved."""
        self.before(step)
