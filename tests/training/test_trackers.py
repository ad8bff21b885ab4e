"""train.report_to: what a tracker was given is what events.jsonl holds."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.fork_server import ForkServer
from support.processes import fork
from weitiao.errors import ConfigError
from weitiao.rundir.folder import RunDir


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads out of its files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventAccumulator(str(folder / "tensorboard"))
    files.Reload()
    return {name: [(e.step, e.value) for e in files.Scalars(name)] for name in files.Tags()["scalars"]}


def logged(run: RunDir, event: str, key: str) -> list[tuple[int, float]]:
    return [(e["step"], pytest.approx(e[key], rel=1e-6)) for e in run.events() if e["event"] == event]


def test_tensorboard_shows_the_events(options: dict[str, Any]) -> None:
    options["train"] = {**options["train"], "report_to": "tensorboard"}
    run = weitiao.train(options)
    found = scalars(run.path)
    assert len(found["train/loss"]) == run.summary["steps"] > 5
    for key in ("loss", "learning_rate", "grad_norm", "epoch", "samples_per_s"):
        assert found[f"train/{key}"] == logged(run, "log", key), key
    assert found["eval/accuracy"] == logged(run, "eval", "accuracy")
    assert {"train/eta_s", "train/step", "train/seconds"}.isdisjoint(found)
    hparams = next((run.path / "tensorboard").rglob("hparams.yml")).read_text(encoding="utf-8")
    assert "train.num_train_epochs: 2" in hparams
    assert run.config.train.report_to == ("tensorboard",)


def test_the_weights_are_those_without_it(options: dict[str, Any], tmp_path: Path) -> None:
    from weitiao.catalogue.download import sha256_of

    plain = weitiao.train(options)
    told = {**options["train"], "report_to": ["tensorboard"]}
    tracked = weitiao.train({**options, "train": told, "output": {"dir": str(tmp_path / "tracked")}})
    assert sha256_of(plain.model / "model.safetensors") == sha256_of(tracked.model / "model.safetensors")


@pytest.mark.parametrize(("given", "kept"), [("none", ()), (None, ()), ([], ()), ("wandb", ("wandb",))])
def test_names_are_read_as_elsewhere(given: Any, kept: tuple[str, ...]) -> None:
    config = {"model": "m", "data": {"train": "x"}, "train": {"report_to": given}, "output": {"dir": "x"}}
    assert weitiao.config.loading.as_config(weitiao.RunConfig, config).train.report_to == kept


def test_a_package_that_is_not_there_is_said_before_anything_is_read(options: dict[str, Any]) -> None:
    options["train"] = {**options["train"], "report_to": ["tensorboard", "swanlab"]}
    options["data"] = {"train": "no-such-file.jsonl"}
    with pytest.raises(ConfigError, match=r"report_to=swanlab.*not installed(?s:.*)pip install swanlab"):
        weitiao.train(options)
    assert not Path(options["output"]["dir"]).exists()


def test_an_unknown_one_is_refused(options: dict[str, Any]) -> None:
    options["train"] = {**options["train"], "report_to": "tensorbord"}
    with pytest.raises(ConfigError, match="report_to"):
        weitiao.train(options)


def test_one_that_fails_is_left_out_and_the_run_goes_on(
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    real = SummaryWriter.add_scalar

    def full(self: Any, name: str, value: float, global_step: int | None = None, **more: Any) -> None:
        if (global_step or 0) > 3:
            print("chatter")
            raise OSError(28, "No space left on device")
        real(self, name, value, global_step=global_step, **more)

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    options["train"] = {**options["train"], "report_to": "tensorboard"}
    with caplog.at_level(logging.WARNING, "weitiao"):
        run = weitiao.train(options)
    assert run.is_done
    said = capsys.readouterr()
    assert (said.out, said.err.count("chatter")) == ("", 1), "stdout is for results"
    assert [step for step, _ in scalars(run.path)["train/loss"]] == [1, 2, 3]
    assert caplog.text.count("tensorboard fails and is left out from here on: [Errno 28]") == 1


def test_a_run_trains_where_it_would_without_it(tmp_path: Path) -> None:
    """accelerate keeps one device a process: whoever asks first decides. A GPU stands in that nothing computes on."""
    code = """
import sys, torch
from pathlib import Path
torch.cuda.is_available = lambda: True
from weitiao.config.loading import as_config
from weitiao.config.run import RunConfig
from weitiao.training.trackers import tracked
options = {"model": "m", "data": {"train": "x"}, "train": {"report_to": "tensorboard"}, "output": {"dir": "x"}}
with tracked(as_config(RunConfig, options), Path(sys.argv[1]), None):
    from accelerate import Accelerator
    print(Accelerator(cpu=False).device.type)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["cuda"], done.stderr[-2000:]


def test_a_tracker_that_does_not_end_well_is_said(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from accelerate.tracking import TensorBoardTracker

    def lost(self: Any) -> None:
        raise ConnectionError("the last upload failed")

    monkeypatch.setattr(TensorBoardTracker, "finish", lost)
    options["train"] = {**options["train"], "report_to": "tensorboard"}
    with caplog.at_level(logging.WARNING, "weitiao"):
        assert weitiao.train(options).is_done
    assert "tensorboard does not end well, and may lack the last steps: the last upload failed" in caplog.text


def test_of_several_processes_the_first_reports(
    options: dict[str, Any], tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    words = [
        f"model={options['model']}",
        f"data.train={options['data']['train']}",
        "data.test_size=16",
        "train.bf16=false",
    ]
    words += ["train.tokens_per_batch=96", "train.max_steps=3", "train.logging_steps=1", "train.report_to=tensorboard"]
    done = fork(whole_fork_server, [*words, f"output.dir={tmp_path / 'two'}"])
    assert done.returncode == 0, done.stderr
    assert [step for step, _ in scalars(tmp_path / "two")["train/loss"]] == [1, 2, 3]
