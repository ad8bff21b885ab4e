"""Whether weitiao is right, planned and fast on this machine's GPU: docs/gpu.md, gpu.zh.md. Every cell is a process with a deadline.

    python benchmarks/gpu.py             measure what is missing, and render both pages
    python benchmarks/gpu.py --smoke     small shapes, on a GPU or a CPU; results stay in the scratch folder
    python benchmarks/gpu.py --render    only render

Needs no network and no compiler. Without a GPU it says so, and measures nothing.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import gpu_kernels
import gpu_material as material
from record import HERE, RESULTS, ROOT, code_version

NAME = "gpu.json"
STEPS = 20


@dataclass(frozen=True)
class Cell:
    """One child process."""

    name: str
    run: Callable[["Place", dict[str, Any]], dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    seconds: int = 120


@dataclass(frozen=True)
class Place:
    scratch: Path
    smoke: bool

    def shape(self, name: str) -> str:
        small = {"bert-base": "small", "0.5B": "small-lm"}
        return small.get(name, name) if self.smoke else name


def config(place: Place, shape: str, method: str, train: dict[str, Any], folder: Path) -> dict[str, Any]:
    shape = place.shape(shape)
    task = material.SHAPES[shape].task
    long = task == "causal_lm" and not place.smoke
    data = material.rows(task, place.scratch, 400 if place.smoke else 6000, 500 if long else 55)
    more = {"chat_template": "chatml", "max_length": 2048} if task == "causal_lm" else {"max_length": 512}
    return {
        "model": str(material.model(shape, place.scratch)),
        "task": task,
        "data": {"train": str(data), "test_size": 16, "check": "warn", "near_duplicates": "off", **more},
        "method": {"type": method},
        "train": {"max_steps": STEPS, "eval_strategy": "no", "logging_steps": 1, **train}
        | ({"generate_rows": 0} if task == "causal_lm" else {}),
        "output": {"dir": str(folder)},
    }


def trained(place: Place, options: dict[str, Any]) -> dict[str, Any]:
    """A run of 20 steps: speed, share of the card's rate, memory next to the plan's."""
    import weitiao

    train = {"tokens_per_batch": 256 if place.smoke else 16384, **options.get("train", {})}
    run = weitiao.train(config(place, options["shape"], options["method"], train, place.scratch / "run"))
    summary, planned = run.summary, run.read_json("plan.json") if (run.path / "plan.json").is_file() else None
    losses = losses_of(run.path)
    flops = planned["methods"][0]["flops_per_token"] * summary["tokens_per_s"] if planned else None
    return {
        "tokens_per_s": summary["tokens_per_s"],
        "samples_per_s": summary["samples_per_s"],
        "flops_per_s": flops,
        "dtype": summary["dtype"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "gpu_memory_bytes": summary.get("gpu_memory_bytes"),
        "plan_error": summary["plan_error"],
        "planned_load_bytes": planned["methods"][0]["load_peak_bytes"] if planned else None,
        "losses": [losses[0], losses[-1]],
        "finite": all(map(math.isfinite, losses)),
    }


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "log"]


def parity(place: Place, options: dict[str, Any]) -> dict[str, Any]:
    """fp32 losses of the same 20 steps on the GPU and on the CPU."""
    found = []
    for name, variables in (("gpu", {}), ("cpu", {"CUDA_VISIBLE_DEVICES": ""})):
        folder = place.scratch / f"parity-{name}"
        wanted = config(place, "small", options["method"], {"bf16": False, "tokens_per_batch": 512}, folder)
        command(wanted, place.scratch / f"parity-{name}.yaml", variables)
        found.append(losses_of(folder))
    apart = [abs(a - b) for a, b in zip(*found, strict=True)]
    return {"first_step": apart[0], "last_step": apart[-1], "reached": apart[0] <= 1e-4 and apart[-1] <= 1e-3}


def resumed(place: Place, options: dict[str, Any]) -> dict[str, Any]:
    """A run that is killed after its checkpoint at step 10 and resumed, next to one that nothing stopped."""
    train = {"deterministic": True, "save_steps": 10, "tokens_per_batch": 512}
    whole = config(place, "small", options["method"], train, place.scratch / "whole")
    command(whole, place.scratch / "whole.yaml")
    broken = whole | {"output": {"dir": str(place.scratch / "broken")}}
    checkpoint = place.scratch / "broken" / "checkpoints" / "step-10"
    (place.scratch / "broken.yaml").write_text(yaml.safe_dump(broken), encoding="utf-8")
    process = subprocess.Popen([*WEITIAO, "train", str(place.scratch / "broken.yaml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    was_killed = process.wait() == -signal.SIGKILL
    taken = len(losses_of(place.scratch / "broken"))
    if was_killed:
        done = subprocess.run(
            [*WEITIAO, "train", "--resume", str(place.scratch / "broken")], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
    one, other = (losses_of(place.scratch / name) for name in ("whole", "broken"))
    apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
    return {
        "killed": was_killed,
        "steps_before": taken,
        "largest_difference": apart,
        "reached": was_killed and taken < STEPS and apart == 0.0,
    }


def padding(place: Place, options: dict[str, Any]) -> dict[str, Any]:
    """Losses of the same 20 steps with and without padding."""
    found = []
    for free in (False, True):
        train = {"padding_free": free, "tokens_per_batch": 512, "group_by_length": False}
        wanted = config(place, options["shape"], options["method"], train, place.scratch / f"padding-{free}")
        command(wanted, place.scratch / f"padding-{free}.yaml")
        found.append(losses_of(place.scratch / f"padding-{free}"))
    apart = [abs(a - b) for a, b in zip(*found, strict=True)]
    return {"first_step": apart[0], "mean": sum(apart) / len(apart), "reached": sum(apart) / len(apart) <= 5e-3}


def rates(place: Place, options: dict[str, Any]) -> dict[str, Any]:
    """What the card does at best: a bf16 product of 8,192 cubed, and a copy."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 256 if place.smoke else 8192
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    source = torch.empty(1 << (20 if place.smoke else 30), dtype=torch.uint8, device=device)

    def seconds(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(13):
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return sorted(times[3:])[5]

    return {
        "product_flops_per_s": 2 * size**3 / seconds(lambda: a @ a),
        "copy_bytes_per_s": 2 * source.numel() / seconds(source.clone),
        "card": torch.cuda.get_device_name(0) if device == "cuda" else "no GPU",
        "card_bytes": torch.cuda.mem_get_info()[1] if device == "cuda" else 0,
        "torch": torch.__version__,
    }


def syncs(place: Place, options: dict[str, Any]) -> dict[str, Any]:
    """How often the host waits for the GPU in steps that log nothing: torch's own warnings."""
    import warnings

    import torch

    import weitiao

    train = {"tokens_per_batch": 512, "logging_steps": STEPS}
    wanted = config(place, options["shape"], options["method"], train, place.scratch / "run")

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == 1 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weitiao.train(wanted, listener=listen)
    waits = [str(w.filename).partition("site-packages/")[2] or Path(w.filename).name for w in caught if "synchroniz" in str(w.message).lower()]  # fmt: skip
    places = sorted({f"{name}: {waits.count(name)}" for name in waits})
    return {"synchronisations": len(waits), "steps": STEPS - 1, "where": places[:12]}


WEITIAO = [sys.executable, "-m", "weitiao"]


def command(wanted: dict[str, Any], path: Path, variables: dict[str, str] | None = None) -> None:
    path.write_text(yaml.safe_dump(wanted), encoding="utf-8")
    done = subprocess.run(
        [*WEITIAO, "train", str(path)], capture_output=True, text=True, env=os.environ | (variables or {})
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def _train(shape: str, method: str, **train: Any) -> dict[str, Any]:
    return {"shape": shape, "method": method, "train": train}


# What matters first comes first: time may run out.
CELLS = [
    Cell("rates", rates, seconds=60),
    Cell("bert-base, LoRA", trained, _train("bert-base", "lora")),
    Cell("bert-base, full", trained, _train("bert-base", "full")),
    Cell("0.5B, LoRA", trained, _train("0.5B", "lora")),
    Cell("0.5B, full", trained, _train("0.5B", "full")),
    Cell("resume, full", resumed, {"method": "full"}, 180),
    Cell("resume, LoRA", resumed, {"method": "lora"}, 180),
    Cell("GPU against CPU, full", parity, {"method": "full"}),
    Cell("GPU against CPU, LoRA", parity, {"method": "lora"}),
    Cell("GPU against CPU, PiSSA", parity, {"method": "pissa"}),
    Cell("waiting, 0.5B, LoRA", syncs, {"shape": "0.5B", "method": "lora"}),
    Cell("waiting, bert-base, full", syncs, {"shape": "bert-base", "method": "full"}),
    Cell("attention without padding", gpu_kernels.attention),
    Cell("no padding, encoder", padding, {"shape": "small", "method": "full"}),
    Cell("no padding, decoder", padding, {"shape": "small-lm", "method": "lora"}),
    Cell("Liger's layers", gpu_kernels.liger),
    Cell("0.5B, LoRA, checkpointed", trained, _train("0.5B", "lora", gradient_checkpointing=True)),
    Cell("0.5B, LoRA, packed", trained, _train("0.5B", "lora", packing=True)),
    Cell("0.5B, LoRA, padded", trained, _train("0.5B", "lora", padding_free=False)),
    Cell("bert-base, LoRA, padded", trained, _train("bert-base", "lora", padding_free=False)),
    Cell("0.5B, QLoRA", trained, _train("0.5B", "qlora")),
    Cell("bert-base, EVA", trained, _train("bert-base", "eva")),
    Cell("bert-base, LoRA, budget by trial", trained, _train("bert-base", "lora", tokens_per_batch="auto")),
]


def measure(cell: Cell, place: Place) -> dict[str, Any]:
    """A cell in a process of its own; {"error"} where it fails or takes too long."""
    words = [
        sys.executable,
        __file__,
        "--cell",
        cell.name,
        "--scratch",
        str(place.scratch),
        *(["--smoke"] if place.smoke else []),
    ]
    started = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=cell.seconds, cwd=HERE)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {cell.seconds} s"}
    took = time.perf_counter() - started
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": done.stderr[-1500:], "seconds": took}
    return {**json.loads(lines[-1]), "seconds": took}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="measure every cell anew")
    parser.add_argument("--only", default="", help="cells whose names have this")
    parser.add_argument("--seconds", type=float, default=480, help="begin no cell after so many")
    parser.add_argument("--results", type=Path, default=RESULTS / NAME)
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    options.scratch.mkdir(parents=True, exist_ok=True)
    place = Place(options.scratch.resolve(), options.smoke)
    if options.cell:
        _clear(place.scratch)
        cell = next(cell for cell in CELLS if cell.name == options.cell)
        print(json.dumps(cell.run(place, cell.options)))
        return
    if not options.render and not has_gpu() and not options.smoke:
        print("skipped: no GPU here")
        return
    path = place.scratch / NAME if options.smoke else options.results
    if not options.render:
        _measure_all(options, place, path)
    if not options.smoke:
        from gpu_page import PAGES, page

        for name, language in PAGES.items():
            (ROOT / "docs" / name).write_text(page(path, language), encoding="utf-8")


def _measure_all(options: argparse.Namespace, place: Place, path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not options.fresh else {}
    started = time.perf_counter()
    for cell in CELLS:
        if options.only not in cell.name or (cell.name in found and "error" not in found[cell.name]):
            continue
        if time.perf_counter() - started > options.seconds:
            print(f"{cell.name}: not begun, {options.seconds:.0f} s are over")
            continue
        found[cell.name] = measure(cell, place) | {"code": code_version()}
        print(f"{cell.name}: {json.dumps(found[cell.name])[:400]}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _clear(scratch: Path) -> None:
    import shutil

    for name in ("run", "whole", "broken", "parity-gpu", "parity-cpu", "padding-False", "padding-True"):
        shutil.rmtree(scratch / name, ignore_errors=True)


if __name__ == "__main__":
    main()
