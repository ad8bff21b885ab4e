"""weitiao predict of files: order, bad rows, and that a command goes on where it was stopped."""

import csv
import fcntl
import json
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import weitiao
from conftest import BAD, GOOD, write_jsonl
from support.fork_server import ForkServer
from weitiao.errors import DataError, RunError, Stopped
from weitiao.inference import answering
from weitiao.inference.predictor import Predictor
from weitiao.rundir.folder import RunDir

PLANTED = 2 if os.environ.get("FAULTS") == "few" else 15  # of about 50 calls that change the disk
NUM_ROWS = 2 * answering._ROWS_AT_ONCE + 100


@pytest.fixture(scope="module")
def finished(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    data = {"train": str(rows_file), "test_size": 8}
    train = {"max_steps": 2, "bf16": False}
    return weitiao.train({"model": str(tiny_model), "data": data, "train": train, "output": {"dir": str(run)}}).path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks of rows of all lengths; of a bad one in each, and of columns that collide with the answer's."""
    lot = random.Random(0)
    rows: list[dict[str, Any]] = [
        {"text": "".join(lot.choices(GOOD + BAD, k=lot.randint(1, 9))), "label": "own", "id": i}
        for i in range(NUM_ROWS)
    ]
    for i in (0, 2500, NUM_ROWS - 1):
        rows[i]["text"] = ""
    return write_jsonl(tmp_path_factory.mktemp("many") / "many.jsonl", rows)


def words(run: Path, many: Path, output: Path) -> list[str]:
    return ["predict", str(run), "--input", str(many), "--output", str(output), "--bad-rows", "skip"]


def beside(output: Path) -> list[str]:
    return sorted(p.name for p in output.parent.iterdir() if p != output)


@pytest.mark.fault("weitiao predict is killed while it writes answers")
@pytest.mark.parametrize(
    "ending", ["parquet", *(pytest.param(one, marks=pytest.mark.beyond_test) for one in ("jsonl", "csv"))]
)
def test_killed_it_goes_on_to_the_same_bytes(
    ending: str, finished: Path, many: Path, fork_server: ForkServer, tmp_path: Path
) -> None:
    whole = tmp_path / "whole" / f"x.{ending}"
    whole.parent.mkdir()
    ended = fork_server.run_until(*words(finished, many, whole))
    assert ended.returncode == 0, ended.communicate()
    assert beside(whole) == []
    lot = random.Random(ending)
    for die_at in lot.sample(range(1, ended.calls + 1), min(PLANTED, ended.calls)):
        output = tmp_path / str(die_at) / f"x.{ending}"
        output.parent.mkdir()
        killed = fork_server.run_until(*words(finished, many, output), die_at=die_at, die_before=lot.random() < 0.5)
        assert killed.returncode == -signal.SIGKILL
        if not output.exists():
            again = fork_server.run(*words(finished, many, output))
            assert again.returncode == 0, again.stderr
        assert output.read_bytes() == whole.read_bytes()


def test_killed_within_a_block_and_stopped(finished: Path, many: Path, fork_server: ForkServer, tmp_path: Path) -> None:
    """kill -9, then Ctrl-C, then to the end: each goes on from whole blocks."""
    output, part = tmp_path / "x.jsonl", tmp_path / "x.jsonl.part"

    def started(size: int) -> Any:
        process = fork_server.start(*words(finished, many, output))
        while (not part.exists() or part.stat().st_size <= size) and process.poll() is None:
            time.sleep(0.005)
        return process

    killed = started(0)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    size = part.stat().st_size
    with part.open("ab") as file:
        file.write(b'{"id": "many.jsonl:9", "la')  # half a line of a block that was not whole
    stopped = started(size + 26)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate()
    if not output.exists():  # the last block is short
        assert stopped.returncode == 130, said
        # the signal may come while the second block is on its way to the disk
        kept = rf"{re.escape(str(part))} keeps (2,048|4,096) of {NUM_ROWS:,} answers\. The same command goes on there\."
        assert re.search(kept, said), said
        assert fork_server.run(*words(finished, many, output)).returncode == 0
    whole = tmp_path / "whole.jsonl"  # by a process with as many threads: sums round with their number
    assert fork_server.run(*words(finished, many, whole)).returncode == 0
    assert output.read_bytes() == whole.read_bytes()


def test_order_and_bad_rows_in_every_form(finished: Path, many: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in many.read_text(encoding="utf-8").splitlines()]
    seen: list[dict[str, Any]] = []
    for ending in ("jsonl", "csv", "parquet"):
        weitiao.predict(finished, input=many, output=tmp_path / f"x.{ending}", bad_rows="skip", listener=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [f"many.jsonl:{i + 1}" for i in range(NUM_ROWS)]
    assert [i for i, line in enumerate(lines) if "error" in line] == [0, 2500, NUM_ROWS - 1]
    assert all(line["input"] == row for line, row in zip(lines, rows, strict=True) if "error" not in line)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        of_csv = list(csv.DictReader(file))
    of_parquet = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    for line, cells, values in zip(lines, of_csv, of_parquet, strict=True):
        assert cells["id"] == values["id"] == line["id"]
        assert (cells["error"] or None) == values["error"] == line.get("error")
        assert (cells["label"] or None) == values["label"] == line.get("label")
        assert values["score"] == line.get("score")
        assert values["input.id"] == line.get("input", {}).get("id")  # the input's own column
        assert values["input.label"] == ("own" if "input" in line else None)
    progress = [event for event in seen if event["event"] == "progress"]
    assert [event["done"] for event in progress] == [2048, 4096, NUM_ROWS] * 3
    assert all(event["total"] == NUM_ROWS and event["rows_per_s"] > 0 for event in progress)
    assert progress[-1]["eta_s"] == 0


def test_answers_are_those_of_single_texts(finished: Path, many: Path, tmp_path: Path) -> None:
    answers = weitiao.predict(finished, input=f"{many}#20:head", bad_rows="skip")
    for answer in answers[1:]:
        (alone,) = weitiao.predict(finished, text=answer["input"]["text"])
        assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def stop_after(blocks: int) -> Any:
    """A listener that is Ctrl-C after some blocks."""
    done = iter(range(1, 100))

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and next(done) == blocks:
            raise KeyboardInterrupt

    return listen


def test_answers_of_other_rows_are_never_continued(finished: Path, many: Path, tmp_path: Path) -> None:
    """Nothing is lost: the part file stays as it is."""
    rows, output = tmp_path / "rows.jsonl", tmp_path / "x.csv"
    rows.write_bytes(many.read_bytes())
    with pytest.raises(Stopped, match=r"x\.csv\.part keeps 2,048 of"):
        weitiao.predict(finished, input=rows, output=output, bad_rows="skip", listener=stop_after(1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if "part" in p.name}
    assert set(before) == {"x.csv.part", "x.csv.part.json"}
    rows.write_bytes(many.read_bytes() + b'{"text": "more"}\n')
    with pytest.raises(DataError, match="and the input is not the same any more"):
        weitiao.predict(finished, input=rows, output=output, bad_rows="skip")
    rows.write_bytes(many.read_bytes())
    with pytest.raises(DataError, match="and the input is not the same"):
        weitiao.predict(finished, input=f"{rows}#3000", output=output, bad_rows="skip")
    os.utime(finished / "summary.json")
    with pytest.raises(DataError, match="and the run is not the same"):
        weitiao.predict(finished, input=rows, output=output, bad_rows="skip")
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if "part" in p.name}
    (tmp_path / "x.csv.part.json").unlink()
    with pytest.raises(DataError, match=r"what they depend on \(x\.csv\.part\.json\)[\s\S]*rm "):
        weitiao.predict(finished, input=rows, output=output, bad_rows="skip")
    assert (tmp_path / "x.csv.part").read_bytes() == before["x.csv.part"]
    assert not output.exists()


def test_an_input_that_changes_meanwhile_is_said(finished: Path, many: Path, tmp_path: Path) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "x.jsonl"
    rows.write_bytes(many.read_bytes())

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            with rows.open("ab") as file:
                file.write(b"\n")

    with pytest.raises(DataError, match="has changed while it was read"):
        weitiao.predict(finished, input=rows, output=output, bad_rows="skip", listener=listen)
    assert not output.exists()


def test_one_command_an_output(finished: Path, rows_file: Path, tmp_path: Path) -> None:
    with (tmp_path / "x.jsonl.part").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(DataError, match="is in use by another command"):
            weitiao.predict(finished, input=rows_file, output=tmp_path / "x.jsonl")
    weitiao.predict(finished, input=rows_file, output=tmp_path / "x.jsonl")
    assert beside(tmp_path / "x.jsonl") == []


def test_a_bad_row_is_said_before_anything_is_done(finished: Path, many: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f'{{"text": "好{i}"}}\n' for i in range(3000)) + '{"text": 5}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"in\.jsonl:3001: the column 'text' is 5, not a text"):
        weitiao.predict(finished, input=file, output=tmp_path / "x.csv", listener=seen.append)
    assert [event["message"] for event in seen] == ["reading the rows"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]


def test_an_output_that_is_refused(finished: Path, rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found the ending '\.json'"):
        weitiao.predict(finished, input=rows_file, output=tmp_path / "x.json")
    (tmp_path / "x.csv.part").mkdir()
    with pytest.raises(RunError, match=r"Cannot write .*x\.csv\.part: Is a directory"):
        weitiao.predict(finished, input=rows_file, output=tmp_path / "x.csv")


def test_answers_of_a_language_model_go_on(
    chat_options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_ANSWERS_AT_ONCE", 2)
    options = chat_options["train"] | {"max_steps": 1, "generate_rows": 0, "eval_strategy": "no"}
    run = weitiao.train({**chat_options, "train": options}).path
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "你是谁"}, {"prompt": ""}, {"prompt": "好"}])
    given = {"input": asked, "bad_rows": "skip", "max_new_tokens": 3}
    weitiao.predict(run, output=tmp_path / "whole.parquet", **given)
    with pytest.raises(Stopped, match="keeps 2 of 3"):
        weitiao.predict(run, output=tmp_path / "x.parquet", listener=stop_after(1), **given)
    with pytest.raises(DataError, match="an option is not the same"):
        weitiao.predict(run, output=tmp_path / "x.parquet", **(given | {"max_new_tokens": 4}))
    weitiao.predict(run, output=tmp_path / "x.parquet", **given)
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    rows = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert ["answer" in row and row["answer"] is not None for row in rows] == [True, False, True]
    assert rows[1]["error"].startswith("asked.jsonl:2: no question")


def test_lines_on_a_stderr_that_is_no_terminal(
    finished: Path, many: Path, fork_server: ForkServer, tmp_path: Path
) -> None:
    done = fork_server.run(*words(finished, many, tmp_path / "x.csv"))
    assert done.returncode == 0
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"predicting {NUM_ROWS:,}/{NUM_ROWS:,} rows, ")
    assert last.endswith(" rows/s, 0:00 left")


class Counting:
    """A tokenizer that counts the texts it is asked for."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.texts = tokenizer, 0

    def __call__(self, texts: list[str], *rest: Any, **options: Any) -> Any:
        self.texts += len(texts)
        return self.tokenizer(texts, *rest, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def test_a_text_is_encoded_once_and_a_long_one_once_more(finished: Path) -> None:
    predictor = Predictor(RunDir.open(finished))
    predictor.tokenizer = counting = Counting(predictor.tokenizer)
    answers = predictor.answers(["很好", "好" * 600, "太差了"])
    assert counting.texts == 3 + 1
    assert [answer.get("tokens_cut") for answer in answers] == [None, 602 - predictor.max_length, None]
