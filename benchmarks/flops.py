"""Multiply-adds of one training step of a BERT encoder, counted as two operations each. Pure arithmetic.

*nominal* is the usual convention: 4 operations a body parameter and token for LoRA (forward, and the gradient of the
input), 6 for full fine-tuning (the gradient of the weight too), and attention. *done* leaves out what our step leaves
out: the last layer of all tokens but the first, and with LoRA the input gradient of the first query, key and value.
Adapters, embeddings, pooler and classifier count in neither.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    intermediate: int

    @property
    def layer_parameters(self) -> int:
        """Query, key, value, attention output; up, down."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate


def step_flops(shape: Shape, method: str, lengths: Iterable[int], first_token: bool = True) -> tuple[float, float]:
    """(nominal, done) for rows of these lengths in tokens."""
    lengths = list(lengths)
    tokens, rows, squares = sum(lengths), len(lengths), sum(n * n for n in lengths)
    each = {"lora": 4, "full": 6}[method]
    attention = 12 * shape.hidden  # a layer and pair of positions: two products forward, four backward
    nominal = shape.layers * (each * tokens * shape.layer_parameters + attention * squares)
    done: float = nominal
    if first_token:
        only_first = shape.layer_parameters - 2 * shape.hidden**2  # keys and values come from all tokens
        done -= each * (tokens - rows) * only_first + attention * (squares - tokens)
    if method == "lora":
        whole_first_layer = shape.layers > 1 or not first_token
        done -= 2 * shape.hidden**2 * (3 * tokens if whole_first_layer else 2 * tokens + rows)
    return float(nominal), done
