"""Files as programs write them: encodings, marks between values, headers or none, packed, entities in several forms."""

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.support.languages import ENCODINGS, table

import weitiao
from conftest import write_jsonl
from weitiao.config.data import DataConfig
from weitiao.data.read import Row, read_records, read_rows
from weitiao.data.source import find
from weitiao.data.table import build
from weitiao.data.text_encoding import encoding_of
from weitiao.errors import DataError

CASES = [(language, encoding) for language, encodings in ENCODINGS.items() for encoding in encodings]


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_every_encoding_is_told_from_200_rows(language: str, encoding: str, tmp_path: Path) -> None:
    """What counts is the text: cp932 and shift_jis read these files alike."""
    text, file = table(language), tmp_path / "r.csv"
    file.write_bytes(text.encode(encoding))
    assert file.read_bytes().decode(encoding_of(file)) == text
    report = weitiao.data.check(file)
    assert (report.num_rows, report.label_counts) == (200, {"bad": 100, "good": 100})
    assert report.format["encodings"]["r.csv"] == encoding_of(file)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_where_many_characters_end_in_00(encoding: str, tmp_path: Path) -> None:
    """U+4E00 is a frequent one: NUL bytes are then at even and odd places."""
    text = "text,label\n" + "".join(f"一个一般的房间，一{'好' * i}\n" for i in range(100))
    (tmp_path / "r.csv").write_bytes(text.encode(encoding))
    assert encoding_of(tmp_path / "r.csv") == encoding


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "cp1253", "cp1255", "cp874"])
def test_an_encoding_that_is_not_known_is_refused_with_candidates(encoding: str, tmp_path: Path) -> None:
    texts = {
        "cp1251": "Номер был чистым и персонал приветливый", "koi8-r": "Завтрак был скромным но вкусным", "cp1255": "החדר היה נקי והצוות אדיב",
        "cp1253": "Το δωμάτιο ήταν καθαρό και το προσωπικό ευγενικό", "cp874": "ห้องพักสะอาดและพนักงานเป็นมิตร",
    }  # fmt: skip
    file = tmp_path / "r.csv"
    file.write_bytes(("text,label\n" + "".join(f"{texts[encoding]} {i},a\n" for i in range(60))).encode(encoding))
    with pytest.raises(DataError, match=r"(?s)not UTF-8, and no other encoding is sure.*data\.encoding=NAME"):
        build(str(file), DataConfig(train="-"))
    read = build(str(file), DataConfig(train="-", encoding=encoding))
    assert read.column("text")[0] == f"{texts[encoding]} 0"


def test_parts_in_two_encodings_are_never_read_as_one(tmp_path: Path) -> None:
    lines = table("simplified").splitlines()
    file = tmp_path / "r.csv"
    file.write_bytes("\n".join(lines[:151]).encode() + b"\n" + "\n".join(lines[151:]).encode("gb18030"))
    read = build(str(file), DataConfig(train="-"))  # the broken lines are counted, one by one
    assert (len(read), read.facts["num_rejected"]) == (150, 50)


def test_an_unknown_or_wrong_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(table("simplified"), encoding="utf-8")
    for encoding, said in (("utf-9", "is unknown"), ("ascii", "is not ascii")):
        with pytest.raises(DataError, match=said):
            build(str(tmp_path / "r.csv"), DataConfig(train="-", encoding=encoding))


ROWS = [(f"第{i}家，很{'好' if i % 2 else '差'}", "ab"[i % 2]) for i in range(20)]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["r.csv", "r.tsv"])
@pytest.mark.parametrize("told", [False, True])
def test_any_mark_between_values(mark: str, name: str, told: bool, tmp_path: Path) -> None:
    first = f"sep={mark}\r\n" if told else ""
    lines = [f'"{text}"{mark}{label}' for text, label in ROWS]
    (tmp_path / name).write_text(
        first + "\r\n".join([f"text{mark}label", *lines]) + "\r\n", encoding="utf-8", newline=""
    )
    rows = list(read_rows(str(tmp_path / name)))
    assert [(row.fields["text"], row.fields["label"]) for row in rows] == ROWS
    assert rows[0].line == 2 + told


@pytest.mark.parametrize(("columns", "found"), [(None, True), (("text", "label"), False)])
@pytest.mark.parametrize("name", ["r.txt", "r.csv", "r.tsv"])
def test_no_header(columns: Any, found: bool, name: str, tmp_path: Path) -> None:
    mark = "," if name == "r.csv" else "\t"
    (tmp_path / name).write_text(
        "".join(f"{text.replace('，', '')}{mark}{label}\n" for text, label in ROWS), encoding="utf-8"
    )
    data = {"columns": columns} if columns else {}
    read = build(str(tmp_path / name), DataConfig(train="-", **data))
    assert (len(read), set(read.column("label")), read.column("text")[0]) == (20, {"a", "b"}, "第0家很差")
    assert bool(read.facts["guessed"]) is found


def test_columns_that_contents_do_not_tell_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "".join(f"{i},{text[:3]},{label},{i * 2}\n" for i, (text, label) in enumerate(ROWS)), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"no column names.*\n.*\nName the 4 columns: data.columns=\[c1,c2,c3,c4\]"):
        build(str(tmp_path / "r.csv"), DataConfig(train="-"))
    read = build(str(tmp_path / "r.csv"), DataConfig(train="-", columns=("n", "text", "label", "m")))
    assert (len(read), read.facts["unused"]) == (20, {"n": 20, "m": 20})
    with pytest.raises(DataError, match="Expected 2: text, label"):
        build(str(tmp_path / "r.csv"), DataConfig(train="-", columns=("text", "label")))


def test_a_header_again_is_counted(tmp_path: Path) -> None:
    lines = ["text,label", *(f'"{text}",{label}' for text, label in ROWS)]
    (tmp_path / "r.csv").write_text("\n".join(lines * 3) + "\n", encoding="utf-8")
    report = weitiao.data.check(tmp_path / "r.csv")
    (found,) = [f for f in report.findings if f.code == "skipped_lines"]
    assert (report.num_rows, found.count, set(report.label_counts)) == (60, 2, {"a", "b"})


@pytest.mark.parametrize("header", [",text,label", "Unnamed: 0,text,label", ",TEXT,Label", "\ufeffID,Text,LABEL"])
def test_an_index_column_and_names_in_capitals(header: str, tmp_path: Path) -> None:
    lines = [header, *(f'{i},"{text}",{label}' for i, (text, label) in enumerate(ROWS))]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    read = build(str(tmp_path / "r.csv"), DataConfig(train="-"))
    assert (read.facts["name"], len(read), sum(read.facts["unused"].values())) == ("text and label", 20, 20)


def _xlsx(path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (the extra `excel`)")
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    for text, label in ROWS:
        book.active.append([text, {"a": 0, "b": 1}[label]])
    book.save(path)


CSV = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)


@pytest.mark.parametrize(
    "name", ["r.csv.gz", "gz.csv", "r.csv.bz2", "r.csv.xz", "r.zip", "zip.csv", "r.xlsx", "xlsx.csv"]
)
def test_packed_files_are_told_by_their_first_bytes(name: str, tmp_path: Path) -> None:
    path, data = tmp_path / name, CSV.encode()
    if "zip" in name:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside/r.csv", data)
            archive.writestr("__MACOSX/._r.csv", b"x")
    elif "xlsx" in name:
        _xlsx(path)
    else:
        path.write_bytes(
            {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}["gz" if "gz" in name else name[6:]](data)
        )
    read = build(str(path), DataConfig(train="-"))
    assert (len(read), read.column("text")[1], len(set(read.column("label")))) == (20, ROWS[1][0], 2)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be unpacked"):
        build(str(path), DataConfig(train="-"))


def test_a_name_that_is_no_text_is_one_message(tmp_path: Path) -> None:
    path = Path(str(tmp_path) + "/caf\udce9.csv")
    path.write_text(CSV, encoding="utf-8")
    with pytest.raises(DataError, match="the name holds bytes that are no UTF-8"):
        build(str(path), DataConfig(train="-"))


@pytest.mark.parametrize("name", ["r.train", "r.dev", "r.test", "r.data", "r.bmes", "r.conll", "rows"])
def test_endings_that_say_nothing_are_told_by_contents(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("北\tB-LOC\n京\tI-LOC\n\n我\tO\n", encoding="utf-8")
    read = build(str(tmp_path / name), DataConfig(train="-"))
    assert (read.facts["name"], len(read)) == ("tokens and tags", 2)
    if name not in ("r.bmes", "r.conll"):
        (tmp_path / name).write_text(json.dumps({"text": "好", "label": "a"}) + "\n", encoding="utf-8")
        assert build(str(tmp_path / name), DataConfig(train="-")).facts["name"] == "text and label"


def test_a_word_keeps_its_blanks_in_a_file_with_tabs(tmp_path: Path) -> None:
    (tmp_path / "r.conll").write_text("Los Angeles\tB-LOC\n \tO\nis\tO\n\nNew York City\tB-LOC\n", encoding="utf-8")
    rows = list(read_rows_leniently(tmp_path / "r.conll"))
    assert rows[-1]["tokens"] == ["New York City"]
    assert len(rows) == 1, "a blank is no word: that sentence is rejected by its line"


def read_rows_leniently(path: Path) -> list[dict[str, Any]]:
    from weitiao.data.read import Row, read_records
    from weitiao.data.source import find

    return [record.fields for record in read_records(find(str(path)), "skip") if isinstance(record, Row)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Bob\tNNP\tB-NP\t", "a token without a tag"),
        ("Bob\tNNP\tB-NP", "3 columns where most lines have 4"),
        ("Bob", "a token without a tag"),
        ("\tNNP\tB-NP\tO", "a tag without a token"),
    ],
)
def test_a_missing_tag_is_an_error_of_its_line(line: str, said: str, tmp_path: Path) -> None:
    good = "Ann\tNNP\tB-NP\tB-PER\nran\tVB\tB-VP\tO\n"
    (tmp_path / "r.conll").write_text(f"{good}\n{line}\nran\tVB\tB-VP\tO\n\n{good}", encoding="utf-8")
    read = build(str(tmp_path / "r.conll"), DataConfig(train="-"))
    (rejected,) = read.rejected()
    assert (len(read), rejected["id"]) == (2, "r.conll:4")
    assert said in rejected["reason"]


def test_documents_and_comments_end_sentences(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O\nBob NNP B-PER\nran VB O\n-DOCSTART- -X- O\n# sent_id = 2\nAnn NNP B-PER\n# O O\n"
    (tmp_path / "r.conll").write_text(text, encoding="utf-8")
    read = build(str(tmp_path / "r.conll"), DataConfig(train="-"))
    assert [json.loads(row)[0] for row in read.column("messages")] == [["Bob", "ran"], ["Ann", "#"]]
    assert read.facts["skipped"] == {"lines that begin a document": 2, "comments": 1}


def test_segmentation_digits(tmp_path: Path) -> None:
    text = "小0\tB-PER.NAM\n明1\tI-PER.NAM\n在0\tO\n\n老0\tB-PER.NOM\n板1\tI-PER.NOM\n很0\tO\n"
    (tmp_path / "r.train").write_text(text, encoding="utf-8")
    (found,) = weitiao.data.check(tmp_path / "r.train", task="token_classification").errors
    assert (found.code, found.fix) == ("segmentation_digits", "data.segmentation_digits=strip")
    read = build(str(tmp_path / "r.train"), DataConfig(train="-", segmentation_digits="strip"))
    assert json.loads(read.column("messages")[0])[0] == ["小", "明", "在"]


TEXT = "浙商银行的叶老桂在New York说"
SPANS: dict[str, dict[str, Any]] = {
    "cluener": {"text": TEXT, "label": {"company": {"浙商银行": [[0, 3]]}, "name": {"叶老桂": [[5, 7]]}, "address": {"New York": [[9, 16]]}}},
    "doccano": {"text": TEXT, "label": [[0, 4, "company"], [5, 8, "name"], [9, 17, "address"]]},
    "doccano entities": {"text": TEXT, "entities": [{"id": 1, "label": "company", "start_offset": 0, "end_offset": 4}, {"id": 2, "label": "name", "start_offset": 5, "end_offset": 8}, {"id": 3, "label": "address", "start_offset": 9, "end_offset": 17}]},
    "label studio": {"data": {"text": TEXT}, "annotations": [{"result": [{"type": "labels", "value": {"start": s, "end": e, "text": TEXT[s:e], "labels": [k]}} for s, e, k in ((9, 17, "address"), (0, 4, "company"), (5, 8, "name"))]}]},
    "label studio, short": {"text": TEXT, "label": [{"start": s, "end": e, "text": TEXT[s:e], "labels": [k]} for s, e, k in ((0, 4, "company"), (5, 8, "name"), (9, 17, "address"))]},
}  # fmt: skip


@pytest.mark.parametrize("form", SPANS)
def test_entities_by_their_places(form: str, tmp_path: Path) -> None:
    read = build(str(write_jsonl(tmp_path / "r.jsonl", [SPANS[form]])), DataConfig(train="-"))
    words, tags = json.loads(read.column("messages")[0])
    assert words == [*"浙商银行的叶老桂在", "New", "York", "说"]
    assert tags == [
        "B-company",
        *["I-company"] * 3,
        "O",
        "B-name",
        "I-name",
        "I-name",
        "O",
        "B-address",
        "I-address",
        "O",
    ]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"name": {"叶老桂": [[0, 2]]}}, "called '叶老桂', where the text has '浙商银'"),
        ({"a": {"浙商": [[0, 1]]}, "b": {"商银": [[1, 2]]}}, "entities that overlap"),
        ({"a": {"说": [[90, 91]]}}, "Expected its place in the text"),
    ],
)
def test_places_that_are_wrong_reject_the_row(label: dict[str, Any], said: str, tmp_path: Path) -> None:
    rows = [SPANS["cluener"], {"text": TEXT, "label": label}]
    (rejected,) = build(str(write_jsonl(tmp_path / "r.jsonl", rows)), DataConfig(train="-")).rejected()
    assert said in rejected["reason"]


def test_an_entity_that_ends_inside_a_word_cuts_it(tmp_path: Path) -> None:
    row = {"text": "the Yorkshire man", "label": [[4, 8, "LOC"]]}
    words, tags = json.loads(
        build(str(write_jsonl(tmp_path / "r.jsonl", [row])), DataConfig(train="-")).column("messages")[0]
    )
    assert (words, tags) == (["the", "York", "shire", "man"], ["O", "B-LOC", "O", "O"])


def test_rows_by_lot_or_the_first(tmp_path: Path) -> None:
    rows = [{"text": f"第{i}行", "label": "ab"[i >= 50]} for i in range(100)]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    lines = [row.line for row in read_rows(f"{file}#20")]
    assert (lines, len(lines)) == (sorted(lines), 20)
    assert lines == [row.line for row in read_rows(f"{file}#20")]
    assert 5 <= sum(line <= 50 for line in lines) <= 15, "by lot, a file in the order of its labels gives both"
    assert [row.line for row in read_rows(f"{file}#3:head")] == [1, 2, 3]
    assert len(list(read_rows(f"{file}#500"))) == 100


def test_each_source_of_a_list_may_give_some_of_its_rows(tmp_path: Path) -> None:
    first, second = (
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name}{i}", "label": i % 2} for i in range(10)])
        for name in "ab"
    )
    found = read_records(find([f"{first}#2:head", str(second)]), "fail")
    assert [row.fields["text"] for row in found if isinstance(row, Row)] == ["a0", "a1", *(f"b{i}" for i in range(10))]
    by_lot = [row.id for row in read_records(find([str(first), f"{second}#4"]), "fail") if isinstance(row, Row)]
    assert (len(by_lot), sum(name.startswith("b") for name in by_lot)) == (14, 4)
    whole = build([str(first), str(second)], DataConfig(train="-"))
    some = build([str(first), f"{second}#4"], DataConfig(train="-"))
    assert (len(whole), len(some)) == (20, 14), "the table of all rows is not taken for the other"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"text,label\nplain english,0\nhello\xa0world again,1\n", "hello\u00a0world again"),
        (b"text,label\nfive \xb5m wide,0\nsix,1\n", "five µm wide"),
    ],
)
def test_a_few_signs_of_cp1252(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    read = build(str(tmp_path / "r.csv"), DataConfig(train="-"))
    assert text in read.column("text")


def test_an_encoding_that_was_told_is_shown_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(table("german").encode("cp1252"))
    (found,) = [f for f in weitiao.data.check(tmp_path / "r.csv").findings if f.code == "encoding"]
    assert (found.severity, "ü" in "".join(found.examples) or "ö" in "".join(found.examples)) == ("warning", True)


def test_a_running_number_before_the_words(tmp_path: Path) -> None:
    (tmp_path / "r.tsv.conll").write_text(
        "# http://x\n1\tAufgrund\tO\n2\tSchartau\tB-PER\n\n1\tsagte\tO\n", encoding="utf-8"
    )
    assert read_rows_leniently(tmp_path / "r.tsv.conll")[0]["tokens"] == ["Aufgrund", "Schartau"]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "张三说", "entities": [{"start": 0, "end": 2}]},
        {"text": "张三说", "entities": [[0, 2, None]]},
        {"text": "张三说", "entities": [{"start_idx": 0, "end_idx": 1, "type": "PER", "entity": "张三"}]},
        {"text": "张三说", "annotations": [{"result": [], "was_cancelled": True}]},
        {"text": "张三说", "entities": None},
        {"text": "张三说", "entities": 5},
        {"text": "张三说", "entities": "[bad"},
        {"text": "张三说", "entities": [[0, 2]]},
        {"text": "张三说", "entities": [{"result": [5]}]},
    ],
)
def test_spans_that_say_too_little_reject_the_row(row: dict[str, Any], tmp_path: Path) -> None:
    column = next(name for name in row if name != "text")
    good = {
        "text": "李四说",
        column: [{"result": [{"value": {"start": 0, "end": 2, "labels": ["PER"]}}]}]
        if column == "annotations"
        else [{"start": 0, "end": 2, "label": "PER"}],
    }
    read = build(str(write_jsonl(tmp_path / "r.jsonl", [good, good, row])), DataConfig(train="-"))
    assert (len(read), read.facts["num_rejected"]) == (2, 1)


def test_vectors_in_any_type(tmp_path: Path) -> None:
    for cells in ([[0.0, 1.0], [1.0, 0.0]], ["[0, 1]", "[1, 0]"], [[0, 1], [], [1, 0]]):
        rows = [{"text": f"第{i}句", "labels": cell} for i, cell in enumerate(cells)]
        file = str(write_jsonl(tmp_path / "r.jsonl", rows))
        with pytest.raises(DataError, match="vectors of 0 and 1"):
            build(file, DataConfig(train="-"), "labels")


def test_a_header_of_data_is_refused_with_columns(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("review,sentiment\n好,1\n差,0\n", encoding="utf-8")
    with pytest.raises(DataError, match="looks like column names"):
        build(str(tmp_path / "r.csv"), DataConfig(train="-", columns=("text", "label")))


def test_a_first_row_whose_label_comes_once_more_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "query,what is this\nstatement,it is here\nstatement,go away\nquery,where is it\n", encoding="utf-8"
    )
    read = build(str(tmp_path / "r.csv"), DataConfig(train="-"))
    assert (len(read), set(read.column("label"))) == (4, {"query", "statement"})


def test_a_quotation_mark_that_opens_nothing_swallows_no_row_of_a_tab_file(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_text('text\tlabel\n"引号开头\t1\n普通\t0\n结尾引号"\t1\n四\t0\n', encoding="utf-8")
    read = build(str(tmp_path / "r.tsv"), DataConfig(train="-"))
    assert "普通" in read.column("text")
    assert len(read) + read.facts["num_rejected"] == 4


def test_one_conversation_as_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(
        json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    )
    assert build(str(tmp_path / "r.json"), DataConfig(train="-")).facts["name"] == "messages"


def test_blank_first_lines_and_sheets_keep_their_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("\n\n" + CSV, encoding="utf-8")
    read = build(str(tmp_path / "r.csv"), DataConfig(train="-"))
    assert (len(read), read.facts["skipped"], read.ids([0])) == (20, {}, ["r.csv:4"])
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (the extra `excel`)")
    book = openpyxl.Workbook()
    for cells in ([], ["text", "label"], ["好", "a"], [], ["差", "b"]):
        book.active.append(cells)
    book.save(tmp_path / "r.xlsx")
    assert [row.line for row in read_rows(str(tmp_path / "r.xlsx"))][-1] == book.active.max_row


def test_a_parquet_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "text"]), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="the column 'text' twice"):
        build(str(tmp_path / "r.parquet"), DataConfig(train="-"))


def test_what_an_archive_holds_beside_its_data_is_a_finding(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("data/r.csv", CSV)
        archive.writestr("README.md", "about")
    report = weitiao.data.check(tmp_path / "r.zip")
    (found,) = [f for f in report.findings if f.code == "ignored_files"]
    assert (report.num_rows, found.where) == (20, ("r.zip/README.md",))


def test_a_task_that_nobody_annotated_is_no_row_without_entities(tmp_path: Path) -> None:
    def task(*annotations: dict[str, Any]) -> dict[str, object]:
        return {"data": {"text": "张三去北京"}, "annotations": list(annotations)}

    name = {"value": {"start": 0, "end": 2, "labels": ["PER"]}}
    rows = [task({"result": [name]}), task({"result": []}), task()]
    read = build(str(write_jsonl(tmp_path / "r.jsonl", rows)), DataConfig(train="-"))
    assert (len(read), read.facts["num_rejected"]) == (2, 1)
    assert [row["reason"].split("\n")[0] for row in read.rejected()] == ["no annotation in annotations."]


def test_a_key_that_stands_twice_rejects_the_row(tmp_path: Path) -> None:
    good = '{"text": "好", "label": "pos"}'
    (tmp_path / "r.jsonl").write_text(f'{good}\n{{"text": "差", "label": "pos", "label": "neg"}}\n', encoding="utf-8")
    read = build(str(tmp_path / "r.jsonl"), DataConfig(train="-"))
    assert [row["reason"] for row in read.rejected()] == ["the key 'label' stands twice"]
    twice = '{"text": "差", "meta": {"a": 1, "a": 2}, "label": "neg"}'
    (tmp_path / "r.json").write_text(f"[{good}, {twice}]", encoding="utf-8")
    read = build(str(tmp_path / "r.json"), DataConfig(train="-"))
    assert [(row["id"], row["reason"]) for row in read.rejected()] == [("r.json:2", "the key 'a' stands twice")]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a", "text": "b"}, {"text": NaN}]',
        '[{"text": "a", "text": "b"}, {"te',
        '{"data": [{"text": "a"}], "data": [{"text": "b"}]}',
    ],
)
def test_a_key_that_stands_twice_hides_no_other_fault(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError):
        build(str(tmp_path / "r.json"), DataConfig(train="-", bad_rows="skip"))


def test_lines_of_json_under_another_name(tmp_path: Path) -> None:
    good = '{"text": "好", "label": "pos"}'
    (tmp_path / "r.json").write_text(f'{{"text": "a", "text": "b"}}\n{good}\n{good}', encoding="utf-8")
    read = build(str(tmp_path / "r.json"), DataConfig(train="-"))
    assert (len(read), read.facts["num_rejected"]) == (2, 1)


def test_yaml_says_what_is_written(tmp_path: Path) -> None:
    """YAML's first version makes False of no, 750 of 12:30, and a date of 2024-01-01."""
    (tmp_path / "r.yaml").write_text(
        "- {text: a, label: yes}\n- {text: b, label: no}\n- {text: c, label: 007}\n- {text: 2024-01-01, label: 1}\n"
        "- {text: d, label: true}\n",
        encoding="utf-8",
    )
    read = build(str(tmp_path / "r.yaml"), DataConfig(train="-"))
    assert read.column("label") == ["yes", "no", "007", "1", "True"]
    assert read.column("text") == ["a", "b", "c", "2024-01-01", "d"]
    (tmp_path / "c.yml").write_text(
        "conversations:\n- - Are you human?\n  - No\n- - When?\n  - 12:30\n- - q\n  -\n  - a\n- - q\n  - null\n",
        encoding="utf-8",
    )
    read = build(str(tmp_path / "c.yml"), DataConfig(train="-"))
    talks = [json.loads(text)["messages"] for text in read.column("messages")]
    assert [talk[1]["content"] for talk in talks] == ["No", "12:30"]
    reasons = [row["reason"].split("\n")[0] for row in read.rejected()]
    assert reasons == ["a conversation with a turn that is empty or no text"] * 2
