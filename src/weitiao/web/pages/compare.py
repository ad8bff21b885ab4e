"""/compare: a comparison while it runs and afterwards, two runs side by side, and the list of comparisons."""

import asyncio
import contextlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import yaml
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from weitiao.comparison.rows import headline, verdict_lines
from weitiao.comparison.schema import SCHEMA
from weitiao.comparison.wording import interval_text, same_answer_text
from weitiao.config.loading import load
from weitiao.config.run import RunConfig
from weitiao.config.task import TASK_OPTIONS
from weitiao.errors import RunError
from weitiao.web import compared
from weitiao.web.differing import differing
from weitiao.web.jobs import Job
from weitiao.web.options import as_text, differences, word
from weitiao.web.pages.runs import found, reading, state_of
from weitiao.web.render import page
from weitiao.web.runs import Run
from weitiao.web.uploads import clean

router = APIRouter()
# The report is one file with scripts of its own: it may run them, in an origin that is nobody's, and load nothing.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_SHARED_COSTS = (
    "num_trainable_params",
    "peak_memory_bytes",
    "train_seconds",
    "total_seconds",
    "tokens_per_s",
    "artifact_bytes",
)


@router.get("/compare")
async def start(request: Request, runs: Annotated[list[str] | None, Query()] = None) -> Response:
    """Two finished runs side by side; without runs the comparisons that there are."""
    if runs:
        return await _side_by_side(request, runs)
    app = request.app.state
    known = await asyncio.to_thread(app.runs.all)
    comparisons = [run for run in known if run.kind == "comparison"]
    names = {run.name for run in comparisons}
    waiting = [job for job in app.jobs.all(queued=True) if job.kind == "compare" and job.run and job.run not in names]
    waiting = [job for job in waiting if job.state in ("queued", "running", "failed")]
    verdicts = {
        run.name: headline(run.facts)
        for run in comparisons
        if run.state == "done" and run.facts.get("schema") == SCHEMA
    }  # type: ignore[arg-type]
    return page(request, "compare_list.html", comparisons=comparisons, waiting=waiting, verdicts=verdicts)


@router.get("/report/{name:path}")
async def report(request: Request, name: str) -> Response:
    """report.html as it lies there."""
    path = request.app.state.settings.run_path(name) / "report.html"
    if not path.is_file():
        raise RunError(
            f"{name[:200]} has no report.html.\nExpected a finished comparison.\nResume it: /compare/{name[:200]}"
        )
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@router.get("/cells/{name:path}")
async def cells(request: Request, name: str) -> Response:
    """Its runs and how far they are; the whole page anew where the comparison has begun or ended meanwhile."""
    path = request.app.state.settings.run_path(name)
    state = state_of(request, name)
    if state != request.query_params.get("state"):
        return Response(headers={"HX-Refresh": "true"})
    return page(
        request, "compare_cells.html", name=name, compare_state=state, **await asyncio.to_thread(_cells, path, state)
    )


@router.get("/verify/{name:path}")
async def verified(request: Request, name: str) -> Response:
    """What the last check of the evidence said."""
    run = found(request, name)
    if not request.headers.get("hx-request"):
        return RedirectResponse(f"/compare/{quote(name)}", 303)
    return page(request, "compare_evidence.html", name=name, **_evidence(request, run))


@router.post("/compare/{name:path}/verify")
async def verify(request: Request, name: str) -> Response:
    """Check the evidence in a process of its own."""
    run = found(request, name)
    request.app.state.jobs.ask("verify", _verify_words(run), again=True)
    if not request.headers.get("hx-request"):
        return RedirectResponse(f"/compare/{quote(name)}#evidence", 303)
    return page(request, "compare_evidence.html", name=name, **_evidence(request, run))


@router.post("/compare/{name:path}/stop")
async def stop(request: Request, name: str) -> Response:
    """End it; runs that are done are kept, and a waiting comparison leaves the queue."""
    request.app.state.settings.run_path(name)
    request.app.state.jobs.stop_run(name)
    return RedirectResponse(f"/compare/{quote(name)}", 303)


@router.post("/compare/{name:path}/resume")
async def resume(request: Request, name: str) -> Response:
    """Go on with the runs that are missing."""
    run = found(request, name)
    stored = run.path / "compare.yaml"
    if run.state == "running" or not stored.is_file():
        raise RunError(
            f"{name} is {run.state}.\nExpected a comparison with compare.yaml that nobody runs.\nStart a new one: /new?from={name}"
        )
    job = request.app.state.jobs.of_run(name)
    if job is None or job.state not in ("queued", "running"):
        request.app.state.jobs.add("compare", ["compare", str(stored)], run=name)
    return RedirectResponse(f"/compare/{quote(name)}", 303)


@router.get("/compare/{name:path}")
async def comparison(request: Request, name: str) -> Response:
    """The page of a comparison, also of one whose folder is not there yet."""
    job = request.app.state.jobs.of_run(name)
    path = request.app.state.settings.run_path(name)
    one = request.app.state.runs.get(name)
    if one is None and (job is None or job.state == "done"):
        found(request, name)  # says which there are
    if one is not None and one.kind == "run":
        return RedirectResponse(f"/run/{quote(name)}", 303)
    state = state_of(request, name)
    with reading(name, "compare"):
        values = await asyncio.to_thread(_facts, request, path, one, state)
        return page(
            request, "compare.html", name=name, run=one, job=job, compare_state=state, words=_words(one, job, path), **values
        )  # fmt: skip


def _words(one: Run | None, job: Job | None, path: Path) -> list[str]:
    if one is not None and (path / "compare.yaml").is_file():
        return ["compare", str(path / "compare.yaml")]
    if one is not None and "command" in one.facts:  # a merged comparison has no options of its own
        return shlex.split(one.facts["command"])[1:]
    return list(job.words) if job is not None else []


def _cells(path: Path, state: str) -> dict[str, Any]:
    shown = compared.cells(path, running=state == "running")
    wanted = max(compared.total(path), len(shown))
    metric = (compared.options(path).get("train") or {}).get("metric_for_best_model", "")
    return {"cells": shown, "wanted": wanted, "left": compared.seconds_left(shown, wanted), "metric": metric}


def _facts(request: Request, path: Path, one: Run | None, state: str) -> dict[str, Any]:
    """Everything below the title: of a finished comparison its result, of any other its cells."""
    result = compared.result(path) if one is not None and state == "done" else None
    if result is None:
        return {"result": None, **_cells(path, state)}
    if result.get("schema") != SCHEMA:
        raise RunError(
            f"{path / 'comparison.json'} has the schema {result.get('schema')}.\nExpected {SCHEMA}, of this version of weitiao.\n"
            f"Write it anew from its runs: weitiao compare {path / 'compare.yaml'}"
        )
    paths = compared.run_paths(path, result)
    by_arm: dict[str, dict[int, Path]] = {}
    for (arm, seed), where in paths.items():
        by_arm.setdefault(arm, {})[seed] = where
    pairs = result["pairs"]
    root = request.app.state.settings.root.resolve()
    links = {
        key: str(at.relative_to(root)) for key, where in paths.items() if (at := where.resolve()).is_relative_to(root)
    }
    assert one is not None
    return {
        "result": result,
        "headline": headline(result),  # type: ignore[arg-type]
        "lines": verdict_lines(result),  # type: ignore[arg-type]
        "intervals": [_intervals(pair) for pair in pairs],
        "costs": compared.costs(result),
        "option_gaps": compared.option_gaps(result),
        "classes": _classes(result, paths),
        "differing": [
            (pair, differing(by_arm.get(pair["first"], {}), by_arm.get(pair["second"], {}))) for pair in pairs
        ],
        "selected": any(arm["selected_on_eval"] for arm in result["arms"]),
        "same": [cell for cell in result["cells"] if "same_answer" in cell],
        "same_answer_text": same_answer_text,
        "failed": [cell for cell in result["cells"] if cell["failure"]],
        "links": links,
        "has_report": (path / "report.html").is_file(),
        "goes_on": (path / "compare.yaml").is_file(),
        **_evidence(request, one),
    }


def _intervals(pair: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a metric, the one that decides first: the finding, its interval in words, and where it lies in the picture."""
    rows = []
    for name, metric in sorted(pair["metrics"].items(), key=lambda item: item[0] != pair["metric"]):
        low, high = metric["equivalence"]["lower"], metric["equivalence"]["upper"]
        over = metric["hierarchical"] or {}
        if low is None and over.get("lower") != over.get("upper"):
            low, high = over["lower"], over["upper"]
        drawn = compared.place(low, metric["mean_difference"], high, margin=metric["margin"])
        rows.append({"name": name, "found": metric, "text": interval_text(metric, flip=False), "drawn": drawn})  # type: ignore[arg-type]
    return rows


def _classes(result: dict[str, Any], paths: dict[tuple[str, int], Path]) -> dict[str, Any]:
    """The classes with the widest gap first, all in pictures of one width."""
    rows = compared.class_gaps(result, paths)
    ends = [abs(value) for row in rows for gap in row["gaps"] for value in gap.values() if value is not None]
    most = 1.1 * max(ends, default=0.0) or 0.01
    for row in rows:
        for gap in row["gaps"]:
            gap["drawn"] = compared.place(gap["low"], gap["mean"], gap["high"], most=most)
    return {"rows": rows, "most": most}


def _verify_words(run: Run) -> list[str]:
    return ["compare", "verify", str(run.path), "--json"]


def _evidence(request: Request, run: Run) -> dict[str, Any]:
    """evidence_state: none (no file), unchecked, running, holds, stale, unknown; and the job's answer or message.

    Stale is what the command says of the files; a check that was killed says nothing.
    """
    words = tuple(_verify_words(run))
    job = next((one for one in reversed(request.app.state.jobs.all(queued=False)) if one.words == words), None)
    path = run.path / "evidence.json"
    if not path.is_file():
        state = "none"
    elif job is None or (job.state not in ("running", "queued") and job.created < _last_change(run.path)):
        state = "unchecked"
    else:
        ended = "stale" if job.exit_code == 2 else "unknown"
        state = {"running": "running", "queued": "running", "done": "holds"}.get(job.state, ended)
    answer = (job.output() or {}) if job is not None and state == "holds" else {}
    return {"evidence_state": state, "checked": job, "answer": answer, "verify_words": _verify_words(run)[:-1]}


def _last_change(folder: Path) -> float:
    """When evidence.json or a file that it rests on was last written, in seconds of the epoch."""
    cells = _read(folder / "evidence.json").get("cells") or []
    rests = [folder / cell["run_dir"] / name for cell in cells for name in cell.get("sha256") or ()]
    times = []
    for path in (folder / "evidence.json", folder / "comparison.json", *rests):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


async def _side_by_side(request: Request, names: list[str]) -> Response:
    names = list(dict.fromkeys(names))
    if len(names) != 2:
        raise RunError(
            f"{'1 run is' if len(names) == 1 else f'{len(names)} runs are'} chosen.\nExpected two finished runs.\n"
            "Tick two in the list of runs; for more, start a comparison: /new"
        )
    pair = [found(request, name) for name in names]
    if wrong := next((run for run in pair if run.kind != "run" or run.state != "done"), None):
        kind = "a comparison" if wrong.kind == "comparison" else wrong.state
        raise RunError(
            f"{wrong.name} is {kind}.\nExpected two finished runs.\nWait for it or resume it, or choose another one."
        )
    with reading(" or ".join(names), "train"):
        return page(request, "compare_two.html", pair=pair, **await asyncio.to_thread(_two, pair))


def _two(pair: list[Run]) -> dict[str, Any]:
    """Figures, options that differ, whether the held-out rows are the same, rows on which they disagree, the real comparison's command."""
    configs = [_config(run.path) for run in pair]
    facts = [run.facts for run in pair]
    same_task = pair[0].task == pair[1].task and pair[0].labels == pair[1].labels
    seen = [(_read(run.path / "split.json").get("eval"), _eval_files(run.path)) for run in pair]
    same_rows = same_task and seen[0] == seen[1] and seen[0][0] is not None
    wanted = TASK_OPTIONS[pair[0].task].metrics if pair[0].task in TASK_OPTIONS else {}
    scores = [one.get("metrics") or {} for one in facts]
    metrics = [
        {"name": name, "values": [own.get(name) for own in scores], "higher": higher}
        for name, higher in wanted.items()
        if any(own.get(name) is not None for own in scores)
    ]
    flats = [compared.flat({key: value for key, value in config.items() if key != "output"}) for config in configs]
    disagree = differing({0: pair[0].path}, {0: pair[1].path}) if same_rows else None
    words = ["compare", *_shared_words(pair), f"compare.methods={json.dumps(_arms(pair), ensure_ascii=False)}"]
    return {
        "facts": facts, "same_task": same_task, "same_rows": same_rows, "metrics": metrics, "costs": _SHARED_COSTS,
        "option_gaps": compared.unequal(flats), "differing": disagree, "seeds": [one.get("seed") for one in facts],
        "words": [*words, "compare.seeds=[1,2,3,4,5,6]", "output.dir=NEW"],
    }  # fmt: skip


def _shared_words(pair: Sequence[Run]) -> list[str]:
    """The options that both runs have, apart from method, rate and seed, as words. Those that differ are listed on the page."""
    configs = [load(RunConfig, run.path / "config.yaml") for run in pair]
    own = [{path: value for path, (value, _) in differences(config).items()} for config in configs]
    always = {"model": configs[0].model, "data.train": configs[0].data.train}
    shared = {path: value for path, value in own[0].items() if path in own[1] and own[1][path] == value}
    apart = ("method.", "output.", "train.learning_rate", "train.seed")
    kept = always | {path: value for path, value in shared.items() if not path.startswith(apart)}
    return [word(path, as_text(value)) for path, value in kept.items()]


def _arms(pair: Sequence[Run]) -> list[dict[str, Any]]:
    """The methods of both runs with their options and rates, each under the name of its run."""
    arms: list[dict[str, Any]] = []
    names = [clean(run.name.replace("/", "-")) for run in pair]
    names = names if len(set(names)) == len(names) else [f"{name}-{number}" for number, name in enumerate(names, 1)]
    for run, name in zip(pair, names, strict=True):
        config = load(RunConfig, run.path / "config.yaml")
        own = {p.removeprefix("method."): v for p, (v, _) in differences(config).items() if p.startswith("method.")}
        rate = {} if config.train.learning_rate is None else {"learning_rate": config.train.learning_rate}
        arms.append({"name": name, **own, "type": config.method.type, **rate})
    return arms


def _config(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, yaml.YAMLError):
        return yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) or {}
    return {}


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {}


def _eval_files(path: Path) -> Any:
    seen = _read(path / "environment.json").get("data_sha256") or {}
    return seen.get("eval") or seen.get("train")
