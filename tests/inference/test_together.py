"""A file of conversations is answered together, as one by one."""

import json
from pathlib import Path
from typing import Any

import pytest

import weitiao
from weitiao.inference import together
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
    assert weitiao.predict(writer_runs["full"].path, input=path, max_new_tokens=5) == expected
    assert "one conversation at a time: It keeps more than keys and values." in caplog.text
