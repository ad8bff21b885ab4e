"""Commands take the same words, end with codes that scripts can use, and keep bad rows in their place."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.fork_server import ForkServer
from typer.testing import CliRunner

import weitiao
from conftest import write_jsonl
from weitiao.commands.app import app
from weitiao.commands.terminal import split_words
from weitiao.errors import DataError


def _file(folder: Path, labels: str = "ab") -> Path:
    return write_jsonl(
        folder / "r.jsonl", [{"text": f"第{i}句{i * 7}", "label": labels[i % len(labels)]} for i in range(40)]
    )


def test_data_check_exits_with_3_where_a_finding_is_an_error(tmp_path: Path) -> None:
    run = CliRunner().invoke
    good, bad = (
        _file(tmp_path),
        write_jsonl(tmp_path / "bad.jsonl", [{"text": f"第{i}句", "label": ["1", "1.0"][i % 2]} for i in range(40)]),
    )
    done = run(app, ["data", "check", str(good)])
    assert (done.exit_code, "Encoding: utf-8" in done.stdout) == (0, True)
    for words, code in (
        ([str(bad)], 3),
        ([str(bad), "--exit-zero"], 0),
        ([str(bad), "--json"], 3),
        ([str(bad), "data.labels=canonical", "--exit-zero"], 0),
    ):
        assert run(app, ["data", "check", *words]).exit_code == code, words
    assert json.loads(run(app, ["data", "check", str(bad), "--json"]).stdout)["findings"]


def test_a_first_word_is_a_recipe_a_run_data_or_an_option(tiny_model: Path, tmp_path: Path) -> None:
    file, config = _file(tmp_path), tmp_path / "c.yaml"
    config.write_text(
        yaml.safe_dump({"model": str(tiny_model), "data": {"train": str(file)}, "output": {"dir": "o"}}),
        encoding="utf-8",
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    assert split_words(config, ["a=1"]) == (config, ["a=1"])
    assert split_words(run, None) == (run / "config.yaml", [])
    assert split_words(file, ["a=1"]) == (None, [f"data.train={file}", "a=1"])
    assert split_words(Path(f"{file}#5"), None) == (None, [f"data.train={file}#5"])
    assert split_words(Path("model=m"), ["b=2"]) == (None, ["model=m", "b=2"])
    assert split_words(Path("no-such.yaml"), None) == (Path("no-such.yaml"), [])
    done = CliRunner().invoke(app, ["data", "check", str(run), "--json"])
    assert json.loads(done.stdout)["num_rows"] == 40


def test_data_show_marks_what_is_learnt_without_a_terminal(tiny_chat_model: Path, chats_file: Path) -> None:
    done = CliRunner().invoke(
        app, ["data", "show", str(chats_file), f"model={tiny_chat_model}", "task=causal_lm", "--n", "1"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.count("⟦") == done.stdout.count("⟧") >= 1


@pytest.fixture(scope="module")
def finished(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    data = {"train": str(rows_file), "test_size": 8}
    train = {"max_steps": 2, "bf16": False}
    return weitiao.train(
        {
            "model": str(tiny_model),
            "data": data,
            "train": train,
            "method": {"type": "lora"},
            "output": {"dir": str(folder)},
        }
    ).path


def test_bad_rows_stay_in_their_place(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text(f'text\n很好\n""\n太差,了\n\u200b\n{"好" * 300}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"p\.csv:3: the column 'text' is empty"):
        weitiao.predict(finished, input=file)
    answers = weitiao.predict(finished, input=file, bad_rows="skip")
    assert [answer["id"] for answer in answers] == [f"p.csv:{line}" for line in range(2, 7)]
    assert ["error" in answer for answer in answers] == [False, True, True, True, False]
    assert [answer.get("tokens_cut") for answer in answers] == [
        None,
        None,
        None,
        None,
        302 - json.loads((finished / "summary.json").read_text())["max_length"],
    ]
    done = CliRunner().invoke(app, ["predict", str(finished), "--input", str(file), "--bad-rows", "skip"])
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [answer["id"] for answer in answers]


def test_text_that_is_no_text_is_one_message(finished: Path, fork_server: ForkServer) -> None:
    broken: Any = os.fsdecode(b"\xc4\xe3\xba\xc3")
    with pytest.raises(DataError, match="Text 1 holds bytes that are no UTF-8"):
        weitiao.predict(finished, text=broken)
    with pytest.raises(DataError, match="Text 1 is empty"):
        weitiao.predict(finished, text="\u200b")
