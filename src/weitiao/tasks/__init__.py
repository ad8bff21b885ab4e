"""Tasks. A task encodes, collates, gives the loss as a sum, measures and decodes; it knows no training loop."""

from types import ModuleType

from weitiao.tasks import classification

TASKS: dict[str, ModuleType] = {"classification": classification}
