"""A file of conversations is answered together, as one by one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from weitiao.errors import DataError
from weitiao.inference import together
from weitiao.inference.answering import Answerer
from weitiao.inference.context import room_of
from weitiao.rundir.folder import RunDir

METHODS = ["lora", "dora", "full", "prompt"]


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # peft, of prompts; rows have no padding
@pytest.mark.parametrize("method", METHODS)
def test_together_as_one_by_one(
    method: str, writer_runs: dict[str, RunDir], chats_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers of different lengths; more of them than run at once; a row that asks nothing keeps its place."""
    rows = [json.loads(line)["messages"] for line in chats_file.read_text(encoding="utf-8").splitlines()][:20]
    asked: list[Any] = [{"messages": turns[:1]} for turns in rows]
    asked[3] = {"messages": []}
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked), encoding="utf-8")
    found = weitiao.predict(writer_runs[method].path, input=path, bad_rows="skip", max_new_tokens=10)
    assert ["error" in one for one in found] == [i == 3 for i in range(20)]
    texts = [row["messages"][0]["content"] for i, row in enumerate(asked) if i != 3]
    alone = weitiao.predict(writer_runs[method].path, text=texts, max_new_tokens=10)
    assert [one["answer"] for one in found if "answer" in one] == [one["answer"] for one in alone]
    assert method != "lora" or len({one["answer"] for one in alone}) > 1


def test_a_model_that_keeps_more_answers_one_by_one(
    writer_runs: dict[str, RunDir], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from weitiao.inference.decoder import Decoder, Unfit

    def refused(run: RunDir) -> Decoder:
        raise Unfit("It keeps more than keys and values.")

    path = tmp_path / "asked.jsonl"
    path.write_text(json.dumps({"prompt": "很好看的书？"}) + "\n", encoding="utf-8")
    expected = weitiao.predict(writer_runs["full"].path, input=path, max_new_tokens=5)
    monkeypatch.setattr(together.Decoder, "alone", refused)
    with caplog.at_level("INFO"):
        assert weitiao.predict(writer_runs["full"].path, input=path, max_new_tokens=5) == expected
    monkeypatch.undo()
    monkeypatch.setattr(Decoder, "context", property(lambda self: 12))  # fewer than the prompt has
    monkeypatch.setattr(together, "write_together", lambda *_, **__: 1 / 0)
    assert weitiao.predict(writer_runs["full"].path, input=path, max_new_tokens=5) == expected
    assert "one conversation at a time: It keeps more than keys and values." in caplog.text


class Countdown:
    """In the place of a decoder: after a prompt of n comes n - 1, down to 0."""

    def next_logits(self, parts: Any) -> torch.Tensor:
        for part in parts:
            part.memory.ids += part.ids
        return torch.stack([torch.eye(9)[part.memory.ids[-1] - 1] for part in parts])


def test_answers_come_in_the_order_of_the_prompts() -> None:
    """Later ones end first, and more wait than run."""
    decoder: Any = Countdown()
    found = together.write_together(decoder, [[8], [2], [5], [1], [8, 8, 3]], {0}, 6, at_once=2)
    assert list(found) == [[7, 6, 5, 4, 3, 2], [1, 0], [4, 3, 2, 1, 0], [0], [2, 1, 0]]


def test_what_a_model_says_of_generation_changes_no_answer(
    writer_runs: dict[str, RunDir], chats_file: Path, tmp_path: Path
) -> None:
    """generation_config.json of many models has a penalty on repetition, which transformers adds by itself."""
    run = RunDir(Path(shutil.copytree(writer_runs["full"].path, tmp_path / "run")))
    config = json.loads((run.model / "generation_config.json").read_text(encoding="utf-8"))
    texts = [
        json.loads(line)["messages"][0]["content"] for line in chats_file.read_text(encoding="utf-8").splitlines()[:6]
    ]
    before = weitiao.predict(run.path, text=texts, max_new_tokens=10)
    told = {**config, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 9}
    (run.model / "generation_config.json").write_text(json.dumps(told), encoding="utf-8")
    assert weitiao.predict(run.path, text=texts, max_new_tokens=10) == before


def test_a_question_longer_than_the_model_reads(writer_runs: dict[str, RunDir], tmp_path: Path) -> None:
    """Alone and in a file; an answer ends where the model's context does."""
    long = {"messages": [{"role": "user", "content": "好" * 3000}]}
    path = tmp_path / "asked.jsonl"
    short = {"messages": [{"role": "user", "content": "好"}]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (short, long, short)), encoding="utf-8")
    run = writer_runs["lora"].path
    found = weitiao.predict(run, input=path, bad_rows="skip", max_new_tokens=3)
    assert ["error" in one for one in found] == [False, True, False]
    assert "the model reads 2,048 of question and answer together" in found[1]["error"]
    with pytest.raises(DataError, match=r"asked\.jsonl:2(.|\n)*2,048"):
        weitiao.predict(run, input=path, max_new_tokens=3)
    with pytest.raises(DataError, match="the model reads 2,048"):
        weitiao.predict(run, text="好" * 3000)
    with pytest.raises(DataError, match="Expected room for 4,000 of the answer"):
        weitiao.predict(run, text="好", max_new_tokens=4000)


def test_a_prompt_s_vectors_take_room_too(writer_runs: dict[str, RunDir]) -> None:
    assert Answerer(writer_runs["lora"])._questions[1] == 2048
    taken = writer_runs["prompt"].config.method.tokens_in_front
    assert taken > 0
    assert Answerer(writer_runs["prompt"])._questions[1] == 2048 - taken


@pytest.mark.parametrize(("prompt", "asked", "most"), [(10, None, 50), (70, None, 30), (70, 30, 30), (99, None, 1)])
def test_room_for_an_answer(prompt: int, asked: int | None, most: int) -> None:
    assert room_of(prompt, 100, asked, 50) == most


@pytest.mark.parametrize(("prompt", "asked"), [(100, None), (101, None), (70, 31)])
def test_no_room_for_an_answer(prompt: int, asked: int | None) -> None:
    with pytest.raises(DataError, match="reads 100 of question and answer"):
        room_of(prompt, 100, asked, 50)
