"""Tasks. A task encodes, collates, gives the loss as a sum, measures and decodes; it knows no training loop."""

from types import ModuleType

from weitiao.tasks import causal_lm, classification, token_classification

TASKS: dict[str, ModuleType] = {
    "classification": classification,
    "causal_lm": causal_lm,
    "token_classification": token_classification,
}
