"""Merged and exported models of a run: below exports/ of the root, each made by a job and known by its report."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.adapters.refusals import refuse_merge, refuse_unmergeable
from weitiao.errors import RunError, WeitiaoError
from weitiao.exporting.refusals import Wanted, refuse_at_a_glance
from weitiao.rundir.files import remove_folder
from weitiao.rundir.folder import RunDir
from weitiao.web.jobs import Job, Jobs
from weitiao.web.settings import EXPORTS

_REPORTS = ("merge_report.json", "export_report.json")
KINDS: dict[str, Wanted | None] = {
    "merged": None,
    "safetensors": Wanted("safetensors"),
    "onnx": Wanted("onnx"),
    "onnx-int8": Wanted("onnx", int8=True),
    "gguf": Wanted("gguf"),
    "gguf-q8_0": Wanted("gguf", quantization="q8_0"),
    "gguf-adapter": Wanted("gguf", adapter_only=True),
}


@dataclass(frozen=True)
class Export:
    """One form of a run.

    Args:
        refusal: why the run cannot take it, as the command would say.
        job: the last one that makes it, while its folder is not there.
        report: what was measured; None before.
        older: the run was trained again since.
    """

    kind: str
    folder: Path
    words: tuple[str, ...]
    refusal: str | None = None
    job: Job | None = None
    report: dict[str, Any] | None = None
    files: tuple[tuple[str, int], ...] = ()
    older: bool = False

    @property
    def state(self) -> str:
        """refused, done, none, or that of the job."""
        if self.report is not None:
            return "done"
        if self.refusal is not None:
            return "refused"
        return "none" if self.job is None or self.job.state == "done" else self.job.state

    @property
    def size(self) -> int:
        """Bytes of the folder."""
        return sum(count for _, count in self.files)


class Exports:
    """All forms of one run.

    Args:
        root: the folder of runs.
        name: the run's path there.
    """

    def __init__(self, root: Path, name: str, jobs: Jobs) -> None:
        self.run, self.jobs = RunDir(root / name), jobs
        self.folder = root / EXPORTS / name

    def all(self) -> list[Export]:
        """One of each kind."""
        jobs = [job for job in self.jobs.all(queued=True) if job.kind in ("merge", "export")]
        return [self._one(kind, jobs) for kind in KINDS]

    def one(self, kind: str) -> Export:
        """Raises RunError for a kind that is none."""
        if kind not in KINDS:
            raise RunError(
                f"There is no form {kind[:40]}.\nExpected one of {', '.join(KINDS)}.\nChoose one on the page."
            )
        return self._one(kind, [job for job in self.jobs.all(queued=True) if job.kind in ("merge", "export")])

    def begin(self, kind: str) -> None:
        """Let a job make it, unless it is there, or one is at it. Raises RunError with what the run cannot take."""
        found = self.one(kind)
        if found.state == "refused":
            raise RunError(found.refusal or "")
        if found.state in ("done", "queued", "running"):
            return
        found.folder.parent.mkdir(parents=True, exist_ok=True)
        self.jobs.add(found.words[0], found.words, once=True)

    def remove(self, kind: str) -> None:
        """Take its folder away. Raises RunError where it is not there."""
        found = self.one(kind)
        if found.report is None:
            raise RunError(f"{found.folder} is not there.\nExpected an export that is done.\nMake it first.")
        remove_folder(found.folder)  # at once: half an export would pass for a whole one

    def file(self, kind: str, name: str) -> Path:
        """A file of it. Raises RunError for a name that is none of its files."""
        found = self.one(kind)
        if name not in dict(found.files):
            raise RunError(f"There is no file {name[:100]}.\nExpected one of the list.\nMake the export first.")
        return found.folder / name

    def _one(self, kind: str, jobs: list[Job]) -> Export:
        wanted, folder = KINDS[kind], self.folder / kind
        words = _words(self.run.path, folder, wanted)
        report = _report(folder)
        if report is not None:
            files = tuple((file.name, file.stat().st_size) for file in sorted(folder.iterdir()) if file.is_file())
            older = folder.stat().st_mtime < (self.run.path / "DONE").stat().st_mtime if self.run.is_done else False
            return Export(kind, folder, words, report=report, files=files, older=older)
        job = next((job for job in reversed(jobs) if job.words == words), None)
        return Export(kind, folder, words, refusal=self._refusal(wanted), job=job)

    def _refusal(self, wanted: Wanted | None) -> str | None:
        try:
            if wanted is None:
                refuse_merge(self.run, "auto")
                refuse_unmergeable(self.run)
            else:
                refuse_at_a_glance(self.run, wanted)
            if not (self.run.path / "predictions.jsonl").is_file():
                raise RunError(
                    f"{self.run.path} has no predictions.jsonl.\nExpected the held-out rows there: what is written is checked on them.\n"
                    "Train the run again."
                )
        except WeitiaoError as error:
            return str(error)
        except (OSError, ValueError, KeyError) as error:
            return f"{self.run.path} cannot be read: {error}.\nExpected a complete run folder.\nTrain the run again."
        return None


def _words(run: Path, folder: Path, wanted: Wanted | None) -> tuple[str, ...]:
    """Of the command line."""
    if wanted is None:
        return "merge", str(run), "--output", str(folder)
    words = ["export", str(run), "--output", str(folder), "--format", wanted.format]
    words += ["--int8"] if wanted.int8 else []
    words += ["--quantization", wanted.quantization] if wanted.quantization else []
    words += ["--adapter-only"] if wanted.adapter_only else []
    return tuple(words)


def _report(folder: Path) -> dict[str, Any] | None:
    for name in _REPORTS:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
    return None
