"""Answers as files: which ending means what, and that a table holds every value unchanged."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from conftest import write_jsonl
from weitiao.errors import DataError
from weitiao.inference.outputs import Form, columns_of, flat, form_of, write

LONG = (1 << 53) + 1
ANSWERS: list[dict[str, Any]] = [
    {"id": "a:1", "error": "a:1: empty"},
    {
        "id": "a:2",
        "label": "good",
        "score": 1.0,
        "probabilities": {"good": 1.0, "id": 0.0},
        "entities": [{"type": "PER", "start": 0, "score": 0.5}],
        "input": {
            "id": "own",
            "label": "bad",
            "error": "none",
            "tokens_cut": 5,
            "input.id": None,
            "probabilities.good": "x",
            "text": 'a "b",\r\nc\rd',
            "n": 1,
            "long": LONG,
            "flag": True,
            "mixed": 1,
            "tags": ["a"],
            "tools": [{"a": 1}],
        },
    },
    {
        "id": "a:3",
        "label": "bad",
        "score": 0.25,
        "probabilities": {"good": 0.25, "id": 0.75},
        "entities": [],
        "tokens_cut": 3,
        "input": {
            "id": "own",
            "label": "bad",
            "error": "none",
            "tokens_cut": 5,
            "input.id": None,
            "probabilities.good": "x",
            "text": "",
            "n": 0.5,
            "long": 1,
            "flag": None,
            "mixed": "1",
            "tags": [],
            "tools": [{"b": "x"}],
        },
    },
]
COLUMNS = ["id", "label", "score", "probabilities.good", "probabilities.id", "entities", "tokens_cut", "error"]
INPUTS = [
    "id",
    "label",
    "error",
    "tokens_cut",
    "input.id",
    "probabilities.good",
    "text",
    "n",
    "long",
    "flag",
    "mixed",
    "tags",
    "tools",
]


def written(tmp_path: Path, name: str) -> Path:
    output = tmp_path / name
    write(write_jsonl(tmp_path / "part", ANSWERS), output, form_of(output))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    return output


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.jsonl", Form("jsonl", False)),
        ("x.CSV", Form("csv", False)),
        ("my.file.parquet", Form("parquet", False)),
        ("x.jsonl.gz", Form("jsonl", True)),
        ("x.csv.gz", Form("csv", True)),
    ],
)
def test_endings(name: str, form: Form) -> None:
    assert form_of(Path(name)) == form


@pytest.mark.parametrize(
    ("name", "found"),
    [("x.json", r"'\.json'"), ("x", "no ending"), ("x.parquet.gz", r"'\.parquet\.gz'"), ("x.gz", r"'\.gz'")],
)
def test_other_endings_are_refused_by_name(name: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"found .*{found}[\s\S]*\.csv\.gz"):
        form_of(Path(name))


def test_no_column_of_the_input_collides(tmp_path: Path) -> None:
    names = list(columns_of(flat(answer) for answer in ANSWERS))
    assert names == COLUMNS + [f"input.{name}" for name in INPUTS]


def test_csv_holds_every_text_as_it_is(tmp_path: Path) -> None:
    with written(tmp_path, "x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["id"] for row in rows] == ["a:1", "a:2", "a:3"]
    assert rows[0] == dict.fromkeys(rows[0], "") | {"id": "a:1", "error": "a:1: empty"}
    assert rows[1]["input.text"] == 'a "b",\r\nc\rd'
    assert (rows[1]["label"], rows[1]["input.label"], rows[1]["input.probabilities.good"]) == ("good", "bad", "x")
    assert json.loads(rows[1]["entities"]) == ANSWERS[1]["entities"]
    assert (rows[1]["score"], rows[2]["score"], rows[2]["tokens_cut"]) == ("1.0", "0.25", "3")
    assert (rows[1]["input.flag"], rows[1]["input.long"]) == ("true", str(LONG))


def test_parquet_has_types_and_changes_no_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pyarrow.parquet.read_table(written(tmp_path, "x.parquet"))
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    assert [kinds[name] for name in ("id", "score", "tokens_cut", "error")] == [
        pa.string(),
        pa.float64(),
        pa.int64(),
        pa.string(),
    ]
    assert kinds["entities"] == pa.list_(
        pa.struct([("type", pa.string()), ("start", pa.int64()), ("score", pa.float64())])
    )
    wanted = [pa.float64(), pa.int64(), pa.bool_(), pa.string(), pa.list_(pa.string()), pa.string(), pa.string()]
    assert [kinds[f"input.{name}"] for name in ("n", "long", "flag", "mixed", "tags", "tools", "input.id")] == wanted
    rows = table.to_pylist()
    for row, answer in zip(rows, map(flat, ANSWERS), strict=True):
        for name, value in row.items():
            as_json = name in ("input.mixed", "input.tools") and value is not None
            assert (json.loads(value) if as_json else value) == answer.get(name), name
    assert "input.mixed, input.tools: values of several kinds are written as JSON texts" in caplog.text


@pytest.mark.parametrize(
    "values",
    [
        [1, LONG, 0.5],
        [[1], ["a"]],
        [{"a": 1}, {"b": 1}],
        [{}],
        [1 << 70],
        [True, 1],
        [[{"a": [1]}, {"a": ["x"]}]],
    ],
)
def test_values_without_a_common_type_are_json(values: list[Any], tmp_path: Path) -> None:
    rows = [{"id": "a", "value": value if not isinstance(value, dict) else [value]} for value in values]
    write(write_jsonl(tmp_path / "part", rows), tmp_path / "x.parquet", Form("parquet", False))
    found = pyarrow.parquet.read_table(tmp_path / "x.parquet")["value"].to_pylist()
    assert [json.loads(text) for text in found] == [row["value"] for row in rows]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.csv.gz"])
def test_packed_files_are_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    first = written(tmp_path, name)
    plain = written(tmp_path, name.removesuffix(".gz"))
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()
    (tmp_path / "again").mkdir()
    assert written(tmp_path / "again", name).read_bytes() == first.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # no time
