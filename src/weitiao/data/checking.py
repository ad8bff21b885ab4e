"""check(...): the report on a source, from the cache when rows, options and tokenizer are the same as before."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.config.comparison import CompareConfig
from weitiao.config.data import DataConfig
from weitiao.config.loading import is_config, load, read_yaml
from weitiao.config.run import RunConfig
from weitiao.config.task import TASK_OPTIONS, task_word
from weitiao.data.chat import chat_of
from weitiao.data.chat_rows import chat_lengths
from weitiao.data.chat_template import template_text
from weitiao.data.encode import fingerprint, token_lengths
from weitiao.data.findings import Lengths, inspect
from weitiao.data.page import report_page
from weitiao.data.reading_code import code_hash
from weitiao.data.report import DataReport, Finding
from weitiao.data.side import Side
from weitiao.data.table import Table, build
from weitiao.data.vocabulary import Vocabulary
from weitiao.data.words import word_lengths
from weitiao.errors import DataError
from weitiao.pretrained.load import load_tokenizer
from weitiao.rundir.files import write_atomic

Say = Callable[[str], None]


def check(
    source: str | Path | dict[str, Any] | RunConfig | DataConfig,
    *,
    model: str | None = None,
    task: str | None = None,
    output: str | Path | None = None,
    say: Say = lambda message: None,
) -> DataReport:
    """Look at data before it trains anything: what `weitiao data check` does.

    Args:
        source: a run configuration (its data and model are used), data options, or data itself (file, folder, name).
        model: whose tokenizer counts lengths; without one, and without a configuration, characters are counted.
        task: classification, multi_label or regression: how the labels are read, where ``source`` is no configuration that says it.
        output: a folder for data_report.json and data_report.html.

    Raises:
        DataError: nothing could be read at all.
    """
    if not isinstance(source, DataConfig):
        source, named, own = source_config(source)
        model, task = model or named, task or own
    config = source
    tokenizer = load_tokenizer(model) if model is not None else None
    asked = TASK_OPTIONS[task].rows if task in TASK_OPTIONS else None
    report = cached_report(config, tokenizer, say, asked)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "data_report.json", json.dumps(report.to_dict(), ensure_ascii=False, indent=2) + "\n")
        write_atomic(folder / "data_report.html", report_page(report))
    return report


def source_config(
    source: str | Path | dict[str, Any] | RunConfig, words: Sequence[str] = ()
) -> tuple[DataConfig, str | None, str | None]:
    """The data options, the model and the task that a source names.

    ``words`` are overrides (``data.bad_rows=skip``); a source that is data itself becomes ``data.train``.
    """
    if isinstance(source, RunConfig):
        return source.data, source.model, source.task
    if not isinstance(source, dict) and (Path(source) / "config.yaml").is_file():  # a run's folder
        source = Path(source) / "config.yaml"
    if isinstance(source, dict) or is_config(Path(source)):
        tree = source if isinstance(source, dict) else read_yaml(Path(source))
        kind: Any = CompareConfig if "compare" in tree else RunConfig
        config = load(kind, tree, words)
        return config.data, config.model, config.task
    # model and output are asked for by every run configuration; here they only let the same words be parsed
    task = {"task": "token_classification"} if any(w.startswith("data.tag_scheme=") for w in words) else {}
    config = load(RunConfig, {**task, "model": "-", "data": {"train": str(source)}, "output": {"dir": "-"}}, words)
    told = config.task if any(word.startswith("task=") for word in words) else None
    return config.data, None if config.model == "-" else config.model, told


def cached_report(
    config: DataConfig, tokenizer: Any, say: Say = lambda message: None, kind: str | None = None
) -> DataReport:
    """The report, kept beside the table it speaks of; ``kind``: what the task needs."""
    say(f"reading {config.train}")
    table = build(config.train, config, kind)
    other = build(config.eval, config, kind).folder.name if config.eval is not None else None
    options = config.model_dump(include={"max_length", "over_length", "bad_rows", "duplicates", "near_duplicates", "near_threshold", "conflicts", "chat_template", "train_on_prompt"})  # fmt: skip
    identity = [
        code_hash(),
        str(config.train),
        other,
        options,
        template_text(config.chat_template),  # the file's own text: the name stays when it is edited
        None if tokenizer is None else [fingerprint(tokenizer), str(tokenizer.chat_template)],
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    file = table.folder / f"check-{digest}.json"
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        findings = tuple(
            Finding(**{**f, "where": tuple(f["where"]), "examples": tuple(f["examples"])}) for f in kept.pop("findings")
        )
        return DataReport(**kept, findings=findings)
    known = (
        (None, None)
        if tokenizer is None
        else (partial(_lengths, config, tokenizer), partial(Vocabulary.of, tokenizer=tokenizer))
    )
    report = inspect(config, known[0], say, kind, vocabulary_of=known[1])
    write_atomic(file, json.dumps(report.to_dict(), ensure_ascii=False))
    return report


def _lengths(config: DataConfig, tokenizer: Any, table: Table) -> Lengths:
    """See :data:`weitiao.data.findings.Lengths`. Without a chat template, a conversation is counted as a pair of texts."""
    if table.kind.name == "sft" and (config.chat_template or tokenizer.chat_template):
        side = Side(table, np.arange(len(table)))
        return chat_lengths(side.conversations, chat_of(config, tokenizer), side.ids)
    if table.kind.name == "tokens":
        counts = word_lengths([words for words, _ in Side(table, np.arange(len(table))).tagged], tokenizer)
        return counts, counts, counts
    texts, pairs = table.column("text"), table.column("text_pair")
    counts = token_lengths(texts, pairs if pairs and pairs[0] is not None else None, tokenizer)
    return counts, token_lengths(texts, None, tokenizer) if table.kind.name == "sft" else counts, counts


def refuse_errors(report: DataReport, config: DataConfig, kind: str) -> None:
    """Raise DataError when the report, of rows of a ``kind``, holds errors and the configuration is strict."""
    if not report.errors or config.check == "warn":
        return
    lines = [
        f"  - {f.count:,} {f.message.rstrip('.')}. First at {f.where[0] if f.where else 'all'}. Fix: {f.fix}"
        for f in report.errors
    ]
    trains_anyway = all(finding.code not in ("rejected", "empty") for finding in report.errors)
    last = "\nTo train all the same: data.check=warn" if trains_anyway else ""
    raise DataError(
        f"The data check found errors in {report.source}:\n" + "\n".join(lines) + "\nExpected none. See all: "
        f"weitiao data check {report.source}{task_word(kind)}{last}"
    )
