"""ARCHITECTURE.md says that a new task or method is one file. Here are one of each, trained, planned and asked."""

from pathlib import Path
from typing import Any

import pytest

import weitiao
from conftest import write_jsonl
from support import toy_method, toy_task
from weitiao.config.method_names import METHOD_SECTIONS
from weitiao.config.task import TASK_OPTIONS
from weitiao.errors import ConfigError
from weitiao.methods import METHODS
from weitiao.tasks import TASKS


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are known for one test."""
    for known in (TASK_OPTIONS, TASKS, METHOD_SECTIONS, METHODS):
        for name in ("ratings", "word-vectors"):
            monkeypatch.setitem(known, name, None)  # type: ignore[arg-type]
            del known[name]  # type: ignore[attr-defined]
    toy_task.add()
    toy_method.add()


@pytest.fixture
def rating_options(options: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    texts = ("很好看", "不喜欢", "推荐", "太慢了", "服务好", "酒店差")
    rows: list[dict[str, object]] = [
        {"text": f"{text}{tail}", "score": 1 + i % 5}
        for i, text in enumerate(texts)
        for tail in ("", "啊", "吧", "真的")
    ]
    data = {"train": str(write_jsonl(tmp_path / "ratings.jsonl", rows)), "test_size": 6, "near_duplicates": "off"}
    return {**options, "task": "ratings", "data": data, "method": {"type": "word-vectors"}}


@pytest.mark.usefixtures("toys")
def test_a_toy_task_and_a_toy_method_train_plan_and_predict(rating_options: dict[str, Any]) -> None:
    planned = {method["name"]: method for method in weitiao.plan(rating_options)["methods"]}
    run = weitiao.train(rating_options)
    model = run.config.method
    assert (run.config.task, model.type) == ("ratings", "word-vectors")
    assert run.config.train.metric_for_best_model == "mae"
    assert run.summary["metrics"]["mae"] > 0
    assert planned["word-vectors"]["num_trainable_params"] == run.summary["num_trainable_params"]
    (answer,) = weitiao.predict(run.path, text="很好看")
    assert isinstance(answer["number"], float)


@pytest.mark.usefixtures("toys")
def test_only_what_the_method_names_has_changed(rating_options: dict[str, Any], tiny_model: Path) -> None:
    from safetensors.torch import load_file

    run = weitiao.train(rating_options)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(run.model / "model.safetensors")
    changed = {name for name, value in before.items() if not value.equal(after[f"bert.{name}"])}
    assert changed == {"embeddings.word_embeddings.weight"}


def test_without_the_files_neither_is_known(rating_options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="word-vectors"):
        weitiao.train({**rating_options, "task": "regression"})
    with pytest.raises(ConfigError, match="task"):
        weitiao.train({**rating_options, "method": {"type": "full"}})
