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
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        self._bar = Bar(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("starting", total=1, facts="") if self._bar else None
        self._console = console
        self._said, self._last = 0.0, ""
        self._total = 1

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

    def note(self, message: str) -> None:
        """Say something that stays in sight."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def listen(self, event: dict[str, Any]) -> None:
        """Show one event."""
        match event["event"]:
            case "note":
                self.note(event["message"])
            case "stage":
                self.say(event["message"])
            case "progress":
                self._total = event["total"]
                facts = f"{event['done']:,}/{event['total']:,} rows"
                if "eta_s" in event:
                    facts += f", {event['rows_per_s']:.1f} rows/s, {clock(event['eta_s'])} left"
                self._show(event["what"], facts, event["done"])
            case "train":
                self._total = event["total_steps"]
                self._show("training", f"0/{self._total} steps", 0)
            case "log":
                facts = f"{event['step']}/{self._total} steps, {event['samples_per_s']:.1f} samples/s, "
                facts += f"loss {event['loss']:.4f}, {clock(event['eta_s'])} left"
                self._show("training", facts, event["step"])
            case "eval":
                self._show("evaluated", f"{quality(event)} at step {event['step']}", event["step"])
            case "done":
                self._show("done", quality(event["metrics"]), self._total)

    def plain(self, line: str, now: bool = True) -> None:
        """A line where there is no terminal; unless ``now``, only some seconds after the last one."""
        if line != self._last and (now or time.perf_counter() - self._said >= self._PLAIN_SECONDS):
            self._said, self._last = time.perf_counter(), line
            self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def _show(self, title: str, facts: str, step: int | None) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=title, facts=facts, total=self._total, completed=step or 0)
            return
        self.plain(f"{title} {facts}", now=step is None or step in (0, self._total))


def quality(metrics: dict[str, Any]) -> str:
    """The best-known of a run's metrics."""
    known = ("accuracy", "f1", "f1_micro", "pearson", "log_loss", "mse")
    numbers = [name for name, value in metrics.items() if isinstance(value, float) and name not in ("seconds", "epoch")]
    name = next((name for name in known if name in metrics), numbers[0] if numbers else "")
    return f"{name} {metrics[name]:.4f}" if name else ""


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
