"""Scripts with Trainer: read and never run, every argument of the installed libraries known, and nothing guessed."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from tests.converting.test_conversion_values import ODD
from typer.testing import CliRunner

from weitiao.commands.app import app
from weitiao.config.loading import option_paths
from weitiao.config.run import RunConfig
from weitiao.converting import trainer
from weitiao.converting.convert import examine
from weitiao.converting.hf_trainer import RULES
from weitiao.errors import ConfigError

MODEL = 'model = AutoModelForSequenceClassification.from_pretrained("hfl/rbt3", num_labels=2)\n'
ARGUMENTS = 'args = TrainingArguments("out")\n'
TOKENIZER = """tokenizer = AutoTokenizer.from_pretrained("hfl/rbt3")
def cut(rows):
    return tokenizer(rows["text"], truncation=True, max_length=64)
"""
ROWS = 'rows = load_dataset("owner/name").map(cut, batched=True)\n'
TRAINS = 'trainer = Trainer(model, args, train_dataset=rows["train"], eval_dataset=rows["test"])\ntrainer.train()\n'
SCRIPT = TOKENIZER + ROWS + MODEL + ARGUMENTS + TRAINS
HELD_OUT = "data.test_size=50"


def made(tmp_path: Path, text: str, *words: str, name: str = "train.py") -> dict[str, Any]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return dict(examine(path, "trainer", words))


def fates(found: dict[str, Any]) -> dict[str, str]:
    return {key["key"]: key["fate"] for key in found["keys"]}


def test_every_argument_of_the_installed_libraries_is_known() -> None:
    from peft import LoraConfig
    from transformers import Seq2SeqTrainingArguments, Trainer

    names = [field.name for field in dataclasses.fields(Seq2SeqTrainingArguments) if field.init]
    names += [f"LoraConfig.{field.name}" for field in dataclasses.fields(LoraConfig) if field.init]
    names += [f"Trainer.{name}" for name in inspect.signature(Trainer).parameters]
    assert [name for name in names if name not in RULES] == []


def test_a_script_is_not_run(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'trace')!r}, 'w')\n1 / 0\nimport nothing_of_this_name\n{SCRIPT}"
    assert made(tmp_path, text, HELD_OUT)["config"] is not None
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("before", "given", "value"),
    [
        ("rate = 3e-5", "rate", 3e-5),
        ("rate: float = 3e-5", "rate", 3e-5),
        ("", "-(-3e-5)", None),
        ("rate = 3e-5\nrate = 1e-4", "rate", None),  # which of them, only running says
        ("rate = 3e-5\nrate *= 2", "rate", None),
        ("rate = other", "rate", None),
        ("for rate in (1e-5, 3e-5): pass", "rate", None),
        ("rate, steps = 3e-5, 10", "rate", None),
        ("def train(rate=3e-5): pass", "rate", None),
        ("import rate", "rate", None),
        ("given = {'rate': [3e-5]}\ngiven['rate'].append(1)\nrate = given", "rate", None),
        ("rate = Path(rate)", "rate", None),
        ("if fast:\n    rate = 3e-5", "rate", None),
        ("rate = 1e-4\nfor rate, other in grid: pass", "rate", None),
        ("rate = 3e-5\nif __name__ == '__main__':\n    print(1)", "rate", 3e-5),
        ("rate = 3e-5\nglobals()['rate'] = 1", "rate", None),
        ("rate = 3e-5\nfrom settings import rate", "rate", None),
        ("", "args.rate", None),
        ("", "float('3e-5')", None),
    ],
)
def test_a_value_is_a_literal_or_it_is_asked_for(tmp_path: Path, before: str, given: str, value: float | None) -> None:
    text = f"{before}\n" + SCRIPT.replace('"out")', f'"out", learning_rate={given})')
    found = made(tmp_path, text, HELD_OUT)
    if value is None:
        assert "refused" in (fates(found)["learning_rate"], fates(found).get("other code"))
        assert found["config"] is None
    else:
        assert found["config"]["train"]["learning_rate"] == value


def test_a_name_may_stand_for_itself(tmp_path: Path) -> None:
    """a = a, and two names in a circle."""
    text = f"a = a\nb = c\nc = b\n{MODEL}TrainingArguments(a, learning_rate=b)\n"
    assert fates(made(tmp_path, text))["learning_rate"] == "refused"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def (", "no valid Python, line 1"),
        ("print(1)", "no TrainingArguments"),
        (f"{ARGUMENTS}TrainingArguments('other')", "2 different calls of TrainingArguments, in lines 1, 2"),
        (f"{SCRIPT}trainer.train()", "2 trainings, in lines"),
        (SCRIPT.replace("trainer.train()", "for fold in range(3): trainer.train()"), "a training in a loop"),
        (f"{ARGUMENTS}LoraConfig(r=4)\nLoraConfig(r=8)", "2 different calls of LoraConfig, in lines 2, 3"),
        ("learning_rate: 1e-4\n", "no TrainingArguments"),
        ("(" * 5000, "no valid Python"),
        (
            f"{SCRIPT}x = model{'.a()' * 3000}\n".replace(
                "trainer = Trainer", f"y = model{'.a()' * 1500}\ntrainer = Trainer"
            ),
            "nested too deeply",
        ),
        ("x = " + "-" * 100_000 + "1", "no valid Python"),
    ],
)
def test_what_is_no_script_of_one_run_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(tmp_path, text)


@pytest.mark.parametrize("text", ["{}", "[]", '{"cells": 3}', '{"cells": [{}]}', "not json", '{"cells": [{"cell_type": "code"}]}'])  # fmt: skip
def test_a_broken_notebook_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"no valid|no TrainingArguments|no cells"):
        made(tmp_path, text, name="train.ipynb")


def test_equal_calls_are_one(tmp_path: Path) -> None:
    """An article loads its model for each method."""
    assert fates(made(tmp_path, MODEL * 2 + ARGUMENTS * 2))["from_pretrained.class"] == "mapped"


def test_the_encoding_is_the_scripts_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes(f"# coding: gbk\nname = '情感'\n{SCRIPT}".encode("gbk"))
    assert examine(tmp_path / "train.py", "trainer", [HELD_OUT])["config"] is not None
    (tmp_path / "train.py").write_bytes(f"name = '情感'\n{SCRIPT}".encode("gbk"))
    with pytest.raises(ConfigError, match="coding: gbk"):
        examine(tmp_path / "train.py", "trainer")


@pytest.mark.parametrize(
    ("cell", "same"),
    [
        ("!pip install x", True), ("%matplotlib inline", True), ("x = !ls", True), ("Trainer?", True), ("if a:\n    !pip install x", True),
        ("%run prepare.py", False), ("x = f(3\n  % 2)", True), ("%%bash\nrm -rf x", True), ("%%script false\nargs.seed = 3", True), ("%%time\nargs.seed = 3", False), ("%time args.seed = 3", False),
    ],
)  # fmt: skip
def test_cells_of_a_notebook(tmp_path: Path, cell: str, same: bool) -> None:
    """Commands of the notebook are no code, and cells that are switched off are not read."""
    train = SCRIPT.index("trainer = Trainer")
    cells = [{"cell_type": "code", "source": source} for source in (SCRIPT[:train], cell, SCRIPT[train:])]
    found = made(tmp_path, json.dumps({"cells": cells}), HELD_OUT, name="train.ipynb")
    assert (found["config"] is not None) == same


@pytest.mark.parametrize(
    ("loaded", "task"),
    [
        ("AutoModelForSequenceClassification.from_pretrained('a')", "classification"),
        ("BertForSequenceClassification.from_pretrained('a', num_labels=1)", "regression"),
        ("AutoModelForSequenceClassification.from_pretrained('a', problem_type='multi_label_classification', num_labels=4)", "multi_label"),
        ("AutoModelForTokenClassification.from_pretrained('a')", "token_classification"),
        ("transformers.AutoModelForCausalLM.from_pretrained('a')", "causal_lm"),
        ("AutoModelForQuestionAnswering.from_pretrained('a')", None),
        ("AutoModelForSequenceClassification.from_pretrained('a', num_labels=count)", None),
    ],
)  # fmt: skip
def test_the_task_follows_from_the_model(tmp_path: Path, loaded: str, task: str | None) -> None:
    key = next(k for k in made(tmp_path, f"{loaded}\n{ARGUMENTS}")["keys"] if k["key"] == "from_pretrained.class")
    assert key["options"].get("task") == task
    assert (key["fate"] == "refused") == (task is None)


FIELDS = {name for name in RULES if name in trainer.rules()}


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_whatever_a_value_is_its_key_has_a_fate(value: Any, tmp_path: Path) -> None:
    """No value of any argument ends in a traceback, and what is mapped is an option."""
    known = set(option_paths(RunConfig))
    calls: dict[str, list[str]] = {name: [] for name in ("TrainingArguments", "LoraConfig", "load_dataset", "Trainer", "AutoModel.from_pretrained", "rows.train_test_split")}  # fmt: skip
    expected = []
    for name in RULES:
        group, _, leaf = name.rpartition(".")
        call = next((call for call in calls if call.rpartition(".")[2] == (group or "TrainingArguments")), None)
        if call is not None and leaf.isidentifier() and leaf != "class" and (group or name in FIELDS):
            calls[call].append(f"{leaf}={value!r}")
            expected.append(name)
    named = {"load_dataset": "rows = ", "LoraConfig": "config = "}
    lines = [f"{named.get(call, '')}{call}({', '.join(given)})" for call, given in calls.items()]
    found = made(tmp_path, "\n".join([*lines, "get_peft_model(model, config)"]))
    assert set(expected) <= set(fates(found))
    assert "unknown" not in fates(found).values()
    assert {path for key in found["keys"] for path in key["options"]} <= known
    assert found["config"] is None


def test_the_command(tmp_path: Path) -> None:
    path = Path(__file__).parent / "examples" / "trainer" / "lora_reviews.py"
    done = CliRunner().invoke(app, ["convert", str(path), "--from", "trainer", "data.test_size=2", "--json"])
    assert done.exit_code == 0
    config = json.loads(done.stdout)["config"]
    assert (config["method"]["lora_alpha"], config["train"]["learning_rate"], config["task"]) == (
        16,
        1e-3,
        "classification",
    )
