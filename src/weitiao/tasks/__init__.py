"""Tasks. A task encodes, collates, gives the loss as a sum, measures and decodes; it knows no training loop.

tasks/task.py says what each must answer. A new task is one file: a module that answers, and :func:`register`.
"""

from weitiao.config.task import TASK_OPTIONS
from weitiao.tasks import causal_lm, classification, multi_label, regression, token_classification
from weitiao.tasks.task import Task

TASKS: dict[str, Task] = {
    "classification": classification,
    "causal_lm": causal_lm,
    "token_classification": token_classification,
    "multi_label": multi_label,
    "regression": regression,
}


def register(task: Task) -> None:
    """Make a task known to the configuration and to everything that trains, plans, predicts or compares."""
    TASK_OPTIONS[task.OPTIONS.name] = task.OPTIONS
    TASKS[task.OPTIONS.name] = task
