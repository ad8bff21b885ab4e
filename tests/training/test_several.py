"""What several processes hold and write: parts of a model as it is loaded, parts of checkpoints, gradients without a search."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.processes import environment

pytestmark = pytest.mark.beyond_check
SCRIPT = Path(__file__).parents[1] / "support" / "several.py"
Cases = list[tuple[str, Path, int]]


def together(cases: Cases) -> list[Any]:
    """What the first of each case's processes found."""
    words = [str(word) for case in cases for word in case]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, env=environment(), timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "{["]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases, of one process that imports once."""
    folder = tmp_path_factory.mktemp("several")
    cases: Cases = [
        (word, folder / str(before), after)
        for before, afters in ((2, (1, 4)), (4, (2, 1)), (1, (2,)))
        for word, after in (("save", before), *(("load", after) for after in afters))
    ]
    cases += [("no_room", folder / "full", 2), ("unused", folder, 2), ("memory", model_of_205_mb(folder / "model"), 2)]
    answers = together(cases)
    return {f"{word} {path.name} {count}": answer for (word, path, count), answer in zip(cases, answers, strict=True)}


def model_of_205_mb(folder: Path) -> Path:
    """In bf16, so half of that on disk."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=500, hidden_size=512, num_hidden_layers=16, num_attention_heads=8, intermediate_size=2048
    )
    torch.manual_seed(1)
    BertModel(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (4, 2), (4, 1), (1, 2)])
def test_a_checkpoint_is_read_by_any_number_of_processes(before: int, after: int, found: dict[str, Any]) -> None:
    """Weights and moments, to the bit: a step after reading is the step that the writers would have taken."""
    saved = found[f"save {before} {before}"]
    assert saved["step"] == 2
    ends = [f"-{i + 1:05d}-of-{before:05d}" for i in range(before)] if before > 1 else [""]
    assert set(saved["files"]) == {"state.json"} | {f"{stem}{end}.safetensors" for stem in ("optimizer", "trainable") for end in ends}  # fmt: skip
    assert found[f"load {before} {after}"]["weights"] == saved["weights"]


def test_one_process_cannot_write_its_part(found: dict[str, Any]) -> None:
    """All stop with an error that says so, the checkpoint before is whole, and the half-written one is gone."""
    answer = found["no_room full 2"]
    assert answer["said"][1].startswith("Cannot write")
    assert "No space left on device" in answer["said"][1]
    assert answer["said"][0].startswith("Process 1 (counted from 0) failed: Cannot write")
    assert (answer["left"], answer["step"]) == (["last", "step-1"], 1)


def test_no_process_holds_the_whole_model(found: dict[str, Any]) -> None:
    """Of 205 MB in fp32 each of two processes ends up with half, and has never held much more."""
    answer, size = found["memory model 2"], 205e6
    assert answer["equal"] == [True, True]
    assert max(answer["parts"]) < 0.85 * size, answer
    assert min(answer["whole"]) > size, answer


def test_gradients_do_not_depend_on_the_search_for_unused_parameters(found: dict[str, Any]) -> None:
    assert found["unused several0 2"] == {"same": [True, True], "looks": [True, False]}
