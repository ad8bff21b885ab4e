"""The plan against GPU runs that others measured and published: memory and time, rows that were fitted and rows held out.

Every row of published/rows.jsonl is another tool's run. Its program is drawn as shapes (peer_program.py) and traced by the
plan's own account; the device is the plan's own table. A few constants of GPUs cannot be known from data sheets. They are
fitted on every second row of each source, and tested on the others:

    python benchmarks/published.py trace     minutes; adds what is missing to results/published.json
    python benchmarks/published.py fit       prints the constants for src/weitiao/measure/gpu.py
    python benchmarks/published_page.py      docs/published.md and published.zh.md
"""

import argparse
import json
import math
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.optimize import least_squares

from weitiao.measure import gpu
from weitiao.measure.cost import Passes, Work
from weitiao.measure.devices import find_device

HERE = Path(__file__).parent
ROWS = HERE / "published" / "rows.jsonl"
RESULTS = HERE / "results" / "published.json"
DEFAULTS: dict[str, Any] = {
    "peft": None, "device": None, "dtype": "bfloat16", "adapter_dtype": "bfloat16", "packed": None, "head_is_packed": False,
    "moments": "weights", "accumulation": 1, "checkpointing": False, "attention": "sdpa", "mask": False, "loss": "full fp32",
    "memory_bytes": None, "memory_kind": None, "seconds": None, "passes": None, "steps": None, "tokens": None,
    "time_tokens": None, "note": "", "untie": False, "keeps_gradients": False, "config": {}, "context_bytes": None, "foreach": True, "excluded": "", "own_code": False,
    "published_trained": None,
}  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """The published rows with every setting, and ``fitted``: every second one of a source."""
    found = [DEFAULTS | json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    seen: Counter[str] = Counter()
    for row in found:
        group = row["id"].split("/")[0]
        row["group"], row["fitted"] = group, seen[group] % 2 == 0
        seen[group] += 1
    return found


def trace_row(row: dict[str, Any]) -> dict[str, Any]:
    """What the program holds and does; passes as lists, so that other constants need no new trace."""
    from peer_program import program

    made = program(row)
    found: dict[str, Any] = {
        "settings": row_key(row),
        "weights": made.weights, "moments": made.moments, "gradients": made.gradients, "trained": made.trained,
        "tensors": made.tensors, "unpacked": made.unpacked,
    }  # fmt: skip
    for tokens in {row["tokens"], row["time_tokens"]} - {None}:
        cost = made.cost(tokens)
        found[str(tokens)] = {
            "peak": cost.peak_bytes,
            "saved": cost.saved_bytes,
            "operations": cost.both.operations,
            "work": [[*work, n] for work, n in cost.both.work.items()],
        }
    return found


def row_key(row: dict[str, Any]) -> str:
    """The settings that a trace depends on."""
    unrelated = (
        "source",
        "seconds",
        "memory_bytes",
        "memory_kind",
        "passes",
        "steps",
        "note",
        "device",
        "fitted",
        "group",
    )
    return json.dumps({k: v for k, v in row.items() if k not in unrelated}, sort_keys=True)


def trace_all(only: str) -> None:
    """Trace what results/published.json lacks, or has of other settings."""
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for row in rows():
        if only not in row["id"] or done.get(row["id"], {}).get("settings") == row_key(row):
            continue
        print(row["id"], flush=True)
        try:
            done[row["id"]] = trace_row(row)
        except Exception:
            traceback.print_exc(limit=-3)
            continue
        RESULTS.write_text(json.dumps(done) + "\n")


def memory_bytes(row: dict[str, Any], traced: dict[str, Any], constants: gpu.Constants) -> float:
    """What the plan says of the published kind of figure."""
    shape = traced[str(row["tokens"])]
    if row["memory_kind"] == "saved":  # after the forward pass of one batch
        return float(traced["weights"] + shape["saved"])
    held = traced["weights"] + traced["moments"] + traced["unpacked"]
    if row["keeps_gradients"]:
        held += traced["gradients"]
    # since torch 2.0 AdamW updates all tensors at once, with one temporary of their size
    at_once = row["foreach"] and row["moments"] != "8bit"
    allocated = float(held + max(shape["peak"], traced["gradients"] * (2 if at_once else 1)))
    if row["memory_kind"] == "allocated":
        return allocated
    context = row["context_bytes"] or constants.context_bytes
    return (1 + constants.reserve_share) * allocated + (context if row["memory_kind"] == "device" else 0)


def passes_of(row: dict[str, Any], traced: dict[str, Any]) -> Passes:
    """The operations of one micro batch."""
    shape = traced[str(row["time_tokens"])]
    return Passes({Work(*work): n for *work, n in shape["work"]}, shape["operations"])


def seconds(row: dict[str, Any], traced: dict[str, Any], constants: gpu.Constants) -> float:
    """What the plan says of the published time."""
    rates = gpu.rates(find_device(row["device"]), row["dtype"], constants)
    update = rates.update_seconds(traced["trained"], traced["tensors"])
    return float(row["passes"] * passes_of(row, traced).seconds(rates) + row["steps"] * update)


def waits_for_own_code(row: dict[str, Any], traced: dict[str, Any], constants: gpu.Constants) -> bool:
    """The host is the slower side, and its code is not transformers', which the program is drawn with."""
    rates, passes = gpu.rates(find_device(row["device"]), row["dtype"], constants), passes_of(row, traced)
    return bool(row["own_code"]) and rates.host_seconds(passes.operations) > rates.work_seconds(passes.work)


@dataclass(frozen=True)
class Found:
    """A row, what the plan says, and why the row does not count, if so."""

    row: dict[str, Any]
    planned: float
    published: float
    left_out: str

    @property
    def error(self) -> float:
        return self.planned / self.published - 1


def found(what: str, constants: gpu.Constants) -> list[Found]:
    """Every row that has the figure: ``memory`` or ``time``."""
    traced = json.loads(RESULTS.read_text())
    result = []
    for row in rows():
        own = traced.get(row["id"])
        if own is None or not row["memory_bytes" if what == "memory" else "seconds"]:
            continue
        left_out = row["excluded"]
        if what == "memory":
            result.append(Found(row, memory_bytes(row, own, constants), row["memory_bytes"], left_out))
            continue
        if not left_out and waits_for_own_code(row, own, constants):
            left_out = "the host is the slower side, and its code is not transformers'"
        result.append(Found(row, seconds(row, own, constants), row["seconds"], left_out))
    return result


def fit() -> gpu.Constants:
    """The constants that fit the fitted rows best: logarithms of ratios, outliers weighed less (soft L1)."""
    shares = ("tensor_share", "tensor_share_dual", "vector_share", "vector_share_dual", "bandwidth_share")
    constants = gpu.CONSTANTS
    for what, names, scales in (
        ("memory", ("reserve_share", "context_bytes"), (1.0, 1e9)),
        ("time", (*shares, "host_s"), (1.0,) * len(shares) + (1e-5,)),
    ):
        counted = {one.row["id"] for one in found(what, constants) if one.row["fitted"] and not one.left_out}
        fixed = constants

        def changed(
            x: Any, fixed: gpu.Constants = fixed, names: tuple[str, ...] = names, scales: tuple[float, ...] = scales
        ) -> gpu.Constants:
            return replace(fixed, **{n: float(v) * s for n, v, s in zip(names, x, scales, strict=True)})

        def residuals(x: Any, what: str = what, counted: set[str] = counted, changed: Any = changed) -> list[float]:
            return [math.log(1 + one.error) for one in found(what, changed(x)) if one.row["id"] in counted]

        start = [getattr(constants, n) / s for n, s in zip(names, scales, strict=True)]
        solved = least_squares(
            residuals, start, loss="soft_l1", f_scale=0.1, bounds=([1e-3] * len(start), [4] * len(start))
        )
        constants = changed(solved.x)
    return constants


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trace", "fit"))
    parser.add_argument("--only", default="", help="rows whose id has this")
    given = parser.parse_args()
    if given.what == "trace":
        trace_all(given.only)
    else:
        print(fit())
