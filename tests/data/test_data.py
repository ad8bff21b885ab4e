"""From files to two sides: every format and encoding, every refusal, and a split that cannot leak."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from conftest import write_jsonl
from weitiao.catalogue import ENTRIES
from weitiao.config.data import DataConfig
from weitiao.data.conversations import conversation_of
from weitiao.data.detect import detect
from weitiao.data.encode import Encoded, encode_texts
from weitiao.data.keys import text_key
from weitiao.data.labels import sort_labels
from weitiao.data.prepare import prepare, usable
from weitiao.data.read import Row, read_records, read_rows
from weitiao.data.side import Side
from weitiao.data.source import find
from weitiao.data.table import Table, build
from weitiao.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))


ROWS = [{"text": "好，很好", "label": "good"}, {"text": 'he said "no"\nand left', "label": "bad"}]
CSV = 'text,label\n"好，很好",good\n"he said ""no""\nand left",bad\n'


def files(folder: Path) -> dict[str, Path]:
    tsv = CSV.replace("text,label", "text\tlabel").replace(",good", "\tgood").replace(",bad", "\tbad")
    written = {
        "csv": CSV.encode(),
        "csv-sig": CSV.encode("utf-8-sig"),
        "csv-gb": CSV.encode("gb18030"),
        "csv-crlf": CSV.replace('"\nand', '"\x00and').replace("\n", "\r\n").replace("\x00", "\n").encode(),
        "tsv": tsv.encode(),
        "json": json.dumps(ROWS, ensure_ascii=False).encode(),
        "json-lines": "".join(json.dumps(r) + "\n" for r in ROWS).encode(),
        "json-data": json.dumps({"version": 1, "data": ROWS}).encode(),
        "jsonl": "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS).encode(),
        "jsonl-gb": "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS).encode("gb18030"),
    }
    paths = {}
    for name, content in written.items():
        paths[name] = folder / f"{name}.{name.split('-')[0]}"
        paths[name].write_bytes(content)
    table = pyarrow.Table.from_pylist(ROWS)
    paths["parquet"] = folder / "rows.parquet"
    pyarrow.parquet.write_table(table, paths["parquet"])
    for name, new in (("arrow-file", pyarrow.ipc.new_file), ("arrow-stream", pyarrow.ipc.new_stream)):
        paths[name] = folder / f"{name}.arrow"
        with new(str(paths[name]), table.schema) as sink:
            sink.write_table(table)
    return paths


FORMATS = [
    "csv",
    "csv-sig",
    "csv-gb",
    "csv-crlf",
    "tsv",
    "json",
    "json-lines",
    "json-data",
    "jsonl",
    "jsonl-gb",
    "parquet",
    "arrow-file",
    "arrow-stream",
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same(name: str, tmp_path: Path) -> None:
    rows = list(read_rows(str(files(tmp_path)[name])))
    assert [row.fields for row in rows] == ROWS
    first = 2 if name.startswith(("csv", "tsv")) else 1
    assert [row.line for row in rows] == [first, first + 1]


def test_encoding_is_stated(tmp_path: Path) -> None:
    for name, encoding in (("csv", "utf-8"), ("csv-sig", "utf-8-sig"), ("csv-gb", "gb18030")):
        table = build(str(files(tmp_path)[name]), DataConfig(train="x"))
        assert list(table.facts["encodings"].values()) == [encoding]


def test_line_numbers_count_lines_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('text,label\n"a\nb",x\nc,y\n', encoding="utf-8-sig")
    assert [row.id for row in read_rows(str(path))] == ["r.csv:2", "r.csv:4"]


def test_globs_lists_samples_and_class_folders(tmp_path: Path) -> None:
    for i in range(3):
        write_jsonl(tmp_path / f"part{i}.jsonl", [{"text": f"t{i}{j}", "label": j} for j in range(4)])
    assert len(list(read_rows(str(tmp_path / "part*.jsonl")))) == 12
    assert len(find([str(tmp_path / "part0.jsonl"), str(tmp_path / "part2.jsonl")]).files) == 2
    assert [r.line for r in read_rows(f"{tmp_path / 'part1.jsonl'}#2:head")] == [1, 2]
    with pytest.raises(DataError, match="Expected a whole number"):
        find(f"{tmp_path / 'part1.jsonl'}#two")
    for label, texts in (("neg", ["bad", "worse"]), ("pos", ["good", "better"])):
        (tmp_path / "docs" / label).mkdir(parents=True)
        (tmp_path / "lines" / label).mkdir(parents=True)
        for i, text in enumerate(texts):
            (tmp_path / "docs" / label / f"{i}.txt").write_text(f"{text}\nsecond line")
        (tmp_path / "lines" / label / "all.txt").write_text("\n".join(texts))
    whole = [row.fields for row in read_rows(str(tmp_path / "docs"))]
    assert {"text": "bad\nsecond line", "label": "neg"} in whole
    lines = list(read_rows(str(tmp_path / "lines")))
    assert [(r.fields["label"], r.fields["text"], r.id) for r in lines[:2]] == [
        ("neg", "bad", "neg/all.txt:1"),
        ("neg", "worse", "neg/all.txt:2"),
    ]


def test_conll(tmp_path: Path) -> None:
    (tmp_path / "n.conll").write_text("-DOCSTART- O\n\n北 B-LOC\n京 I-LOC\n\nA\tO\n", encoding="utf-8")
    rows = list(read_rows(str(tmp_path / "n.conll")))
    assert [r.fields for r in rows] == [
        {"tokens": ["北", "京"], "ner_tags": ["B-LOC", "I-LOC"]},
        {"tokens": ["A"], "ner_tags": ["O"]},
    ]
    assert [r.line for r in rows] == [3, 6]


DETECTED: list[tuple[dict[str, Any], str, str]] = [
    ({"text": "a", "label": 1}, "text and label", "classification"),
    ({"review": "a", "sentiment": "b"}, "text and label", "classification"),
    ({"评论": "a", "标签": "b"}, "text and label", "classification"),
    ({"sentence1": "a", "sentence2": "b", "label": 0}, "text pair and label", "classification"),
    ({"premise": "a", "hypothesis": "b", "label": 0}, "text pair and label", "classification"),
    ({"text": "a", "labels": ["x", "y"]}, "text and labels", "labels"),
    ({"text": "a", "score": "x", "label": -1.5}, "text and number", "number"),
    ({"text": "a"}, "text", "text"),
    ({"instruction": "a", "input": "", "output": "b"}, "alpaca", "sft"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "sharegpt", "sft"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages", "sft"),
    ({"prompt": "a", "completion": "b"}, "prompt and completion", "sft"),
    ({"tokens": ["a"], "ner_tags": ["O"]}, "tokens and tags", "tokens"),
]


@pytest.mark.parametrize(("fields", "name", "kind"), DETECTED, ids=[n + str(i) for i, (_, n, _) in enumerate(DETECTED)])
def test_formats_are_detected(fields: dict[str, Any], name: str, kind: str, tmp_path: Path) -> None:
    form = detect(fields)
    assert (form.name, form.kind) == (name, kind)
    assert form.reason
    table = build(str(write_jsonl(tmp_path / "r.jsonl", [fields])), DataConfig(train="x"))
    assert (table.facts["name"], len(table)) == (name, 1)


def test_messages_of_every_conversation_format() -> None:
    alpaca = {"instruction": "q", "input": "x", "output": "a", "system": "s", "history": [["h", "i"]]}
    expected = [("system", "s"), ("user", "h"), ("assistant", "i"), ("user", "q\nx"), ("assistant", "a")]
    assert [(m["role"], m["content"]) for m in conversation_of(alpaca, detect(alpaca)).messages] == expected
    sharegpt = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    assert [m["role"] for m in conversation_of(sharegpt, detect(sharegpt)).messages] == ["user", "assistant"]


MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ALPACA = {"instruction": "q", "output": "a", "history": [["h", "i"]]}


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (MESSAGES, {"id": 2}, "messages is None, not a list of turns"),
        (MESSAGES, {"messages": None}, "messages is None, not a list of turns"),
        (MESSAGES, {"messages": "q"}, "messages is 'q', not a list of turns"),
        (ALPACA, {**ALPACA, "history": [["h"]]}, "pairs of texts"),
        (ALPACA, {**ALPACA, "history": [["h", "i", "j"]]}, "pairs of texts"),
        (ALPACA, {**ALPACA, "history": "hi"}, "history is 'hi'"),
    ],
)  # fmt: skip
def test_a_broken_conversation_is_one_rejected_row(
    good: dict[str, Any], bad: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "r.jsonl", [good, bad, good])
    table = build(str(file), DataConfig(train="x"))
    assert len(table) == 2
    (rejected,) = table.rejected()
    assert "r.jsonl:2" in str(rejected)
    assert said in str(rejected["reason"])


def test_alpaca_demo_file_needs_no_registration() -> None:
    path = Path(__file__).parents[2] / "shared" / "data" / "alpaca_zh_demo.json"
    if not path.exists():
        pytest.skip("the demo file is not part of the project")
    table = build(str(path), DataConfig(train="x"))
    assert table.facts["name"] == "alpaca"
    assert len(table) + table.facts["num_rejected"] == 1000


REFUSED = [
    ("r.csv", b"text,label\na,b,c\n", "r.csv:2: 3 columns where the header has 2"),
    ("r.csv", b'text,label\n"a"b,c\nx,y\n', "r.csv:2: not valid csv"),
    ("r.csv", b"text,text\na,b\n", "the column 'text' twice"),
    ("r.csv", b"text,label\na,x\nb\0,y\n" + b"c,x\n" * 99, "1 NUL byte in text, the first in line 3"),
    ("r.csv", b"text,label\n\xff\xfe\x80,x\n", "r.csv:2: bytes or escapes"),
    ("r.jsonl", b'{"text": "a"\n', "r.jsonl:1: not JSON"),
    ("r.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "r.jsonl:2: a list, not an object"),
    ("r.jsonl", b'{"text": "a", "label": NaN}\n', "NaN is not JSON"),
    ("r.json", b"[" * 100_000, "nested too deeply"),
    ("r.json", b'"x"', "found str"),
    ("r.parquet", b"PAR1 this is not parquet", "not a readable parquet file"),
    ("r.arrow", b"ARROW1 nor this", "not a readable arrow file"),
    ("r.xlsx", b"x", "cannot read the ending '.xlsx'"),
    ("r.jsonl", b"", "is empty"),
    ("r.jsonl", b"\n \n", "has no usable rows"),
    ("r.jsonl", b'{"txt": "a", "lab": 1}\n', "no column that holds texts. Found: txt, lab"),
    ("r.jsonl", b'{"text": "a", "lable": 1}\n', "Expected a text and a label"),
    ("r.jsonl", b'{"text": "a", "label": 1}\n{"text": "  ", "label": 1}\n', "r.jsonl:2: no visible characters"),
    ("r.jsonl", b'{"text": 5, "label": 1}\n', "text is '5'"),
    ("r.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": null}\n', "r.jsonl:2: label is None"),
    ("r.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": 1.5}\n', "Round it, map it to classes"),
    ("r.jsonl", b'{"text": "a", "label": 1.5}\n', "task=regression"),
    ("r.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": [1]}\n', "label is [1]"),
    ("r.jsonl", b'{"text": "a", "label": [1]}\n', "task=multi_label"),
    (
        "r.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b", "label": 1}\n{"text": "c", "label": 1}\n',
        "at least two labels",
    ),
    ("r.yaml", b"a: [", "not YAML"),
    ("r.conll", b"a O\nb\n", "r.conll:2: a token without a tag"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[f"{n} {m}" for n, _, m in REFUSED])
def test_refusals_name_the_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(train=str(tmp_path / name), test_size=1))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) >= 2


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    good = [json.dumps({"text": f"text number {i}", "label": i % 2}).encode() for i in range(20)]
    bad = [b'{"text": "a"', b"[]", b'{"text": "", "label": 1}', b'{"text": "\xff\xff", "label": 1}', b'{"label": 1}']
    (tmp_path / "r.jsonl").write_bytes(b"\n".join([*good[:10], *bad, *good[10:]]))
    prepared = prepare(DataConfig(train=str(tmp_path / "r.jsonl"), bad_rows="skip", near_duplicates="off"))
    assert (prepared.report["train"]["num_rejected"], prepared.report["train"]["num_empty"]) == (4, 1)
    assert len(prepared.train) + len(prepared.eval) == 20
    assert [row["id"] for row in prepared.train.table.rejected()] == [f"r.jsonl:{n}" for n in range(11, 16)]
    assert all(row["reason"] for row in prepared.train.table.rejected())


def test_a_few_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": varied(i), "label": i % 2} for i in range(40)]
    rows.insert(3, {"text": "　", "label": 1})
    prepared = prepare(DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows))))
    assert prepared.report["train"]["num_empty"] == 1
    assert len(prepared.train) + len(prepared.eval) == 40
    assert [row["id"] for row in prepared.train.table.rejected()] == ["r.jsonl:4"]


def test_a_table_is_built_once_for_its_content(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"text": "a", "label": 1}])
    first = build(str(path), DataConfig(train="x"))
    stamp = (first.folder / "rows.arrow").stat().st_mtime_ns
    assert build(str(path), DataConfig(train="x")).folder == first.folder
    assert (first.folder / "rows.arrow").stat().st_mtime_ns == stamp
    write_jsonl(path, [{"text": "b", "label": 1}])
    assert build(str(path), DataConfig(train="x")).column("text") == ["b"]


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


def keys(side: Side) -> set[str]:
    return {text_key(text) for text in side.texts}


def varied(i: int) -> str:
    """Texts that no n-gram measure takes for nearly equal."""
    rng = np.random.default_rng(i)
    return "".join(chr(int(c)) for c in rng.integers(0x4E00, 0x9FA5, 12))


def test_duplicates_and_conflicts_are_counted_and_never_leak(tmp_path: Path) -> None:
    rows = [{"text": varied(i % 40), "label": "ab"[i % 2]} for i in range(160)]  # each text four times
    rows += [{"text": f"　{varied(1)} \n", "label": "b"}]  # a duplicate only after folding
    rows += [{"text": "both", "label": "a"}, {"text": "both", "label": "b"}]
    path = str(write_jsonl(tmp_path / "r.jsonl", rows))
    prepared = prepare(DataConfig(train=path, test_size=0.25))
    assert not keys(prepared.train) & keys(prepared.eval)
    assert len(prepared.train) + len(prepared.eval) == 40
    report = prepared.report["train"]
    assert (report["num_rows"], report["duplicates_dropped"], report["conflicts_dropped"]) == (163, 121, 2)
    assert report["conflict_examples"][0]["rows"] == {"r.jsonl:162": "a", "r.jsonl:163": "b"}
    kept = prepare(DataConfig(train=path, test_size=0.25, duplicates="keep", conflicts="keep"))
    assert len(kept.train) + len(kept.eval) == 163
    assert not keys(kept.train) & keys(kept.eval)
    with pytest.raises(DataError, match="different labels"):
        prepare(DataConfig(train=path, conflicts="fail"))


def test_near_duplicates_do_not_cross_the_split(tmp_path: Path) -> None:
    train = [{"text": varied(i) + varied(i + 1000), "label": i % 2} for i in range(60)]
    held = [{"text": train[7]["text"][:-1] + "！", "label": 1}, {"text": varied(5000), "label": 0}]
    paths = {
        "train": str(write_jsonl(tmp_path / "a.jsonl", train)),
        "eval": str(write_jsonl(tmp_path / "b.jsonl", held)),
    }
    dropped = prepare(DataConfig(**paths))
    assert dropped.report["near_duplicates"]["dropped_from_train"] == 1
    assert "a.jsonl:8" not in dropped.train.ids
    example = dropped.report["near_duplicates"]["examples"][0]
    assert (example["train"], example["eval"]) == ("a.jsonl:8", "b.jsonl:1")
    warned = prepare(DataConfig(**paths, near_duplicates="warn"))
    assert (len(warned.train), warned.report["near_duplicates"]["across_the_split"]) == (60, 1)
    assert prepare(DataConfig(**paths, near_duplicates="off")).report["near_duplicates"] == {"policy": "off"}
    assert prepare(DataConfig(**paths, near_threshold=0.99)).report["near_duplicates"]["across_the_split"] == 0


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
    rows = [{"text": varied(i), "label": "rare" if i % 10 == 0 else "usual"} for i in range(400)]
    path = str(write_jsonl(tmp_path / "r.jsonl", rows))
    one = prepare(DataConfig(train=path, test_size=100, train_size=200))
    assert one.report["label_counts_eval"] == {"rare": 10, "usual": 90}
    assert one.report["label_counts_train"] == {"rare": 20, "usual": 180}
    again = prepare(DataConfig(train=path, test_size=100, train_size=200))
    assert (one.train.ids, one.eval.ids) == (again.train.ids, again.eval.ids)
    assert one.eval.ids != prepare(DataConfig(train=path, test_size=100, train_size=200, split_seed=1)).eval.ids
    # fewer training rows: the same evaluation rows
    assert one.eval.ids == prepare(DataConfig(train=path, test_size=100, train_size=50)).eval.ids


def test_folds_share_nothing_and_cover_everything(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "r.jsonl", [{"text": varied(i), "label": i % 2} for i in range(50)]))
    folds = [prepare(DataConfig(train=path, num_folds=5, fold=k)) for k in range(5)]
    held = [row for fold in folds for row in fold.eval.ids]
    assert sorted(held) == sorted(f"r.jsonl:{i + 1}" for i in range(50))
    assert all(len(f.eval) == 10 and len(f.train) == 40 for f in folds)
    assert all(f.report["label_counts_eval"] == {"0": 5, "1": 5} for f in folds)


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "r.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(10)]))
    for options, message in (
        ({"test_size": 10}, "asks for 10 of 10"),
        ({"test_size": 2, "train_size": 9}, "only 8 training rows"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(DataConfig(train=path, **options))


def test_unknown_eval_label(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(4)])
    held = write_jsonl(tmp_path / "b.jsonl", [{"text": "x", "label": 7}])
    with pytest.raises(DataError, match="labels that no training row has"):
        prepare(DataConfig(train=str(train), eval=str(held)))


def test_a_missing_file_names_what_is_read_and_the_catalogue() -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows("no-such-file.jsonl"))
    found, expected, following = str(caught.value).split("\n")
    assert found == "No file 'no-such-file.jsonl'."
    assert "csv" in expected
    assert all(name in expected for name, entry in ENTRIES.items() if entry.kind == "data")
    assert following.endswith("weitiao models")


def test_an_unreachable_hub_names_the_catalogue() -> None:
    with pytest.raises(
        DataError,  # with the package datasets, and without it
        match=r"^(No file )?'nobody/nothing'(, and no| looks like a) hub data set[^\n]*\nExpected [^\n]*\n.*weitiao models$",
    ):
        list(read_rows("nobody/nothing"))


def test_sft_rows_are_refused_where_labels_are_needed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"instruction": "a", "output": "b"}])
    with pytest.raises(DataError, match="holds alpaca rows"):
        usable(str(path), DataConfig(train="x"))


@pytest.mark.parametrize("over_length", ["truncate", "drop", "window", "fail"])
def test_over_length(over_length: str, tiny_model: Path) -> None:
    from weitiao.pretrained.load import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    texts = ["好看", "很好看的书真的很好看", "太差"]  # 4, 12 and 4 tokens with the special ones

    def encode() -> Encoded:
        return encode_texts(texts, None, [0, 1, 0], tokenizer, 7, over_length, ids=["a:1", "a:2", "a:3"])  # type: ignore[arg-type]

    if over_length == "fail":
        with pytest.raises(DataError, match="a:2 has 12 tokens"):
            encode()
        return
    encoded = encode()
    whole = encode_texts(texts, None, [0, 1, 0], tokenizer, 99)
    assert (encoded.num_over_length, whole.num_over_length) == (1, 0)
    if over_length == "truncate":
        assert encoded.lengths == [4, 7, 4]
        assert encoded.tokens_lost == 5
    elif over_length == "drop":
        assert encoded.lengths == [4, 4]
        assert encoded.kept.tolist() == [0, 2]
        assert encoded.labels.tolist() == [0, 0]
    else:
        assert encoded.lengths == [4, 7, 7, 4]
        assert encoded.owner.tolist() == [0, 1, 1, 2]
        assert encoded.gold.tolist() == [0, 1, 0]
        inner = [t for i in (1, 2) for t in encoded.row(i)[1:-1].tolist()]
        assert inner == whole.row(1)[1:-1].tolist()  # nothing is lost


def test_encoded_rows_are_kept_by_content(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weitiao.data import encode as module
    from weitiao.pretrained.load import load_tokenizer

    monkeypatch.setattr(module, "_CACHED_FROM_ROWS", 2)
    tokenizer = load_tokenizer(str(tiny_model))
    first = encode_texts(["好看", "太差"], None, [0, 1], tokenizer, 16, cache_key="k")
    assert isinstance(first.flat, np.memmap)

    class Refuse:
        backend_tokenizer = tokenizer.backend_tokenizer

        def __call__(self, *_: object, **__: object) -> None:
            raise AssertionError("encoded again")

    again = encode_texts(["好看", "太差"], None, [0, 1], Refuse(), 16, cache_key="k")  # type: ignore[arg-type]
    assert np.array_equal(first.flat, again.flat)
    with pytest.raises(AssertionError, match="encoded again"):
        encode_texts(["好看", "太差"], None, [0, 1], Refuse(), 17, cache_key="k")  # type: ignore[arg-type]


def test_reader_yields_rows_lazily(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "a", "label": 1}\nbroken\n')
    records = read_records(find(str(path)), "fail")
    assert isinstance(next(records), Row)  # the broken line is not reached yet
    with pytest.raises(DataError, match=r"r\.jsonl:2"):
        next(records)


def test_table_reads_some_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"text": f"t{i}", "label": i} for i in range(9000)])
    table = build(str(path), DataConfig(train="x"))
    assert isinstance(table, Table)
    assert table.column("text", [5, 8999]) == ["t5", "t8999"]
    assert table.ids([4096]) == ["r.jsonl:4097"]
    assert len(np.unique(table.keys)) == 9000


def test_a_stray_quote_costs_one_line(tmp_path: Path) -> None:
    lines = [f"{varied(i)},{i % 2}" for i in range(100)]
    lines[20] = f'"{lines[20]}'
    lines[70] = '"a ""quoted"" text\nover two lines",1'
    (tmp_path / "r.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    table = build(str(tmp_path / "r.csv"), DataConfig(train="x"))
    assert [row["id"] for row in table.rejected()] == ["r.csv:22"]
    assert len(table) == 99
    assert table.ids([19, 20, 69, 70]) == ["r.csv:21", "r.csv:23", "r.csv:72", "r.csv:74"]
    assert table.column("text", [69]) == ['a "quoted" text\nover two lines']


def test_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for i, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "rows.jsonl", [{"text": varied(i), "label": i}])
    spec = [str(tmp_path / "x" / "rows.jsonl"), str(tmp_path / "y" / "rows.jsonl")]
    table = build(spec, DataConfig(train="x"))
    assert table.ids([0, 1]) == ["x/rows.jsonl:1", "y/rows.jsonl:1"]
    assert len(table.facts["sha256"]) == 2
    write_jsonl(tmp_path / "x" / "rows.jsonl", [{"text": varied(9), "label": 0}])
    assert build(spec, DataConfig(train="x")).column("text") == [varied(9), varied(1)]
    with pytest.raises(DataError, match="names a file twice"):
        find([spec[0], spec[0]])


def test_files_beside_class_folders_are_reported(tmp_path: Path) -> None:
    import weitiao.data

    for label in ("neg", "pos"):
        (tmp_path / "docs" / label).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "docs" / label / f"{i}.TXT").write_text(
                varied(i) if label == "neg" else varied(i + 50), encoding="utf-8"
            )
    (tmp_path / "docs" / "extra.csv").write_text("a,b\n")
    (tmp_path / "docs" / "pos" / "notes.md").write_text("x")
    (tmp_path / "docs" / "pos" / "empty.txt").write_text("")
    report = weitiao.data.check(tmp_path / "docs")
    assert report.num_rows == 6
    by_code = {f.code: f for f in report.findings}
    assert by_code["ignored_files"].where == ("extra.csv", "pos/notes.md")
    assert by_code["empty"].where == ("pos/empty.txt:1",)


def test_pairs_are_nearly_equal_only_as_pairs(tmp_path: Path) -> None:
    rows = [
        {"premise": varied(i) * 3, "hypothesis": varied(100 * k + i), "label": k} for i in range(20) for k in range(3)
    ]
    prepared = prepare(DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), test_size=12))
    assert prepared.report["near_duplicates"]["dropped_from_train"] == 0
    assert prepared.train.pairs is not None


def test_class_order_does_not_depend_on_the_hash_seed() -> None:
    assert sort_labels({"01", "1", "１"}) == sort_labels(["１", "1", "01"]) == ("01", "1", "１")
