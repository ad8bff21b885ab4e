"""Progress on stderr, drawn from events: what is going on, how far, how long still."""

import time
from types import TracebackType
from typing import Any, Self


class Progress:
    """A rich progress bar fed by :meth:`listen`; on a stderr that is no terminal, a plain line now and then."""

    _PLAIN_SECONDS = 15.0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
        self._bar = Bar(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("starting", total=1, facts="") if self._bar else None
        self._console = console
        self._said = 0.0
        self._total = 1
        self._cell_seconds: list[float] = []

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, message: str) -> None:
        """Show that a stage has begun."""
        self._show(message, "", None)

    def listen(self, event: dict[str, Any]) -> None:
        """Show one event."""
        where = f"[{event['cells_done'] + 1}/{event['cells']}] {event['cell']} " if event.get("cell") else ""
        match event["event"]:
            case "stage":
                self._show(f"{where}{event['message']}", "", None)
            case "progress":
                self._total = event["total"]
                self._show(f"{where}{event['what']}", f"{event['done']:,}/{event['total']:,} rows", event["done"])
            case "train":
                self._total = event["total_steps"]
                self._show(f"{where}training", f"0/{self._total} steps", 0)
            case "log":
                facts = f"{event['step']}/{self._total} steps, loss {event['loss']:.4f}, "
                facts += f"{event['samples_per_s']:.1f} samples/s, {self._eta(event)}"
                self._show(f"{where}training", facts, event["step"])
            case "eval":
                self._show(f"{where}evaluated", f"{_quality(event)} at step {event['step']}", event["step"])
            case "done":
                self._cell_seconds.append(event["seconds"])
                self._show(f"{where}done", _quality(event["metrics"]), self._total)

    def _eta(self, event: dict[str, Any]) -> str:
        """Time left of this run, and of the whole comparison once a first cell has shown what a cell takes."""
        text = f"{_clock(event['eta_s'])} left"
        running = event.get("cells_running", 1)
        cells_after = event.get("cells", 1) - event.get("cells_done", 0) - running
        if self._cell_seconds and cells_after > 0:
            usual = sum(self._cell_seconds) / len(self._cell_seconds)
            text += f", {_clock(event['eta_s'] + usual * cells_after / running)} in all"
        return text

    def _show(self, title: str, facts: str, step: int | None) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=title, facts=facts, total=self._total, completed=step or 0)
            return
        now = time.perf_counter()
        if step is None or step in (0, self._total) or now - self._said >= self._PLAIN_SECONDS:
            self._said = now
            self._console.print(f"{title} {facts}".rstrip(), highlight=False, markup=False)


def _quality(metrics: dict[str, Any]) -> str:
    known = ("accuracy", "f1", "f1_micro", "pearson", "log_loss", "mse")
    name = next(name for name in known if name in metrics)
    return f"{name} {metrics[name]:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
