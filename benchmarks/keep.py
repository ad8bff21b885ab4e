"""Keep a comparison as a result: python benchmarks/keep.py runs/demo (without the machine's own paths)."""

import json
import sys
from pathlib import Path

comparison = json.loads((Path(sys.argv[1]) / "comparison.json").read_text(encoding="utf-8"))
comparison["environment"].pop("cache")
target = Path(__file__).parent / "results" / f"{Path(sys.argv[1]).name}.json"
target.write_text(json.dumps(comparison, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
