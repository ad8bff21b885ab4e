"""train.report_to: a run's losses and metrics for other projects' trackers, by accelerate's adapters to them."""

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.config.loading import flat
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.pretrained.resolve import best_device
from weitiao.training.events import Listener

log = logging.getLogger("weitiao")

_PROJECT = "weitiao"
# Where each looks for the name of a project; MLflow's is read by accelerate.
_PROJECT_VARIABLES = {"wandb": "WANDB_PROJECT", "swanlab": "SWANLAB_PROJECT", "trackio": "TRACKIO_PROJECT"}
_NOT_SHOWN = ("event", "step", "eta_s", "seconds")


def refuse_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.report_to={name}, and its package is not installed.\nExpected it in the same environment as weitiao.\n"
                f"Install it: pip install {name}, or leave train.report_to out."
            )


@contextlib.contextmanager
def tracked(config: RunConfig, folder: Path, listener: Listener | None) -> Iterator[Listener | None]:
    """A listener that also reports to ``train.report_to``: train/* of each log step, eval/* of each evaluation.

    TensorBoard's files lie in the run folder. A tracker that fails later is left out from there on, and the run goes on.

    Raises:
        ConfigError: a tracker does not start.
    """
    names = config.train.report_to
    if not names:
        yield listener
        return
    from accelerate.state import PartialState

    # the adapters log through it, and training's Accelerator takes its device over
    PartialState(cpu=best_device() == "cpu")
    trackers: list[Any] = []

    def tell(event: dict[str, Any]) -> None:
        if listener is not None:
            listener(event)
        side = {"log": "train", "eval": "eval"}.get(event["event"])
        if side is None:
            return
        values = {f"{side}/{key}": value for key, value in event.items() if key not in _NOT_SHOWN and isinstance(value, int | float)}  # fmt: skip
        for tracker in list(trackers):
            try:
                with _stdout_is_ours():
                    tracker.log(values, step=event["step"])
            except Exception as error:  # somebody else's server, disk or account
                trackers.remove(tracker)
                log.warning("train.report_to: %s fails and is left out from here on: %s", tracker.name, error)

    try:
        for name in names:
            trackers.append(_start(name, config, folder))
        yield tell
    finally:
        for tracker in trackers:
            try:
                with _stdout_is_ours():
                    tracker.finish()
            except Exception as error:  # as above
                log.warning(
                    "train.report_to: %s does not end well, and may lack the last steps: %s", tracker.name, error
                )


def _start(name: str, config: RunConfig, folder: Path) -> Any:
    from accelerate import tracking

    project = os.environ.get(_PROJECT_VARIABLES.get(name, ""), _PROJECT)
    run = folder.resolve().name
    try:
        match name:
            case "tensorboard":
                tracker: Any = tracking.TensorBoardTracker("tensorboard", logging_dir=folder)
            case "swanlab":
                tracker = tracking.SwanLabTracker(project, experiment_name=run)
            case "mlflow":
                tracker = tracking.MLflowTracker(project, run_name=run)
            case "wandb":
                tracker = tracking.WandBTracker(project, name=run)
            case _:
                tracker = tracking.TrackioTracker(project, name=run)
        tracker.main_process_only = False  # only the main process comes here
        with _stdout_is_ours():
            tracker.start()
            options = flat(config.model_dump(mode="json"))
            tracker.store_init_configuration({key: _plain(value) for key, value in options.items()})
    except Exception as error:
        raise ConfigError(
            f"train.report_to={name} does not start: {error}.\nExpected a tracker that is set up on this machine.\n"
            "Follow its own documentation, or leave train.report_to out."
        ) from None
    return tracker


def _stdout_is_ours() -> "contextlib.redirect_stdout[Any]":
    """What trackers print goes to stderr: stdout is for results, such as the object of --json."""
    return contextlib.redirect_stdout(sys.stderr)


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
