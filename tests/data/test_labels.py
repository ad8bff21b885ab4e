"""Any number of labels for a text, and numbers: what is read, what is refused, how rows are split and checked."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import weitiao
from conftest import write_jsonl
from weitiao.commands.app import app
from weitiao.config.data import DataConfig
from weitiao.config.run import RunConfig
from weitiao.data.labels import LabelReader, number_of
from weitiao.data.prepare import prepare, usable
from weitiao.data.side import Side
from weitiao.errors import DataError


def data_of(path: Path, **options: Any) -> DataConfig:
    return DataConfig(train=str(path), near_duplicates="off", **options)


def varied(i: int) -> str:
    return f"row {i * 7919 % 1000} of {i}"


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (["b", "a"], ["a", "b"]),
        ([2, 10], ["10", "2"]),
        ([], []),
        ("", []),
        ("sport", ["sport"]),
        ("b|a", ["a", "b"]),
        (" b ; a ;", ["a", "b"]),
        ("b,a", ["a", "b"]),
        ("x,y|z", ["x,y", "z"]),
        ('["x|y"]', ["x|y"]),
    ],
)
def test_labels_are_read(value: Any, labels: list[str]) -> None:
    assert json.loads(LabelReader().several(value, "labels")) == labels


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "Expected a list of labels"),
        (3, "Expected a list of labels"),
        ({"a": 1}, "Expected a list of labels"),
        (["a", ""], "Expected a string, an integer or a boolean"),
        ([0.5], "Expected a string, an integer or a boolean"),
        ([0, 1, 0], "'0' twice"),
        ("a|a", "has 'a' twice"),
        ("['a']", "is no JSON"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        LabelReader().several(value, "labels")
    assert len(str(caught.value).splitlines()) == 3


def test_numbers_are_read_or_refused() -> None:
    assert [number_of(value, "score") for value in (3, -1.5, " 2.5 ", "1e3", 0.1, -0.0)] == [
        "3.0", "-1.5", "2.5", "1000.0", "0.1", "0.0",
    ]  # fmt: skip
    for value in ("nan", "inf", float("nan"), "-inf", 1e39, 10**400, "", "good", None, True, [1]):
        with pytest.raises(DataError, match="Expected a finite number"):
            number_of(value, "score")


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    lines = ["text,score", *(f"{varied(i)},{i / 4}" for i in range(8)), "bad,nan", "worse,high", "worst,"]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"r\.csv:10: score is 'nan'(.|\n)*3 such rows(.|\n)*task=regression"):
        prepare(data_of(tmp_path / "r.csv"), "number")
    kept = prepare(data_of(tmp_path / "r.csv", bad_rows="skip", test_size=2), "number")
    assert (kept.label_names, len(kept.train), len(kept.eval)) == (("score",), 6, 2)
    assert sorted(map(float, kept.train.labels + kept.eval.labels)) == [i / 4 for i in range(8)]
    assert [row["id"] for row in kept.train.table.rejected()] == ["r.csv:10", "r.csv:11", "r.csv:12"]
    rows: list[dict[str, object]] = [{"text": varied(i), "labels": ["a"]} for i in range(4)]
    file = write_jsonl(tmp_path / "r.jsonl", [*rows, {"text": "no list", "labels": None}])
    with pytest.raises(DataError, match=r"r\.jsonl:5: labels is None"):
        prepare(data_of(file), "labels")


def test_every_form_gives_the_same_sets(tmp_path: Path) -> None:
    sets = [[], ["b"], ["b", "a"]] * 4
    names = {"r.jsonl": "labels", "r.csv": "label", "r.tsv": "tags", "r.parquet": "labels"}
    write_jsonl(tmp_path / "r.jsonl", [{"text": varied(i), "labels": own} for i, own in enumerate(sets)])
    for name, mark in (("r.csv", ","), ("r.tsv", "\t")):
        lines = [mark.join(("text", names[name])), *(f"{varied(i)}{mark}{'|'.join(own)}" for i, own in enumerate(sets))]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": [varied(i) for i in range(12)], "labels": sets})
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet")
    for name in names:
        found = usable(str(tmp_path / name), data_of(tmp_path / name), "labels")
        side = Side(found, np.arange(len(found)))
        assert [set(own) for own in side.row_labels] == [set(own) for own in sets], name


def test_the_order_of_labels_is_no_conflict_and_other_labels_are(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": "same", "labels": ["a", "b"]},
        {"text": "same", "labels": ["b", "a"]},
        {"text": "other", "labels": ["a"]},
        {"text": "other", "labels": []},
    ]
    rows += [{"text": varied(i), "labels": ["a", "b"]} for i in range(8)]
    report = prepare(data_of(write_jsonl(tmp_path / "r.jsonl", rows), test_size=2), "labels").report["train"]
    assert (report["conflicts_dropped"], report["duplicates_dropped"]) == (2, 1)
    numbers: list[dict[str, object]] = [{"text": "same", "score": value} for value in (1, 1.0, "1")]
    numbers += [{"text": "other", "score": value} for value in (1, 2)]
    numbers += [{"text": varied(i), "score": i} for i in range(8)]
    report = prepare(data_of(write_jsonl(tmp_path / "n.jsonl", numbers), test_size=2), "number").report["train"]
    assert (report["conflicts_dropped"], report["duplicates_dropped"]) == (2, 2)


def test_a_split_of_sets_that_are_all_different_is_by_lot(tmp_path: Path) -> None:
    """One stratum a set would hold out whatever comes first in the alphabet."""
    sets = [list(pair) for pair in itertools.combinations("abcdefghij", 2)]
    file = write_jsonl(tmp_path / "r.jsonl", [{"text": varied(i), "labels": own} for i, own in enumerate(sets)])
    prepared = prepare(data_of(file, test_size=8), "labels")
    assert sorted(prepared.eval.row_labels) != sets[:8]
    assert prepared.label_names == tuple("abcdefghij")
    assert sum(prepared.report["label_counts_eval"].values()) == 16


@pytest.mark.parametrize("folds", [None, 4])
def test_the_only_row_of_a_label_is_trained_on(folds: int | None, tmp_path: Path) -> None:
    """Whatever the lot says; where every row is the only one of its label there is nothing to hold out."""
    rows = [{"text": varied(i), "labels": ["a", "b"][: i % 3]} for i in range(20)]
    rows += [{"text": varied(20 + i), "labels": ["a", f"rare{i}"]} for i in range(4)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    sizes = []
    for seed in range(6):
        for options in [{"test_size": 8}] if folds is None else [{"num_folds": folds, "fold": i} for i in range(folds)]:
            prepared = prepare(data_of(file, split_seed=seed, **options), "labels")
            assert set(prepared.label_names) == {"a", "b", *(f"rare{i}" for i in range(4))}
            assert len(prepared.train) + len(prepared.eval) == 24
            sizes.append(len(prepared.eval))
    assert 4 <= min(sizes) <= max(sizes) <= 8 if folds is None else 2 <= min(sizes) <= max(sizes) <= 6
    single = write_jsonl(tmp_path / "single.jsonl", [{"text": varied(i), "labels": [i]} for i in range(20)])
    with pytest.raises(DataError, match="the only one with one of its labels"):
        prepare(data_of(single), "labels")


def test_a_sample_of_the_training_rows_keeps_every_label(tmp_path: Path) -> None:
    """As long as so many rows can hold them; its size is what was asked for."""
    rows = [{"text": varied(i), "labels": ["a", f"rare{i % 10}"] if i < 100 else ["a"]} for i in range(300)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    for seed in range(8):
        prepared = prepare(data_of(file, test_size=0.2, train_size=30, split_seed=seed), "labels")
        assert len(prepared.train) == 30
        assert len(prepared.label_names) == 11
    with pytest.raises(DataError, match=r"take another data\.split_seed"):
        prepare(data_of(file, test_size=0.2, train_size=5), "labels")


@pytest.mark.parametrize("odd", [0.5, ["a"]])
@pytest.mark.parametrize("first", [True, False])
def test_one_odd_label_is_a_bad_row_wherever_it_stands(odd: Any, first: bool, tmp_path: Path) -> None:
    """It does not decide what the others are; what else could be learnt is said."""
    good = [{"text": varied(i), "label": i % 2} for i in range(20)]
    bad = [{"text": "odd", "label": odd}]
    file = write_jsonl(tmp_path / "r.jsonl", bad + good if first else good + bad)
    prepared = prepare(data_of(file, bad_rows="skip"), "classification")
    assert len(prepared.train) + len(prepared.eval) == 20
    with pytest.raises(DataError, match=r"task=(regression|multi_label)(.|\n)*data check \S+ task=classification"):
        prepare(data_of(file), "classification")
    report = weitiao.data.check(data_of(file), task="classification")
    assert (report.format["name"], [f.code for f in report.errors]) == ("text and label", ["rejected"])


def test_rows_of_another_task_are_told(tmp_path: Path) -> None:
    several = write_jsonl(tmp_path / "several.jsonl", [{"text": varied(i), "labels": ["a"]} for i in range(4)])
    for kind, message in (
        ("classification", "Give one label, or learn several: task=multi_label"),
        ("tokens", "task=multi_label"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(data_of(several), kind)
    none = write_jsonl(tmp_path / "none.jsonl", [{"text": varied(i), "labels": []} for i in range(4)])
    with pytest.raises(DataError, match="Expected at least one label"):
        prepare(data_of(none), "labels")
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"text": varied(i)} for i in range(4)])
    with pytest.raises(DataError, match="Expected a text and a number"):
        prepare(data_of(bare), "number")


def test_the_check_knows_both(tiny_model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": varied(i), "labels": [[], ["a"], ["a", "b"]][i % 3]} for i in range(27)]
    rows[1]["labels"] = ["a", "rare"]
    report = weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows), output=tmp_path / "out")
    assert report.label_counts == {"a": 18, "b": 9, "rare": 1}
    found = {finding.code: finding for finding in report.findings}
    assert (found["rare_labels"].count, found["unlabelled"].count, found["unlabelled"].severity) == (2, 9, "info")
    assert (tmp_path / "out" / "data_report.html").is_file()
    none = write_jsonl(tmp_path / "none.jsonl", [{"text": varied(i), "labels": []} for i in range(4)])
    assert [finding.code for finding in weitiao.data.check(none).errors] == ["no_labels"]
    ratings = write_jsonl(tmp_path / "n.jsonl", [{"text": varied(i), "rating": 3} for i in range(20)])
    done = CliRunner().invoke(app, ["data", "check", str(ratings), "task=regression", "--json"])
    shown = json.loads(done.stdout)
    assert (shown["format"]["kind"], [f["code"] for f in shown["findings"]]) == ("number", ["one_number"])
    tree = {"model": str(tiny_model), "task": "regression", "data": {"train": str(ratings)}, "output": {"dir": "-"}}
    told = weitiao.data.check(tree)
    assert told.format["kind"] == weitiao.data.check(ratings, task="regression").format["kind"] == "number"
    assert weitiao.data.check(ratings).format["kind"] == "classification"


@pytest.mark.parametrize(("task", "metric"), [("multi_label", "f1_micro"), ("regression", "pearson")])
def test_defaults_and_refusals(task: str, metric: str) -> None:
    tree: dict[str, Any] = {"model": "m", "task": task, "data": {"train": "d"}, "output": {"dir": "o"}}
    assert RunConfig.model_validate(tree).train.metric_for_best_model == metric
    for section, change, told in (
        ("data", {"canaries": 2}, "data.canaries has no meaning"),
        ("data", {"streaming": True, "eval": "x"}, "works with task=classification only"),
        ("train", {"class_weights": "balanced"}, "train.class_weights has no meaning"),
        ("train", {"metric_for_best_model": "accuracy"}, f"{task} has "),
        ("method", {"type": "full", "top_k": "auto"}, "Give a number of layers"),
    ):
        with pytest.raises(ValueError, match=told):
            RunConfig.model_validate({**tree, section: {**tree.get(section, {}), **change}})


@pytest.mark.parametrize("names", [("1", "2", "3", "4", "5"), ("1", "0")])
def test_names_that_are_numbers_of_other_classes_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    """A cell of 1 could mean the name or the class."""
    rows: list[dict[str, object]] = [{"text": varied(i), "label": names[i % len(names)]} for i in range(20)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(DataError, match=r"the name '1' for class 0, and 1 is the number of class"):
        prepare(data_of(file, label_names=names))
    assert prepare(data_of(file)).label_names == tuple(sorted(names))
    assert LabelReader.of(data_of(file, label_names=("0", "1", "many"))).one(1, "label") == "1"


def test_names_of_places_may_be_digits(tmp_path: Path) -> None:
    """A vector's places have no numbers of their own."""
    rows: list[dict[str, object]] = [{"text": varied(i), "labels": [i % 2, 1, i % 3 == 0]} for i in range(20)]
    file = write_jsonl(tmp_path / "r.jsonl", [{**row, "labels": list(map(int, row["labels"]))} for row in rows])  # type: ignore[call-overload]
    assert prepare(data_of(file, label_names=("1", "2", "3")), "labels").label_names == ("1", "2", "3")


def test_what_is_wrong_with_the_options_is_no_row_s_fault(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": varied(i), "label": str(1 + i % 2)} for i in range(20)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(DataError, match="the name '1' for class 0"):
        prepare(data_of(file, label_names=("1", "2"), bad_rows="skip"))
