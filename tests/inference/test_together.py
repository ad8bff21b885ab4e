"""A file of conversations is answered together, as one by one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

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
