"""One measurement of the server or of a peer: python benchmarks/serving_program.py PART MODEL DTYPE SCRATCH. Prints JSON."""

import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import material
import serving_material as made
from record import HERE, last_json

ROWS, CLIENTS, REPEATS = 96, 16, 3


def texts(scratch: Path, count: int = ROWS) -> list[str]:
    rows = material.reviews(scratch, 3000).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in rows[-count:]]


def opened(names: dict[str, Path], dtype: str, **options: Any) -> tuple[Any, Any]:
    """An engine as a server has it, and its registry."""
    from weitiao.serving.registry import Registry, find_runs

    return engine_of(dtype, **options), Registry(find_runs([], names))


def engine_of(dtype: str, **options: Any) -> Any:
    import torch

    from weitiao.serving.engine import Engine
    from weitiao.serving.turns import Turns
    from weitiao.serving.workers import shared_out

    lanes = options.pop("lanes", shared_out()[0])
    return Engine(dtype=getattr(torch, dtype), lanes=lanes, turns=Turns(lanes), **options)


def scored(engine: Any, registry: Any, asked: Sequence[tuple[str, list[str]]]) -> list[Any]:
    """Scores of (model, texts), all handed in at once."""
    with engine._changed:
        models = [registry.open(name) for name, _ in asked]
        found = [
            engine.submit(m, m.reader.encode(m.reader.task.inputs_of(t)))
            for m, (_, t) in zip(models, asked, strict=True)
        ]
    return [one.result() for one in found]


def median_seconds(work: Any, repeats: int = REPEATS) -> float:
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def batch(model: str, dtype: str, scratch: Path) -> dict[str, Any]:
    """Requests of one text on 32 adapters of 2 to 50 labels, against the same texts on one merged model, and on peft."""
    run = made.reviews(scratch, model, f"reviews-{model.split()[0]}")
    rows = texts(scratch)
    names = {path.name: path for path in made.many(run, scratch / "serving" / f"mixed-{model.split()[0]}", 32, (2, 50))}
    engine, registry = opened(names | {"one": merged(run, scratch)}, dtype)
    tokens = sum(registry.open("one").reader.encode(rows).lengths)
    mixed = [(list(names)[i % 32], [row]) for i, row in enumerate(rows)]
    single = [("one", [row]) for row in rows]
    seconds: dict[str, list[float]] = {"mixed": [], "merged": []}
    for work in (mixed, single):
        scored(engine, registry, work)
    for _ in range(REPEATS):  # interleaved
        for name, work in (("mixed", mixed), ("merged", single)):
            began = time.perf_counter()
            scored(engine, registry, work)
            seconds[name].append(time.perf_counter() - began)
    found = {f"{name}_tokens_per_s": tokens / statistics.median(each) for name, each in seconds.items()}
    engine.stop()
    return found | {"peft_tokens_per_s": tokens / peft_seconds(run, scratch, rows, model), "tokens": tokens}


def merged(run: Path, scratch: Path) -> Path:
    """The run with its adapter summed in, as a full run."""
    import shutil

    import yaml

    import weitiao

    to = scratch / "serving" / f"{run.name}-merged"
    if not (to / "DONE").exists():
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(run, to)
        shutil.rmtree(to / "model")
        weitiao.merge(run, output=to / "model", dtype="float32")
        config = yaml.safe_load((to / "config.yaml").read_text(encoding="utf-8"))
        (to / "config.yaml").write_text(yaml.safe_dump({**config, "method": {"type": "full"}}), encoding="utf-8")
    return to


def peft_seconds(run: Path, scratch: Path, rows: list[str], model: str) -> float:
    """peft's mixed batches (adapter_names): batches of 32, sorted by length.

    All adapters have two labels and the base's own pooler: peft mixes no others.
    """
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = scratch / "serving" / f"equal-{model.split()[0]}"
    paths = [without_pooler(path) for path in made.many(run, folder, 32, (2, 2))]
    base = AutoModelForSequenceClassification.from_pretrained(material.model_path(model, scratch), num_labels=2)
    served = peft.PeftModel.from_pretrained(base, paths[0] / "model", adapter_name=paths[0].name)
    for path in paths[1:]:
        served.load_adapter(path / "model", adapter_name=path.name)
    served.eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))

    def work() -> None:
        for first in range(0, len(order), 32):
            chosen = order[first : first + 32]
            given = tokenizer(
                [rows[i] for i in chosen], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            with torch.inference_mode():
                served(**given, adapter_names=[paths[i % 32].name for i in chosen])

    return median_seconds(work, 1)


def without_pooler(run: Path) -> Path:
    """The same run with the base's pooler in its adapter's place."""
    from safetensors.torch import load_file, save_file

    weights, config = run / "model" / "adapter_model.safetensors", run / "model" / "adapter_config.json"
    facts = json.loads(config.read_text(encoding="utf-8"))
    if "pooler" in facts["modules_to_save"]:
        state = {name: value for name, value in load_file(weights).items() if ".pooler." not in name}
        for path in (weights, config):
            path.unlink()  # they may be links
        save_file(state, weights)
        config.write_text(json.dumps({**facts, "modules_to_save": ["classifier"]}), encoding="utf-8")
    return run


@contextlib.contextmanager
def server(scratch: Path, *words: str | Path) -> Iterator[int]:
    """`weitiao serve` and its port."""
    log = scratch / "serving" / "log"
    with log.open("w") as said:
        command = [sys.executable, "-m", "weitiao", "serve", *map(str, words), "--port", "0"]
        process = subprocess.Popen(command, stderr=said, stdout=said)
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))):
                if process.poll() is not None:
                    raise SystemExit(log.read_text(encoding="utf-8"))
                time.sleep(0.1)
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def load(port: int, bodies: Path, seconds: float, **how: float) -> dict[str, Any]:
    given = {"port": port, "path": "/predict", "bodies": str(bodies), "seconds": seconds, **how}
    return last_json([sys.executable, HERE / "load.py", json.dumps(given)])


def http(model: str, dtype: str, scratch: Path) -> dict[str, Any]:
    """One adapter over HTTP with 16 clients that wait, the same rows in the engine alone, and in a transformers pipeline."""
    from transformers import pipeline

    run = made.reviews(scratch, model, f"reviews-{model.split()[0]}")
    rows = texts(scratch, 128)
    bodies = scratch / "serving" / "one.jsonl"
    bodies.write_text("".join(json.dumps({"model": "one", "inputs": row}) + "\n" for row in rows), encoding="utf-8")
    with server(scratch, "--adapter", f"one={run}", "--dtype", dtype) as port:
        load(port, bodies, 5, clients=CLIENTS)
        found = load(port, bodies, 12, clients=CLIENTS)
    engine, registry = opened({"one": run}, dtype)
    tokens = sum(registry.open("one").reader.encode(rows).lengths)
    alone = median_seconds(lambda: scored(engine, registry, [("one", [row]) for row in rows]))
    engine.stop()
    piped = pipeline("text-classification", model=str(merged(run, scratch) / "model"), device="cpu")
    slow = median_seconds(lambda: piped(rows, batch_size=8, truncation=True), 1)
    per_row = tokens / len(rows)
    return {
        "bound_tokens_per_s": bound(merged(run, scratch), dtype),
        "http_tokens_per_s": found["answered_per_s"] * per_row,
        "engine_tokens_per_s": tokens / alone,
        "pipeline_tokens_per_s": tokens / slow,
        **found,
    }


def bound(run: Path, dtype: str) -> float:
    """Tokens a second if the products with the layers' weights were all, at the rate of large products in this process."""
    import torch
    from transformers import AutoConfig

    from flops import Shape
    from steps import REFERENCE, gemm_rate

    config = AutoConfig.from_pretrained(run / "model")
    shape = Shape(config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    (rate,) = gemm_rate([REFERENCE], getattr(torch, dtype), 1.0).values()
    return rate / (2 * shape.layers * shape.layer_parameters)


def arrivals(model: str, dtype: str, scratch: Path) -> dict[str, Any]:
    """An open loop over 100 adapters (Zipf, s = 1) at 70 % and 150 % of what 16 clients that wait get."""
    import random

    run = made.reviews(scratch, model, f"reviews-{model.split()[0]}")
    folder = scratch / "serving" / f"zipf-{model.split()[0]}"
    names = [path.name for path in made.many(run, folder, 100, (2, 50))]
    chance, rows = random.Random(3), texts(scratch, 2000)
    chance.shuffle(rows)  # as they come, the last ones are four times as long: the load would rise in the middle
    chosen = chance.choices(names, [1 / rank for rank in range(1, 101)], k=len(rows))
    bodies = scratch / "serving" / "zipf.jsonl"
    bodies.write_text(
        "".join(json.dumps({"model": n, "inputs": r}) + "\n" for n, r in zip(chosen, rows, strict=True)),
        encoding="utf-8",
    )
    with server(scratch, folder, "--waiting", "16", "--dtype", dtype) as port:
        load(port, bodies, 8, clients=CLIENTS)
        most = load(port, bodies, 8, clients=CLIENTS)["answered_per_s"]
        under = load(port, bodies, 15, rate=0.7 * most)
        over = load(port, bodies, 15, rate=1.5 * most)
    return {"most_per_s": most, "under": under, "over": over}


def thousand(model: str, dtype: str, scratch: Path) -> dict[str, Any]:
    """A thousand adapters: listed, loaded one after the other, and their speed against that of ten."""
    from weitiao.serving.registry import Registry, find_runs

    run = made.reviews(scratch, model, f"reviews-{model.split()[0]}")
    paths = made.many(run, scratch / "serving" / f"thousand-{model.split()[0]}", 1000, (2, 50))
    began = time.perf_counter()
    registry = Registry(find_runs([paths[0].parent], {}))
    listed = time.perf_counter() - began
    engine = engine_of(dtype, resident=1000)
    rows = texts(scratch)
    scored(engine, registry, [(paths[-1].name, rows[:1])])  # the base
    before, cold = resident_bytes(), []
    for path in paths[:-1]:
        began = time.perf_counter()
        scored(engine, registry, [(path.name, rows[:1])])
        cold.append(1000 * (time.perf_counter() - began))
    grown = (resident_bytes() - before) / len(cold)
    own = statistics.mean(one.adapter.num_bytes for one in engine.residents.recent.values())
    warm = 1000 * median_seconds(lambda: scored(engine, registry, [(paths[5].name, rows[:1])]), 9)

    def speed(count: int) -> float:
        return median_seconds(
            lambda: scored(engine, registry, [(paths[i % count].name, [r]) for i, r in enumerate(rows)])
        )

    ten, all_of_them = speed(10), speed(len(rows))
    engine.stop()
    return {
        "listed_seconds": listed, "first_ms": statistics.median(cold[:20]), "last_ms": statistics.median(cold[-20:]),
        "warm_ms": warm, "bytes_each": grown, "adapter_bytes": own, "adapter_bf16_bytes": own / 2 if dtype == "float32" else own, "speed_of_ten": 1 / ten, "speed_of_many": 1 / all_of_them,
    }  # fmt: skip


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def equal(model: str, dtype: str, scratch: Path) -> dict[str, Any]:
    """Two review adapters, entities and numbers on one base: a mixed batch against each by `weitiao predict`'s code."""
    import numpy as np

    from weitiao.inference.predictor import Predictor
    from weitiao.rundir.folder import RunDir

    runs = {
        "reviews": made.reviews(scratch, model, "reviews-a"),
        "others": made.reviews(scratch, model, "reviews-b", "train.seed=7"),
        "ner": made.entities(scratch),
        "stars": made.numbers(scratch),
    }
    rows = texts(scratch, 24)
    engine, registry = opened(runs, dtype, tokens_per_batch=1 << 20, padded_share=9.0, lanes=1)
    found = scored(engine, registry, [(name, rows) for name in runs])
    batches, apart = engine.batches, {}
    engine.stop()
    for name, scores in zip(runs, found, strict=True):
        predictor = Predictor(RunDir.open(runs[name]))
        alone = predictor.scores(predictor.task.inputs_of(rows))[0]
        apart[name] = float(np.abs(alone - scores).max())
    return {
        "batches": batches,
        "rows": len(rows) * len(runs),
        "apart": apart,
        "worst": max(apart.values()),
        "worst_1e5": 1e5 * max(apart.values()),
    }


PARTS = {"batch": batch, "http": http, "arrivals": arrivals, "thousand": thousand, "equal": equal}

if __name__ == "__main__":
    from weitiao.system import threads

    threads.settle()
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:4], Path(sys.argv[4]))))
