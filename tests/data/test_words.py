"""Words with tags: schemes, files, what the tokenizer makes of words, windows, entities. Every label survives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weitiao
from conftest import write_jsonl
from weitiao.config.data import DataConfig
from weitiao.data.checking import check
from weitiao.data.encode import Encoded
from weitiao.data.prepare import prepare
from weitiao.data.read import read_rows
from weitiao.data.tags import tag_names, to_bio
from weitiao.data.words import encode_words, joined, split
from weitiao.errors import DataError
from weitiao.tasks import token_classification as task

NAMES = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
CLASSES = {name: i for i, name in enumerate(NAMES)}


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("B-PER I-PER O B-LOC B-LOC", "B-PER I-PER O B-LOC B-LOC"),
        ("B-PER E-PER O S-LOC S-LOC", "B-PER I-PER O B-LOC B-LOC"),  # BIOES
        ("B-PER I-PER L-PER U-LOC O", "B-PER I-PER I-PER B-LOC O"),  # BILOU
        ("B-PER M-PER E-PER S-LOC O", "B-PER I-PER I-PER B-LOC O"),  # BMES
        ("B-geo-loc I-geo-loc O O O", "B-geo-loc I-geo-loc O O O"),
    ],
)
def test_schemes_become_bio(given: str, expected: str) -> None:
    assert to_bio(words("a b c d e"), words(given)) == words(expected)


def test_iob1_has_to_be_said() -> None:
    """Its I- may begin an entity, which in BIO is a mistake."""
    tags = words("I-PER I-PER B-PER I-LOC O I-LOC")
    with pytest.raises(DataError, match=r"word 1, 'a': I-PER after nothing.*\n.*\n.*data\.tag_scheme=iob1"):
        to_bio(words("a b c d e f"), tags)
    assert to_bio(words("a b c d e f"), tags, "iob1") == words("B-PER I-PER B-PER B-LOC O B-LOC")
    with pytest.raises(DataError, match="no known scheme"):
        to_bio(["a"], ["S-PER"], "iob1")


BAD: list[tuple[Any, Any, str]] = [
    (["a", "b"], ["O"], "differ in number (2 words, 1 tags)"),
    ([], [], "no words"),
    ("ab", ["O", "O"], "not two lists"),
    (["a"], ["PER"], "no known scheme (word 1, 'a': 'PER')"),
    (["a"], ["B-"], "no known scheme"),
    (["a"], [3], "tags that are numbers"),
    (["a"], [None], "no known scheme"),
    (["a", ""], ["O", "O"], "a word that is no text (word 2: '')"),
    (["a", 5], ["O", "O"], "a word that is no text (word 2: 5)"),
    (["a", "b"], ["O", "I-PER"], "continues no entity (word 2, 'b': I-PER after O)"),
    (["a", "b"], ["B-LOC", "I-PER"], "continues no entity (word 2, 'b': I-PER after B-LOC)"),
    (["a", "b", "c"], ["B-PER", "O", "S-LOC"], "without its end (word 1, 'a': B-PER)"),
    (["a", "b"], ["S-LOC", "B-PER"], "without its end (word 2, 'b': B-PER)"),
    (["a", "b"], ["S-LOC", "E-LOC"], "continues no entity"),
]


@pytest.mark.parametrize(("given", "tags", "told"), BAD, ids=[told for *_, told in BAD])
def test_bad_rows_are_refused_by_file_and_line(given: Any, tags: Any, told: str, tmp_path: Path) -> None:
    """And left out, counted, where the policy says so."""
    good = [{"tokens": list(f"张三在{c}"), "tags": ["B-PER", "I-PER", "O", "B-LOC"]} for c in "京津沪渝港"]
    file = write_jsonl(tmp_path / "r.jsonl", [good[0], {"tokens": given, "tags": tags}, *good[1:]])
    data = DataConfig(train=str(file), test_size=1, near_duplicates="off")
    with pytest.raises(DataError) as caught:
        prepare(data, "tokens")
    assert str(caught.value).startswith("r.jsonl:2: ")
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) >= 3
    kept = prepare(data.model_copy(update={"bad_rows": "skip"}), "tokens")
    assert kept.report["train"]["num_rejected"] == 1
    assert len(kept.train) + len(kept.eval) == 5


CONLL = "-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects VBZ O\n\n北\tNR\tB-LOC\n京\tNR\tI-LOC\n　 PU O\n\n\n"


@pytest.mark.parametrize("name", ["n.conll", "n.bio", "n.txt"])
def test_conll_files_by_name_or_content(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(CONLL, encoding="utf-8")
    rows = list(read_rows(str(tmp_path / name)))
    assert [row.fields for row in rows] == [
        {"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]},
        {"tokens": ["北", "京", "　"], "ner_tags": ["B-LOC", "I-LOC", "O"]},  # a full-width blank is a token
    ]
    assert [row.id for row in rows] == [f"{name}:3", f"{name}:6"]


def test_a_text_file_stays_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("很好 O\n就是 这样\n", encoding="utf-8")
    assert [row.fields for row in read_rows(str(tmp_path / "n.txt"))] == [{"text": "很好 O"}, {"text": "就是 这样"}]


@pytest.mark.parametrize("columns", [("tokens", "tags"), ("words", "labels"), ("tokens", "ner_tags")])
def test_column_names(columns: tuple[str, str], tmp_path: Path) -> None:
    rows = [dict(zip(columns, (["张", "三", city], ["B-PER", "I-PER", "B-LOC"]), strict=True)) for city in "京津沪"]
    prepared = prepare(DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), near_duplicates="off", test_size=1), "tokens")  # fmt: skip
    assert prepared.label_names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert sorted(prepared.train.texts + prepared.eval.texts) == sorted(f"张三{city}" for city in "京津沪")
    assert prepared.report["label_counts_train"] == {"O": 0, "B-LOC": 2, "I-LOC": 0, "B-PER": 2, "I-PER": 2}


def test_named_columns(tmp_path: Path) -> None:
    rows = [{"字": ["张", "三", city], "标": ["B-PER", "I-PER", "B-LOC"]} for city in "京津沪"]
    data = DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), text="字", label="标", test_size=1)
    assert len(prepare(data.model_copy(update={"near_duplicates": "off"}), "tokens").train) == 2


def test_tag_scheme_changes_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "n.conll").write_text("".join(f"EU{i} I-ORG\nrejects{i} O\n\n" for i in range(4)), encoding="utf-8")
    data = DataConfig(train=str(tmp_path / "n.conll"), near_duplicates="off", test_size=1)
    with pytest.raises(DataError, match=r"n\.conll:1: a tag that continues no entity"):
        prepare(data, "tokens")
    side = prepare(data.model_copy(update={"tag_scheme": "iob1"}), "tokens").train
    assert {tuple(tags) for _, tags in side.tagged} == {("B-ORG", "O")}


def test_sentences_under_different_tags_are_conflicts(tmp_path: Path) -> None:
    rows = [{"tokens": list("张三来了"), "tags": [*tags, "O", "O"]} for tags in (["B-PER", "I-PER"], ["O", "O"])]
    rows += [{"tokens": [*"李四在", city], "tags": ["B-PER", "I-PER", "O", "B-LOC"]} for city in "京津沪渝"]
    data = DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), near_duplicates="off", test_size=1)
    report = prepare(data, "tokens").report
    assert report["train"]["conflicts_dropped"] == 2
    found = {finding.code: finding for finding in check(data).findings}
    assert found["conflicts"].where == ("r.jsonl:1", "r.jsonl:2")


def test_the_check_counts_entities(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"tokens": [*"孩子喜欢", c], "tags": ["O"] * 4 + ["B-LOC"]} for c in "酒店好书服务脏差质量千万"]
    report = check(
        DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows))), model=str(tiny_model), output=tmp_path
    )
    assert report.label_counts == {"LOC": 12}
    assert report.lengths["percentiles"]["100"] == 7  # five characters, [CLS] and [SEP]
    assert "Entities a type" in (tmp_path / "data_report.html").read_text(encoding="utf-8")
    none = [{"tokens": row["tokens"], "tags": ["O"] * 5} for row in rows]
    report = check(write_jsonl(tmp_path / "none.jsonl", none))
    assert "no_entities" in {finding.code for finding in report.errors}
    with pytest.raises(DataError, match="at least one entity"):
        prepare(DataConfig(train=str(tmp_path / "none.jsonl"), near_duplicates="off"), "tokens")


def test_an_unknown_type_on_the_evaluation_side(tmp_path: Path) -> None:
    def file(name: str, kind: str) -> str:
        rows = [{"tokens": [*name, city], "tags": [*"O" * len(name), f"B-{kind}"]} for city in "京津沪"]
        return str(write_jsonl(tmp_path / f"{name}.jsonl", rows))

    with pytest.raises(DataError, match=r"labels that no training row has: \['B-ORG'\]"):
        prepare(DataConfig(train=file("去", "LOC"), eval=file("从", "ORG"), near_duplicates="off"), "tokens")


def test_rows_of_another_task_are_refused(rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected words with a tag each"):
        prepare(DataConfig(train=str(rows_file)), "tokens")
    file = write_jsonl(tmp_path / "r.jsonl", [{"tokens": ["a"], "tags": ["B-X"]}])
    with pytest.raises(DataError, match="task=token_classification"):
        prepare(DataConfig(train=str(file)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("江泽民在北京。", "江 泽 民 在 北 京 。"),
        ("He's in New York, 2024!", "He ' s in New York , 2024 !"),
        ("在Washington访问３天", "在 Washington 访 问 ３ 天"),
        ("  カナ\tも  ", "カ ナ も"),
        ("हिन्दी में", "हिन्दी में"),
        ("", ""),
    ],
)
def test_texts_are_cut_into_words(text: str, expected: str) -> None:
    assert [text[start:end] for start, end in split(text)] == words(expected)


def test_words_become_a_text() -> None:
    """Each word stands where its span says, with blanks where the script has them."""
    for given, expected in (
        ("江 泽 民 在 New York 。", "江泽民在New York。"),
        ("EU rejects German call", "EU rejects German call"),
        ("说 “ 好 ” — 他", "说“好”—他"),
    ):
        text, spans = joined(words(given))
        assert text == expected
        assert [text[start:end] for start, end in spans] == words(given)
    assert joined(["京", "\u3000", "A"])[0] == "京\u3000A"


def labels_back(encoded: Encoded) -> list[list[str]]:
    """The tags of every row as the loss sees them: read off the labels of collated batches."""
    rows: dict[int, list[str]] = {}
    for i, owner in enumerate(encoded.owner.tolist()):
        labels = task.collate(encoded, [i], 0)["labels"][0]
        rows.setdefault(owner, []).extend(NAMES[label] for label in labels[labels != task.IGNORED].tolist())
    return list(rows.values())


ROWS = [
    (list("江泽民在北京会见客人"), words("B-PER I-PER I-PER O B-LOC I-LOC O O O O")),
    (words("EU rejects German call to boycott British lamb ."), words("B-ORG O B-LOC O O O B-LOC O O")),
    ([*"在", "Washington", *"访问", "３", "天"], words("O B-LOC O O O O")),
    (
        ["\u3000", "\u200b", "\x07", "京", "𠮷", "👍🏽", "ﬁ", "２", "▁", "<mask>"],
        words("O B-LOC I-LOC I-LOC O O B-PER O O B-ORG"),
    ),
    (["unbelievably-long-Donaudampfschifffahrtsgesellschaft", "京"], words("B-ORG B-LOC")),
]


@pytest.mark.parametrize("model", ["e5", "minilm", pytest.param("smollm", marks=pytest.mark.beyond_test), "tiny_model"])
def test_every_label_survives(model: str, request: pytest.FixtureRequest) -> None:
    """Whatever the tokenizer: Unigram with marks, WordPiece, byte-level BPE, single characters."""
    from transformers import AutoTokenizer

    from weitiao.catalogue import fetch

    folder = fetch("all-MiniLM-L6-v2") if model == "minilm" else request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for max_length, over_length in ((512, "fail"), (8, "window"), (4, "window")):
        if model == "tiny_model" and over_length == "fail":
            continue  # it knows few characters, and each is a token
        encoded = encode_words(ROWS, CLASSES, tokenizer, max_length, over_length)
        assert labels_back(encoded) == [tags for _, tags in ROWS]
        assert max(encoded.lengths) <= max_length
        assert np.concatenate(encoded.gold).tolist() == [CLASSES[tag] for _, tags in ROWS for tag in tags]


def test_e5_sees_characters_without_marks(e5: Path) -> None:
    """A character a token, each carrying its own tag; the mark stands at the start alone, as in any text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(e5)
    encoded = encode_words(ROWS[:1], CLASSES, tokenizer, 512)
    tokens = tokenizer.convert_ids_to_tokens(encoded.row(0).tolist())
    assert tokens == ["<s>", "▁", *"江泽民在北京会见客人", "</s>"]
    assert np.flatnonzero(encoded.supervised).tolist() == list(range(2, 12))
    by_library = tokenizer(ROWS[0][0], is_split_into_words=True).tokens()
    assert "▁在" in by_library  # some characters have a token with the mark in it
    assert len(by_library) > 1.5 * len(tokens)
    # the lines of docs/ner.md
    ids = tokenizer.convert_tokens_to_ids([token.removeprefix("▁") for token in by_library if token != "▁"])
    assert ids == [i for i in encoded.row(0).tolist() if i != tokenizer.convert_tokens_to_ids("▁")]


@pytest.mark.parametrize("model", ["multilingual-e5-small", "all-MiniLM-L6-v2"])
def test_spaced_words_are_encoded_as_the_library_does(model: str) -> None:
    """Ids and alignment of transformers' own is_split_into_words and word_ids."""
    from transformers import AutoTokenizer

    from weitiao.catalogue import fetch

    tokenizer = AutoTokenizer.from_pretrained(fetch(model))
    for given, tags in (ROWS[1], (words("Donaudampfschifffahrt überquert Ærøskøbing sehr unwahrscheinlicherweise"), words("O O B-LOC O O"))):  # fmt: skip
        encoded = encode_words([(given, tags)], CLASSES, tokenizer, 512)
        theirs = tokenizer(given, is_split_into_words=True)
        assert encoded.row(0).tolist() == theirs["input_ids"]
        word_ids = theirs.word_ids()
        carriers = np.flatnonzero(encoded.supervised).tolist()
        assert [word_ids[place] for place in carriers] == list(range(len(given)))
        for place, word in zip(carriers, range(len(given)), strict=True):
            first = word_ids.index(word)
            skipped = tokenizer.convert_ids_to_tokens(theirs["input_ids"][first:place])
            assert set(skipped) <= {"▁"}


def test_over_length(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [(list("孩子喜欢看书"), words("B-PER I-PER O O O B-LOC")), (["好"], ["O"])]
    windows = encode_words(rows, CLASSES, tokenizer, 6, "window")
    assert (windows.lengths, windows.owner.tolist(), windows.num_over_length, windows.tokens_lost) == ([6, 4, 3], [0, 0, 1], 1, 0)  # fmt: skip
    cut = encode_words(rows, CLASSES, tokenizer, 6, "truncate")
    assert (cut.lengths, cut.tokens_lost) == ([6, 3], 2)
    assert labels_back(cut) == [["B-PER", "I-PER", "O", "O"], ["O"]]
    assert [len(row) for row in cut.gold] == [6, 1]  # what was cut is still there to be found
    dropped = encode_words(rows, CLASSES, tokenizer, 6, "drop")
    assert (dropped.kept.tolist(), [len(row) for row in dropped.gold]) == ([1], [1])
    with pytest.raises(DataError, match=r"r\.conll:7 has 8 tokens"):
        encode_words(rows, CLASSES, tokenizer, 6, "fail", ids=["r.conll:7", "r.conll:14"])


def test_metrics_are_conllevals() -> None:
    """Worked by hand: of three true and three predicted entities one agrees in type, first and last word."""
    gold = [[CLASSES[t] for t in words("B-PER I-PER O B-LOC I-LOC")], [CLASSES[t] for t in words("O B-ORG")]]
    said = [words("B-PER I-PER O B-LOC O"), words("I-ORG I-ORG")]  # an I- that continues nothing begins an entity
    scores = np.full((7, len(NAMES)), -2.0, dtype=np.float32)
    for row, tag in enumerate(tag for tags in said for tag in tags):
        scores[row, CLASSES[tag]] = 2.0
    found = task.metrics(scores, [np.array(row) for row in gold], NAMES)
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert {k: v["f1"] for k, v in found["per_type"].items()} == {"LOC": 0.0, "ORG": 0.0, "PER": 1.0}
    assert found["f1_macro"] == pytest.approx(1 / 3)
    assert found["token_accuracy"] == pytest.approx(4 / 7)
    assert (found["num_rows"], found["num_words"], found["num_entities"]) == (2, 7, 3)
    right = -np.log(np.exp(2) / (np.exp(2) + 6 * np.exp(-2)))
    assert found["log_loss"] == pytest.approx((4 * right + 3 * (right + 4)) / 7)
    empty = task.metrics(np.eye(7, dtype=np.float32)[[0, 0]], [np.array([0, 0])], NAMES)
    assert (empty["f1"], empty["token_accuracy"], empty["per_type"]) == (0.0, 1.0, {})


def test_entities_stand_where_they_say() -> None:
    texts = ["江泽民在 New York 访问"]
    spans = split(texts[0])
    given = [texts[0][a:b] for a, b in spans]
    tags = words("B-PER I-PER I-PER O B-LOC I-LOC O O")
    scores = np.array([[4.0 if name == tag else 0.0 for name in NAMES] for tag in tags], dtype=np.float32)
    (answer,) = task.decode([given], scores, NAMES, [(texts[0], spans)])
    assert [(e["type"], e["text"], e["start"], e["end"]) for e in answer["entities"]] == [
        ("PER", "江泽民", 0, 3),
        ("LOC", "New York", 5, 13),
    ]
    assert all(texts[0][e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    assert answer["entities"][0]["score"] == pytest.approx(np.exp(4) / (np.exp(4) + 6))


def test_tag_names_are_complete() -> None:
    assert tag_names(["O", "B-LOC", "B-PER"]) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.mark.beyond_test
def test_every_label_of_the_peoples_daily_survives(e5: Path) -> None:
    from transformers import AutoTokenizer

    from weitiao.catalogue import fetch

    rows = [json.loads(line) for line in fetch("peoples-daily-ner").read_text(encoding="utf-8").splitlines()[::10]]
    tagged = [(row["tokens"], to_bio(row["tokens"], row["ner_tags"])) for row in rows]
    assert [tags for _, tags in tagged] == [row["ner_tags"] for row in rows]
    encoded = encode_words(tagged, CLASSES, AutoTokenizer.from_pretrained(e5), 256)
    assert labels_back(encoded) == [tags for _, tags in tagged]
    marks = len(encoded.flat) - encoded.supervised.sum() - 2 * len(encoded)
    assert marks < 0.05 * len(encoded.flat)  # nearly every token is a word
    report = weitiao.data.check(DataConfig(train="peoples-daily-ner", near_duplicates="off"))
    assert report.num_rows == 19484
    assert not report.errors
