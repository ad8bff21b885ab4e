"""What is wrong or odd with rows, before they train anything. Nothing is changed; each finding names its fix."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from weitiao.config.data import DataConfig
from weitiao.data.chat_rows import REFUSED
from weitiao.data.near_duplicates import near_pairs
from weitiao.data.prepare import FEW_EMPTY, groups_of
from weitiao.data.side import Side
from weitiao.data.suspicious import has_control, has_replacement, is_mojibake, script_of
from weitiao.data.table import EMPTY, Table, build
from weitiao.data.tags import count_entities
from weitiao.errors import DataError

Severity = Literal["error", "warning", "info"]
Say = Callable[[str], None]
# Of each row: its tokens, uncut; of conversations also the places of the first and the last token
# that is learnt, and REFUSED tokens where the chat template does not render it.
Lengths = tuple[Sequence[int], Sequence[int], Sequence[int]]
_SHOWN = 20
_NEAR_ROWS = 200_000  # the MinHash index of more rows would not fit an ordinary machine
_PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad, how many rows, where (file:line), and what settles it."""

    code: str
    severity: Severity
    count: int
    message: str
    fix: str
    where: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataReport:
    """All findings, worst first, and the figures behind the plots."""

    source: str
    num_rows: int
    format: dict[str, Any]
    findings: tuple[Finding, ...]
    label_counts: dict[str, int]
    lengths: dict[str, Any]
    scripts: dict[str, int]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect(
    config: DataConfig,
    lengths_of: Callable[[Table], Lengths] | None = None,
    say: Say = lambda message: None,
    kind: str | None = None,
) -> DataReport:
    """Look at the rows of a configuration.

    Args:
        lengths_of: counts tokens, when a model is known; else characters are counted.
        say: told what is being done.
        kind: what the task needs; see :func:`weitiao.data.table.build`.

    Raises:
        DataError: nothing could be read at all.
    """
    say(f"reading {config.train}")
    table = build(config.train, config, kind)
    findings = _rejected(table, config)
    if ignored := table.facts["ignored"]:
        names = tuple(ignored[:_SHOWN])
        findings.append(Finding("ignored_files", "warning", len(ignored), "files in the folder that were not read", "give them a known ending, or name them", names))  # fmt: skip
    scripts: Counter[str] = Counter()
    say(f"looking at {len(table):,} rows")
    findings += _texts(table, scripts)
    labels: dict[str, int] = {}
    if table.kind == "classification":
        labels = dict(sorted(Counter(table.column("label")).items(), key=lambda item: -item[1]))
        findings += _labels(table, labels)
    if table.kind == "labels":
        labels = dict(Counter(Side(table, np.arange(len(table))).every_label).most_common())
        findings += _label_sets(table, labels)
    if table.kind == "number":
        findings += _numbers(table)
    if table.kind == "tokens":
        labels = count_entities(tags for _, tags in Side(table, np.arange(len(table))).tagged)
        findings += _types(table, labels)
    findings += _equal(table, config)
    if config.near_duplicates != "off":
        say("looking for near-duplicates")
        findings += _near(table, config)
    if config.eval is not None:
        findings += _across(table, build(config.eval, config, kind), config)
    say("counting lengths")
    lengths, found = _lengths(table, config, lengths_of)
    order = {"error": 0, "warning": 1, "info": 2}
    ranked = sorted([*findings, *found], key=lambda f: (order[f.severity], -f.count))
    facts = {key: table.facts[key] for key in ("name", "kind", "reason", "columns", "encodings", "num_rejected")}
    return DataReport(str(config.train), len(table), facts, tuple(ranked), labels, lengths, dict(scripts.most_common()))


def _finding(
    code: str, severity: Severity, table: Table, rows: Sequence[int], message: str, fix: str, show: bool = True
) -> Finding:
    some = list(rows[:_SHOWN])
    texts = tuple(text[:80] for text in table.column("text", some[:5])) if show else ()
    return Finding(code, severity, len(rows), message, fix, tuple(table.ids(some)), texts)


def _rejected(table: Table, config: DataConfig) -> list[Finding]:
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.rejected():
        reason = row["reason"].split("\n")[0].split(" (")[0]
        by_reason[EMPTY if reason.startswith(EMPTY) else reason].append(row)
    strict: Severity = "error" if config.bad_rows == "fail" else "warning"
    few = table.facts["num_empty"] <= FEW_EMPTY * (len(table) + table.facts["num_empty"])
    return [
        Finding(
            "empty" if reason == EMPTY else "rejected",
            "warning" if reason == EMPTY and few else strict,
            len(rows),
            f"rows left out: {reason}" if reason == EMPTY else f"rows that cannot be used: {reason}",
            "correct them, or data.bad_rows=skip",
            tuple(row["id"] for row in rows[:_SHOWN]),
            tuple(row["found"][:80] for row in rows[:5]),
        )
        for reason, rows in by_reason.items()
    ]


def _texts(table: Table, scripts: Counter[str]) -> list[Finding]:
    found: dict[str, list[int]] = defaultdict(list)
    tests = {"control": has_control, "replacement": has_replacement, "mojibake": is_mojibake}
    position = 0
    for batch in table.rows.to_batches():
        for text, pair in zip(batch.column("text").to_pylist(), batch.column("text_pair").to_pylist(), strict=True):
            whole = text if pair is None else f"{text}\n{pair}"
            scripts[script_of(whole)] += 1
            for name, test in tests.items():
                if test(whole):
                    found[name].append(position)
            if len(whole.strip()) == 1:
                found["single"].append(position)
            position += 1
    words: dict[str, tuple[Severity, str, str]] = {
        "control": ("warning", "texts with control characters", "clean them at the source"),
        "replacement": ("warning", "texts with U+FFFD, where a byte was lost", "decode the original file again"),
        "mojibake": ("warning", "texts that were decoded in a wrong encoding", "decode the original file again"),
        "single": ("info", "texts of a single character", "look whether they carry meaning"),
    }
    findings = [_finding(name, *words[name][:1], table, rows, *words[name][1:]) for name, rows in found.items()]
    total = sum(scripts.values())
    if len(scripts) > 1:
        shares = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in scripts.most_common())
        minority = total - scripts.most_common(1)[0][1]
        findings.append(Finding("scripts", "info", minority, f"scripts: {shares}", "use a model that knows them all"))
    return findings


def _labels(table: Table, counts: dict[str, int]) -> list[Finding]:
    findings: list[Finding] = []
    labels = table.column("label")
    if len(counts) < 2:
        findings.append(Finding("one_label", "error", len(table), f"all rows have the label {next(iter(counts))!r}", "add rows of another label, or name the right column: data.label=COLUMN"))  # fmt: skip
        return findings
    if len(counts) > max(20, len(table) / 2):
        message = f"{len(counts):,} labels in {len(table):,} rows: this column is hardly a label"
        findings.append(
            Finding("many_labels", "error", len(counts), message, "name the right column: data.label=COLUMN")
        )
    rare = [label for label, n in counts.items() if n < 10]
    if rare and len(rare) < len(counts):
        rows = [i for i, label in enumerate(labels) if label in set(rare)]
        names = ", ".join(f"{label!r} ({counts[label]})" for label in rare[:8])
        findings.append(_finding("rare_labels", "warning", table, rows, f"labels with fewer than 10 rows: {names}", "add rows, merge labels, or leave them out"))  # fmt: skip
    most, least = max(counts.values()), min(counts.values())
    if most > 10 * least:
        findings.append(Finding("imbalance", "warning", least, f"the most frequent label has {most / least:.0f} times the rows of the rarest", "train.class_weights=balanced, and read f1_macro rather than accuracy"))  # fmt: skip
    variants: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        variants["".join(label.casefold().split())].append(label)
    for same in variants.values():
        if len(same) > 1:
            fewer = min(same, key=lambda label: counts[label])
            rows = [i for i, label in enumerate(labels) if label == fewer]
            findings.append(_finding("label_variants", "warning", table, rows, f"labels that differ only in case or blanks: {', '.join(map(repr, same))}", "write them alike"))  # fmt: skip
    return findings


def _label_sets(table: Table, counts: dict[str, int]) -> list[Finding]:
    """``counts``: rows of each label."""
    if not counts:
        return [Finding("no_labels", "error", len(table), "no row has a label", "name the column of the labels: data.label=COLUMN")]  # fmt: skip
    findings = []
    bare = [i for i, labels in enumerate(table.column("label")) if labels == "[]"]
    if bare:
        findings.append(_finding("unlabelled", "info", table, bare, "rows without any label", "they teach when to give none"))  # fmt: skip
    rare = [label for label, n in counts.items() if n < 10]
    if rare:
        names = ", ".join(f"{label!r} ({counts[label]})" for label in rare[:8])
        findings.append(Finding("rare_labels", "warning", len(rare), f"labels with fewer than 10 rows: {names}", "add rows, merge labels, or leave them out"))  # fmt: skip
    return findings


def _numbers(table: Table) -> list[Finding]:
    numbers = set(table.column("label"))
    if len(numbers) > 1:
        return []
    return [Finding("one_number", "error", len(table), f"all rows have the number {next(iter(numbers))}", "name the column of the numbers: data.label=COLUMN")]  # fmt: skip


def _types(table: Table, counts: dict[str, int]) -> list[Finding]:
    """``counts``: entities of each type."""
    if not counts:
        return [Finding("no_entities", "error", len(table), "no word has a tag other than O", "name the column of the tags: data.label=COLUMN")]  # fmt: skip
    rare = [kind for kind, n in counts.items() if n < 10]
    if not rare:
        return []
    names = ", ".join(f"{kind!r} ({counts[kind]})" for kind in rare[:8])
    few = f"types with fewer than 10 entities: {names}"
    return [Finding("rare_types", "warning", len(rare), few, "add rows, merge types, or leave them out")]


def _equal(table: Table, config: DataConfig) -> list[Finding]:
    findings = []
    if table.kind in ("classification", "tokens", "labels", "number"):
        _, is_first, conflicting = groups_of(Side(table, np.arange(len(table))))
    else:
        is_first, conflicting = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
        is_first[np.unique(table.keys, return_index=True)[1]] = True
    again = np.flatnonzero(~is_first).tolist()
    if again:
        exact = len(table) - len(
            table.rows.select(columns := ["text", "text_pair", "label", "messages"]).group_by(columns).aggregate([])
        )
        same = f"{exact:,} of them letter for letter with the same label"
        findings.append(_finding("duplicates", "warning", table, again, f"rows whose text stood before ({same})", f"data.duplicates={config.duplicates} applies; none is ever on both sides of a split"))  # fmt: skip
    rows = np.flatnonzero(conflicting).tolist()
    if rows:
        rows.sort(key=lambda i: table.keys[i].tobytes())  # equal texts side by side
        severity: Severity = "error" if config.conflicts == "fail" else "warning"
        findings.append(_finding("conflicts", severity, table, rows, "rows whose text stands under different labels", f"correct them; data.conflicts={config.conflicts} applies"))  # fmt: skip
    return findings


def _near(table: Table, config: DataConfig) -> list[Finding]:
    distinct = np.sort(np.unique(table.keys, return_index=True)[1])[:_NEAR_ROWS]
    texts = table.whole_texts(distinct)
    rows: list[int] = []
    examples: list[str] = []
    for later, earlier, alike in near_pairs(texts, None, config.near_threshold):
        rows.append(int(distinct[later]))
        if len(examples) < 5:
            examples.append(f"{alike:.2f}: {texts[later][:60]} | {texts[earlier][:60]}")
    rows = list(dict.fromkeys(rows))
    if not rows:
        return []
    note = f" (of the first {_NEAR_ROWS:,} distinct texts)" if len(distinct) == _NEAR_ROWS else ""
    message = f"rows that share {config.near_threshold:.0%} of their character n-grams with an earlier one{note}"
    fix = f"data.near_duplicates={config.near_duplicates} applies across the split"
    return [
        Finding("near_duplicates", "info", len(rows), message, fix, tuple(table.ids(rows[:_SHOWN])), tuple(examples))
    ]


def _across(table: Table, other: Table, config: DataConfig) -> list[Finding]:
    findings = _rejected(other, config)
    shared = np.flatnonzero(np.isin(table.keys, other.keys)).tolist()
    if shared:
        findings.append(_finding("overlap", "warning", table, shared, "training rows whose text is an evaluation row's too", "they are left out of training"))  # fmt: skip
    if config.near_duplicates != "off":
        own = sorted(set(range(len(table))) - set(shared))
        pairs = near_pairs(other.whole_texts(), table.whole_texts(own), config.near_threshold)
        rows = list(dict.fromkeys(own[i] for i, _, _ in pairs))
        if rows:
            fix = f"data.near_duplicates={config.near_duplicates} applies"
            findings.append(_finding("near_overlap", "warning", table, rows, "training rows nearly equal to an evaluation row", fix))  # fmt: skip
    return findings


def _lengths(
    table: Table, config: DataConfig, lengths_of: Callable[[Table], Lengths] | None
) -> tuple[dict[str, Any], list[Finding]]:
    """Percentiles and a histogram; with a tokenizer, what max_length would cut."""
    unit = "tokens" if lengths_of else "characters"
    if lengths_of is None:
        pairs = zip(table.column("text"), table.column("text_pair"), strict=True)
        counts = first = last = np.array([len(text) + len(pair or "") for text, pair in pairs])
    else:
        counts, first, last = map(np.asarray, lengths_of(table))
    refused, whole = np.flatnonzero(counts == REFUSED).tolist(), counts
    if len(refused) == len(counts):
        raise DataError(
            f"The chat template refuses all {len(counts):,} conversations of {config.train}.\nExpected some that it renders.\n"
            "Correct the rows, or give another template: data.chat_template=FILE"
        )
    counts = counts[counts != REFUSED]
    values, edges = np.histogram(counts, bins=min(60, max(1, int(counts.max()))))
    facts = {
        "unit": unit,
        "max_length": config.max_length,
        "mean": float(counts.mean()),
        "percentiles": {
            str(p): float(v) for p, v in zip(_PERCENTILES, np.percentile(counts, _PERCENTILES), strict=True)
        },
        "histogram": {"counts": values.tolist(), "edges": edges.tolist()},
    }
    if lengths_of is None:
        return facts, []
    findings = []
    if refused:
        findings.append(_finding("refused_by_template", "warning", table, refused, "conversations that the chat template refuses: left out", "correct them, or give another template by data.chat_template"))  # fmt: skip
    long = np.flatnonzero(whole > config.max_length).tolist()
    if long:
        lost = int((whole[long] - config.max_length).sum())
        severity: Severity = "error" if config.over_length == "fail" else "warning"
        message = (
            f"rows longer than {config.max_length} tokens ({lost:,} tokens, {100 * lost / counts.sum():.2f} % of all)"
        )
        fix = f"data.over_length={config.over_length} applies; raise data.max_length if the model allows"
        findings.append(_finding("over_length", severity, table, long, message, fix))
    if table.kind == "sft":
        mute = np.flatnonzero(first >= config.max_length).tolist()
        if mute and config.over_length != "drop":
            findings.append(_finding("no_supervision", "error", table, mute, "rows whose question alone fills max_length: nothing of the answer could be learnt", "raise data.max_length, or shorten them"))  # fmt: skip
        endless = np.flatnonzero((last >= config.max_length) & (first < config.max_length)).tolist()
        if endless:
            findings.append(_finding("no_stop", "warning", table, endless, "rows whose answer is cut, so that its end is never learnt", "raise data.max_length, or data.over_length=drop"))  # fmt: skip
    return facts, findings
