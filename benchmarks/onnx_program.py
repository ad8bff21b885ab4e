"""The engine against onnxruntime on the same rows: python benchmarks/onnx_program.py MODEL DTYPE SCRATCH. Prints JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import serving_material as made
from serving_program import median_seconds, opened, scored, texts


def onnx(model: str, dtype: str, scratch: Path) -> dict[str, Any]:
    """The same rows on one adapter, in the engine and in onnxruntime with int8 weights: both without HTTP, two threads, sorted."""
    import onnxruntime

    import weitiao

    run, rows = made.reviews(scratch, model, f"reviews-{model.split()[0]}"), texts(scratch)
    folder = scratch / "serving" / "onnx"
    if not folder.exists():
        weitiao.export(run, output=folder, format="onnx", int8=True)
    engine, registry = opened({"one": run}, dtype)
    reader = registry.open("one").reader
    ids = [reader.encode(reader.task.inputs_of([row])).row(0) for row in rows]
    tokens = sum(map(len, ids))
    own = median_seconds(lambda: scored(engine, registry, [("one", [row]) for row in rows]))
    engine.stop()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    found = {"engine_tokens_per_s": tokens / own}
    for file in sorted(folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        found[f"onnx_{'int8' if 'int8' in file.name else 'fp32'}_tokens_per_s"] = tokens / median_seconds(
            lambda session=session: run_onnx(session, ids, reader.tokenizer.pad_token_id)
        )
    return found


def run_onnx(session: Any, ids: list[Any], pad: int) -> None:
    """All rows, 32 at a time, rows of near-equal length together."""
    import numpy as np

    order = sorted(ids, key=len)
    for first in range(0, len(order), 32):
        part = order[first : first + 32]
        longest = max(map(len, part))
        given = {
            "input_ids": np.array([[*row, *[pad] * (longest - len(row))] for row in part], dtype=np.int64),
            "attention_mask": np.array([[1] * len(row) + [0] * (longest - len(row)) for row in part], dtype=np.int64),
            "token_type_ids": np.zeros((len(part), longest), dtype=np.int64),
        }
        session.run(None, {one.name: given[one.name] for one in session.get_inputs()})


if __name__ == "__main__":
    print(json.dumps(onnx(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
