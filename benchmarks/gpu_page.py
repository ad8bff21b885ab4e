"""docs/gpu.md from benchmarks/results/gpu.json. What no GPU has measured is shown as not measured."""

import json
from pathlib import Path
from typing import Any

from figures import document, table
from gpu import CELLS, STEPS, padding, parity, resumed, syncs, trained
from gpu_kernels import attention, liger

NOT_MEASURED = "not measured"
CHECKS: dict[Any, str] = {
    resumed: "killed after step 10 and resumed: the same losses to the bit",
    parity: "fp32 losses on GPU and CPU: at most 1e-4 apart at the first step, 1e-3 at the last",
    syncs: "times that the host waits for the GPU in steps that log nothing",
    attention: "bf16 values and gradients of the kernel without padding, against fp64: 1 % in norm at most",
    padding: "losses with and without padding: 0.005 apart on average at most",
    liger: "Liger's norms and gated layers, against ours in fp32: 0.1 % in norm at most",
}


def page(path: Path) -> str:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    best = found.get("rates", {})
    card = f"{best['card']}, torch {best['torch']}" if "card" in best else NOT_MEASURED
    reached = f"{best['product_flops_per_s'] / 1e12:,.0f} TFLOP/s, {best['copy_bytes_per_s'] / 1e12:.2f} TB/s" if "card" in best else NOT_MEASURED  # fmt: skip
    return document(
        [
            "# On a GPU",
            "This page is generated from `benchmarks/results/gpu.json`. `make gpu` measures what is missing there on a machine "
            "with a CUDA GPU, and renders the page again. Without a GPU it measures nothing.",
            f"- Card: {card}.\n- A bf16 product of 8,192 cubed, and a copy (bytes read and written): {reached}.",
            "## Runs",
            f"{STEPS} steps with random weights of a published shape, on rows of random words. *Share* is the plan's operations a "
            "second over the product's rate above. Memory is what torch reserved; the planned load has the card's context too.",
            _runs(found, best.get("product_flops_per_s")),
            "## Checks",
            _checks(found),
            f"Code: {', '.join(sorted({str(one['code']) for one in found.values()})) or NOT_MEASURED}.",
        ]
    )


def _runs(found: dict[str, Any], rate: float | None) -> str:
    rows = []
    for cell in (cell for cell in CELLS if cell.run is trained):
        one = found.get(cell.name, {})
        if "tokens_per_s" not in one:
            rows.append([cell.name, "failed" if "error" in one else NOT_MEASURED, *[""] * 7])
            continue
        share = f"{one['flops_per_s'] / rate:.2f}" if rate and one["flops_per_s"] else ""
        memory = one["gpu_memory_bytes"] or {}
        planned = one.get("planned_load_bytes")
        errors = [
            f"{one['plan_error'][key]:+.0%}" if one["plan_error"][key] is not None else "" for key in ("memory", "time")
        ]
        rows.append(
            [
                cell.name,
                f"{one['tokens_per_s']:,.0f}",
                share,
                one["dtype"],
                *(f"{memory[key] / 1e9:.2f}" if memory else "" for key in ("load", "reserved")),
                f"{planned / 1e9:.2f}" if planned else "",
                *errors,
            ]
        )
    head = [
        "run",
        "tokens/s",
        "share",
        "dtype",
        "load GB",
        "steps GB",
        "planned load GB",
        "plan's error, memory",
        "plan's error, time",
    ]
    return table(head, rows)


def _checks(found: dict[str, Any]) -> str:
    rows = []
    for cell in (cell for cell in CELLS if cell.run in CHECKS):
        one = found.get(cell.name, {})
        if not one or "error" in one:
            answer = "failed" if one else NOT_MEASURED
        elif "skipped" in one:
            answer = f"skipped: {one['skipped']}"
        elif cell.run is syncs:
            answer = f"{one['synchronisations']} in {one['steps']} steps"
        else:
            answer = "yes" if one["reached"] else "no"
        rows.append([cell.name, CHECKS[cell.run], answer])
    return table(["check", "what", "found"], rows)
