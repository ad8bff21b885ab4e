"""benchmarks/gpu.py without a GPU: it says so, and its page shows what is not measured as not measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *words], capture_output=True, text=True, env=environment
    )


def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    done = run("--results", str(tmp_path / "gpu.json"), "--scratch", str(tmp_path / "scratch"))
    assert (done.returncode, done.stdout.strip()) == (0, "skipped: no GPU here"), done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_the_pages_are_current() -> None:
    from gpu_page import PAGES, page

    for name, language in PAGES.items():
        kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert kept == page(BENCHMARKS / "results" / "gpu.json", language), "run: python benchmarks/gpu.py --render"


def test_what_no_gpu_has_measured_is_not_measured(tmp_path: Path) -> None:
    from gpu import CELLS
    from gpu_page import NOT_MEASURED, page

    empty = page(tmp_path / "none.json")
    assert empty.count(NOT_MEASURED) == len(CELLS) - 1 + 3  # each run and check; the card, its rates and the code
    found: dict[str, Any] = {
        "rates": {"product_flops_per_s": 8e14, "copy_bytes_per_s": 4e12, "card": "A card", "torch": "2.11", "code": "abc"},
        "bert-base, LoRA": {
            "tokens_per_s": 123456.7, "flops_per_s": 4e14, "dtype": "bfloat16", "code": "abc",
            "gpu_memory_bytes": {"load": 1e9, "allocated": 2e9, "reserved": 3e9, "used": 4e9}, "planned_load_bytes": 2.5e9,
            "plan_error": {"memory": 0.07, "time": -0.2, "storage": None},
        },
        "resume, full": {"reached": False, "code": "abc"},
        "GPU against CPU, LoRA": {"error": "no room", "code": "abc"},
        "waiting, 0.5B, LoRA": {"synchronisations": 3, "steps": 19, "code": "abc"},
    }  # fmt: skip
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    lines = page(path).splitlines()
    assert "| bert-base, LoRA | 123,457 | 0.50 | bfloat16 | 1.00 | 3.00 | 2.50 | +7% | -20% |" in lines
    assert next(line for line in lines if line.startswith("| resume, full")).endswith("| no |")
    assert next(line for line in lines if line.startswith("| GPU against CPU, LoRA")).endswith("| failed |")
    assert next(line for line in lines if line.startswith("| waiting, 0.5B")).endswith("| 3 in 19 steps |")


@pytest.mark.beyond_test  # minutes
def test_every_cell_works_at_small_sizes_on_a_cpu(tmp_path: Path) -> None:
    from gpu import CELLS

    done = run("--smoke", "--scratch", str(tmp_path), "--seconds", "3000")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    failed = {name: one["error"] for name, one in found.items() if "error" in one}
    assert failed == {}
    assert found.keys() == {cell.name for cell in CELLS}
    assert all(one["reached"] for one in found.values() if "reached" in one)


def test_the_tables_of_models_are_current() -> None:
    from models import PAGES, PATH, page

    found = json.loads(PATH.read_text(encoding="utf-8"))
    for name, language in PAGES.items():
        kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert kept == page(found, language), "run: python benchmarks/models.py page"


def test_the_chinese_pages_have_no_english_sentence() -> None:
    """What is measured anew may bring names and reasons that have no Chinese yet."""
    for name in ("gpu.zh.md", "models.zh.md"):
        text = re.sub(r"`[^`]*`", "", (ROOT / "docs" / name).read_text(encoding="utf-8"))
        assert re.findall(r"[a-z']+(?: [a-z']+)+", text) == [], name


def test_a_method_that_fails_in_one_thing_is_not_shown_as_whole() -> None:
    from models import BEHAVIOURS, page

    good = dict.fromkeys(BEHAVIOURS, True)
    text = page(
        {"bert": {"full": good, "lora": good | {"resumes": "losses differ by 1.0e-03"}, "ia3": {"refused": "No."}}}
    )
    lines = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| ")
    }
    assert lines["full"] == ""  # the last table is the decoders', where nothing was measured
    first = text.split("## Decoders")[0]
    cells = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in first.splitlines() if line.startswith("| ")
    }
    assert (cells["full"], cells["lora"], cells["ia3"], cells["dora"]) == ("5", "4 (1)", "no (2)", "")
    assert "1. resumes: losses differ by 1.0e-03" in text
    assert "2. refused: No." in text
