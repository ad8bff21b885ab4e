"""Every task's recipes for full and for LoRA, run as they stand: python benchmarks/recipes.py [NAME ...]

Keeps the quality of each run, and what a language model answered before and after, in results/recipes.json. Time and memory
are bench.py's, which measures them with nothing else on the machine.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, code_version, last_json, machine

TASKS = ("reviews", "pairs", "sft", "ner", "multi-label", "regression")
NAMES = [f"{task}-{method}" for task in TASKS for method in ("full", "lora")]
STORED = RESULTS / "recipes.json"
KEPT = (
    "steps",
    "artifact_bytes",
    "num_trainable_params",
    "metrics",
    "metrics_before",
)


def run(recipe: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        summary = last_json([sys.executable, "-m", "weitiao", "train", recipe, f"output.dir={folder}", "--json"])
        samples = folder / "samples.jsonl"
        lines = samples.read_text("utf-8").splitlines() if samples.is_file() else []
    figures = {key: summary[key] for key in KEPT if key in summary}
    scalars = {name: value for name, value in figures["metrics"].items() if isinstance(value, int | float)}
    return figures | {"metrics": scalars, "samples": [json.loads(line) for line in lines]}


def main() -> None:
    names = sys.argv[1:] or NAMES
    recipes = [ROOT / "recipes" / f"{name}.yaml" for name in names]
    stored = json.loads(STORED.read_text("utf-8")) if STORED.is_file() else {"recipes": {}}
    for recipe in (recipe for recipe in recipes if recipe.is_file()):
        print(recipe.name, file=sys.stderr)
        found = run(recipe)
        stored["environment"] = machine()
        stored["recipes"][recipe.stem] = found | {"code": code_version()}
        stored["recipes"] = dict(sorted(stored["recipes"].items(), key=lambda entry: NAMES.index(entry[0])))
        STORED.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
