"""What is the same text and what is the same label: by what a reader sees, not by code points."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest

import weitiao
from conftest import write_jsonl
from weitiao.config.data import DataConfig
from weitiao.data.keys import is_placeholder, is_visible, label_key, text_key
from weitiao.data.prepare import prepare, prepare_evaluation
from weitiao.data.table import build
from weitiao.errors import DataError

SAME_TEXTS = [
    ("你好吗", "你\u200b好吗"),
    ("你好吗", "\ufeff你好吗"),
    ("unbelievable", "un\u00adbelievable"),
    ("hello", "\u202ahello\u202c"),
    ("hello", "hel\u2060lo"),
    ("café", "cafe\u0301"),
    ("ＡＢＣ１", "ABC1"),
    ("a b", "a\u00a0\u3000b"),
    ("❤", "❤\ufe0f"),
    ("你好", "你\u200d好"),
    ("abc", "abc\U000e0041\U000e007f"),
]
OTHER_TEXTS = [
    ("👨\u200d👩\u200d👧", "👨👩👧"),  # one family, three people
    ("क्\u200dष", "क्ष"),  # a joiner is spelling in Devanagari
    ("می\u200cخواهم", "میخواهم"),  # and in Persian
    ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f3f4"),  # a flag and its tags
    ("Apple", "apple"),
    ("好", "好好"),
]


@pytest.mark.parametrize(("one", "other"), SAME_TEXTS)
def test_texts_that_a_reader_cannot_tell_apart_are_one(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(("one", "other"), OTHER_TEXTS)
def test_texts_that_differ_stay_apart(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b", "\ufeff\u200e", "\u3164", "\u2800", "\x01\x02", "\u200d"])
def test_a_text_without_a_visible_character_is_empty(text: str, tmp_path: Path) -> None:
    assert not is_visible(text)
    rows = [{"text": f"好的第{i}个", "label": "ab"[i % 2]} for i in range(40)] + [{"text": text, "label": "a"}]
    table = build(str(write_jsonl(tmp_path / "r.jsonl", rows)), DataConfig(train="-"))
    assert (len(table), table.facts["num_empty"]) == (40, 1)


def test_a_mark_of_any_kind_is_visible() -> None:
    assert all(is_visible(text) for text in ("a", "。", "👍", "\u200ba", "1", "´", "ـ"))


SAME_LABELS = [
    ("1", "1.0"), ("1", "１"), ("1", "true"), ("0", "False"), ("是", "yes"), ("01", "1"), ("1e2", "100"), ("-1", "－1"),
    ("正面", "正面\u200b"), ("Café", unicodedata.normalize("NFD", "CAFÉ")), ("new york", "NewYork"), ("ß", "SS"),
]  # fmt: skip
OTHER_LABELS = [("1", "-1"), ("1", "1.5"), ("nan", "inf"), ("1_0", "10"), ("正面", "负面"), ("A", "B"), ("c", "c++")]


@pytest.mark.parametrize(("one", "other"), SAME_LABELS)
def test_labels_that_read_alike_are_an_error_until_they_are_settled(one: str, other: str, tmp_path: Path) -> None:
    assert label_key(one) == label_key(other)
    labels: list[str] = [one] * 9 + [other] * 3 + ["another"] * 9
    rows = [{"text": f"第{i}句话说了{i * 7}件事", "label": label} for i, label in enumerate(labels)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    (found,) = [f for f in weitiao.data.check(file).findings if f.code == "label_variants"]
    assert (found.severity, found.count) == ("error", 3)
    data: dict[str, Any] = {"train": str(file), "near_duplicates": "off"}
    for settled in ({"labels": "canonical"}, {"label_map": {other: one}}):
        prepared = prepare(DataConfig(**data, **settled))
        assert set(prepared.label_names) == {one, "another"}


@pytest.mark.parametrize(("one", "other"), OTHER_LABELS)
def test_labels_that_differ_stay_apart(one: str, other: str) -> None:
    assert label_key(one) != label_key(other)


def test_canonical_evaluation_labels_are_those_of_training(tmp_path: Path) -> None:
    """Evaluation rows that write a label another way get training's."""
    train = [{"text": f"第{i}句{i * 7}", "label": "01"[i % 2]} for i in range(20)]
    held = [{"text": f"另{i}句{i * 5}", "label": ["0.0", "1.0"][i % 2]} for i in range(6)]
    files = [str(write_jsonl(tmp_path / name, rows)) for name, rows in (("t.jsonl", train), ("e.jsonl", held))]
    data = DataConfig(train=files[0], eval=files[1], labels="canonical", near_duplicates="off")
    prepared = prepare(data)
    assert (prepared.label_names, set(prepared.eval.labels)) == (("0", "1"), {"0", "1"})
    with pytest.raises(DataError, match="labels that no training row has"):
        prepare(data.model_copy(update={"labels": "as_written"}))


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "N/A", "n / a", "无", "空", "-", "<NA>", "缺失"])
def test_words_for_a_missing_label_are_a_finding(word: str, tmp_path: Path) -> None:
    rows = [{"text": f"第{i}句{i * 7}", "label": [word, "好", "差"][i % 3]} for i in range(30)]
    (found,) = [
        f
        for f in weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows)).findings
        if f.code == "placeholder_labels"
    ]
    assert (found.severity, found.count) == ("warning", 10)
    assert not is_placeholder("无人机")


CELLS = ["体育{}财经", "体育", "财经{}科技", "科技{}体育", "财经", "体育{}科技", "", "科技"]


@pytest.mark.parametrize("mark", ["，", "；", "、", "｜", ",", ";", "|", " ， "])
def test_cells_are_cut_at_full_width_marks_too(mark: str, tmp_path: Path) -> None:
    rows = [{"text": f"第{i}句{i * 7}", "label": cell.format(mark)} for i, cell in enumerate(CELLS * 3)]
    report = weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows), task="multi_label")
    assert set(report.label_counts) == {"体育", "财经", "科技"}
    assert not report.errors


@pytest.mark.parametrize("mark", ["/", " ", "+", "&", "#"])
def test_cells_with_another_mark_are_an_error_that_names_it(mark: str, tmp_path: Path) -> None:
    rows = [{"text": f"第{i}句{i * 7}", "label": cell.format(mark)} for i, cell in enumerate(CELLS * 3)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    (found,) = weitiao.data.check(file, task="multi_label").errors
    assert (found.code, found.fix) == ("uncut_labels", f'data.label_separator="{mark}"')
    data = DataConfig(train=str(file), label_separator=mark, near_duplicates="off")
    assert set(prepare(data, "labels").label_names) == {"体育", "财经", "科技"}


def test_a_mark_inside_a_name_is_no_separator(tmp_path: Path) -> None:
    rows = [{"text": f"第{i}句{i * 7}", "label": ["TCP/IP", "n/w", "I/O", "db"][i % 4]} for i in range(24)]
    assert not weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows), task="multi_label").errors


def test_vectors_of_zero_and_one_need_names(tmp_path: Path) -> None:
    rows = [{"text": f"第{i}句{i * 7}", "labels": [[1, 0, 1], [0, 1, 0], [0, 0, 0]][i % 3]} for i in range(12)]
    file = str(write_jsonl(tmp_path / "r.jsonl", rows))
    with pytest.raises(DataError, match=r"vectors of 0 and 1.*\n.*\n.*data.label_names=\[...\] with 3 names"):
        prepare(DataConfig(train=file), "labels")
    table = build(file, DataConfig(train=file, label_names=("体育", "财经", "科技")), "labels")
    assert sorted(set(table.column("label"))) == ['["体育", "科技"]', '["财经"]', "[]"]


def test_class_numbers_get_names_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("体育\n财经\n科技\n", encoding="utf-8")
    rows = [{"text": f"第{i}句{i * 7}", "label": i % 3} for i in range(30)]
    file = str(write_jsonl(tmp_path / "r.jsonl", rows))
    for names in (str(tmp_path / "names.txt"), ("体育", "财经", "科技")):
        prepared = prepare(DataConfig(train=file, label_names=names, near_duplicates="off"))
        assert prepared.label_names == ("体育", "财经", "科技")
    with pytest.raises(DataError, match="Expected a class number from 0 to 1"):
        prepare(DataConfig(train=file, label_names=("a", "b")))


def test_several_rows_of_a_text_with_a_label_each_are_joined(tmp_path: Path) -> None:
    rows = [{"text": f"第{i // 2}家酒店{i // 2 * 7}", "label": ["位置", "服务"][i % 2]} for i in range(20)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    report = weitiao.data.check(file, task="multi_label")
    (joined,) = [f for f in report.findings if f.code == "joined_rows"]
    assert (report.num_rows, joined.count, report.label_counts) == (10, 10, {"位置": 10, "服务": 10})
    again = [{"text": f"第{i % 5}家", "label": "位置"} for i in range(10)]  # the same label again: duplicates
    table = build(str(write_jsonl(tmp_path / "again.jsonl", again)), DataConfig(train="-"), "labels")
    assert (len(table), table.facts["num_joined"]) == (10, 0)


def test_a_label_with_one_row_stays_in_training_and_is_counted(tmp_path: Path) -> None:
    rows = [{"text": f"第{i}句{i * 7}", "label": "ab"[i % 2]} for i in range(40)] + [
        {"text": f"独{i}", "label": f"rare{i}"} for i in range(3)
    ]
    file = str(write_jsonl(tmp_path / "r.jsonl", rows))
    for split in ({"test_size": 0.5}, *({"num_folds": 3, "fold": fold} for fold in range(3))):
        prepared = prepare(DataConfig(train=file, near_duplicates="off", **split))  # type: ignore[arg-type]
        assert {"rare0", "rare1", "rare2"} <= set(prepared.train.labels)
        assert not {"rare0", "rare1", "rare2"} & set(prepared.eval.labels)
    held = [prepare(DataConfig(train=file, near_duplicates="off", num_folds=3, fold=f)).report for f in range(3)]
    assert sum(report["rare_rows_kept_for_training"] for report in held) == 3


def test_evaluation_rows_by_lot(tmp_path: Path) -> None:
    """data.test_size with data.eval: so many of its rows, in proportion to their labels, whatever their order."""
    train = write_jsonl(tmp_path / "t.jsonl", [{"text": f"第{i}句{i * 7}", "label": "ab"[i % 2]} for i in range(20)])
    held = write_jsonl(tmp_path / "e.jsonl", [{"text": f"另{i}句{i * 5}", "label": "ab"[i >= 60]} for i in range(100)])
    data: dict[str, Any] = {"train": str(train), "eval": str(held), "near_duplicates": "off"}
    assert len(prepare(DataConfig(**data)).eval) == 100
    prepared = prepare(DataConfig(**data, test_size=20))
    assert (len(prepared.eval), prepared.eval.labels.count("a")) == (20, 12)
    assert len(prepare(DataConfig(**data, test_size=0.1)).eval) == 10
    streamed = DataConfig(**data, test_size=10, streaming=True)
    assert len(prepare_evaluation(streamed).eval) == 10
    with pytest.raises(DataError, match="asks for 200 of the 100 rows"):
        prepare(DataConfig(**data, test_size=200))


def test_evaluation_rows_that_lack_a_label_are_a_finding(tmp_path: Path) -> None:
    from weitiao.data.findings import inspect

    train = write_jsonl(tmp_path / "t.jsonl", [{"text": f"第{i}句{i * 7}", "label": "abc"[i % 3]} for i in range(30)])
    held = write_jsonl(tmp_path / "e.jsonl", [{"text": f"另{i}句{i * 5}", "label": "a"} for i in range(10)])
    (found,) = [f for f in inspect(DataConfig(train=str(train), eval=str(held))).findings if f.code == "eval_labels"]
    assert found.message == "evaluation rows hold 1 of 3 labels; missing: b, c"


@pytest.mark.parametrize(
    ("texts", "severity"), [("真的推荐{}", None), ("真的推荐两次了价格{}", "warning"), ("🍜🍣🍕🍔{}🍟🥗🍝", "error")]
)
def test_texts_that_the_model_cannot_read(texts: str, severity: str | None, tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"text": texts.format(chr(0x1F600 + i) if severity else "的" * (i + 1)), "label": "ab"[i % 2]}
        for i in range(40)
    ]
    report = weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows), model=str(tiny_model))
    found = {f.code: f.severity for f in report.findings if f.code in ("unknown_tokens", "same_tokens")}
    assert found.get("unknown_tokens") == severity
    if severity == "error":
        assert found["same_tokens"] == "error"


def test_a_label_map_that_meets_no_row_is_a_finding(tmp_path: Path) -> None:
    from weitiao.data.findings import inspect

    file = write_jsonl(tmp_path / "r.jsonl", [{"text": f"第{i}句{i * 7}", "label": "ab"[i % 2]} for i in range(20)])
    report = inspect(DataConfig(train=str(file), label_map={"a": "x", "c": "y"}))
    (found,) = [f for f in report.findings if f.code == "label_map"]
    assert (found.message.endswith("no row has: 'c'"), set(report.label_counts)) == (True, {"x", "b"})
