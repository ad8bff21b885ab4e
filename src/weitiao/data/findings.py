"""What is wrong or odd with rows, before they train anything. Nothing is changed; each finding names its fix."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from weitiao.config.data import DataConfig
from weitiao.data.chat_rows import REFUSED
from weitiao.data.label_findings import LABEL_CHECKS, finding
from weitiao.data.near_duplicates import near_pairs
from weitiao.data.reading_findings import reading_findings
from weitiao.data.report import SHOWN, DataReport, Finding, FormatFacts, LengthFacts, Severity
from weitiao.data.side import Side
from weitiao.data.split import groups_of
from weitiao.data.suspicious import has_control, has_replacement, is_mojibake, script_of
from weitiao.data.table import Table, build
from weitiao.data.vocabulary import Vocabulary
from weitiao.errors import DataError

Say = Callable[[str], None]
# Of each row: its tokens, uncut; of conversations also the places of the first and the last token
# that is learnt, and REFUSED tokens where the chat template does not render it.
Lengths = tuple[Sequence[int], Sequence[int], Sequence[int]]
_NEAR_ROWS = 200_000  # the MinHash index of more rows would not fit an ordinary machine
_PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
_ORDER = {"error": 0, "warning": 1, "info": 2}


@dataclass
class Inspection:
    """What the checks look at, and the figures that they leave for the report."""

    config: DataConfig
    table: Table
    kind: str | None
    lengths_of: Callable[[Table], Lengths] | None
    vocabulary_of: Callable[[Table], Vocabulary] | None
    say: Say
    scripts: Counter[str] = field(default_factory=Counter)
    label_counts: dict[str, int] = field(default_factory=dict)
    lengths: LengthFacts | None = None


def inspect(
    config: DataConfig,
    lengths_of: Callable[[Table], Lengths] | None = None,
    say: Say = lambda message: None,
    kind: str | None = None,
    vocabulary_of: Callable[[Table], Vocabulary] | None = None,
) -> DataReport:
    """Look at the rows of a configuration.

    Args:
        lengths_of: counts tokens, when a model is known; else characters are counted.
        say: called with what is being done.
        kind: what the task needs; see :func:`weitiao.data.table.build`.
        vocabulary_of: looks the texts up in a tokenizer's vocabulary, when a model is known.

    Raises:
        DataError: nothing could be read at all.
    """
    say(f"reading {config.train}")
    seen = Inspection(
        config, build(config.train, config, kind), kind, lengths_of=lengths_of, vocabulary_of=vocabulary_of, say=say
    )
    found = [one for check in CHECKS for one in check(seen)]
    ranked = sorted(found, key=lambda f: (_ORDER[f.severity], -f.count))
    facts = seen.table.facts
    form: FormatFacts = {
        "name": facts["name"],
        "kind": facts["kind"],
        "reason": facts["reason"],
        "columns": facts["columns"],
        "encodings": facts["encodings"],
        "num_rejected": facts["num_rejected"],
    }
    assert seen.lengths is not None, "a check fills it"
    return DataReport(
        source=str(config.train),
        num_rows=len(seen.table),
        format=form,
        findings=tuple(ranked),
        label_counts=seen.label_counts,
        lengths=seen.lengths,
        scripts=dict(seen.scripts.most_common()),
    )


_DAMAGE: dict[str, tuple[Callable[[str], bool], Severity, str, str]] = {
    "control": (has_control, "warning", "texts with control characters", "clean them at the source"),
    "replacement": (
        has_replacement, "warning", "texts with U+FFFD, where a byte was lost", "decode the original file again",
    ),
    "mojibake": (
        is_mojibake, "warning", "texts that were decoded in a wrong encoding", "decode the original file again",
    ),
    "single": (
        lambda text: len(text.strip()) == 1, "info", "texts of a single character", "look whether they carry meaning",
    ),
}  # fmt: skip


def _texts(seen: Inspection) -> list[Finding]:
    """Damage, and the scripts that texts are written in."""
    table = seen.table
    seen.say(f"looking at {len(table):,} rows")
    found: dict[str, list[int]] = defaultdict(list)
    position = 0
    for batch in table.rows.to_batches():
        for text, pair in zip(batch.column("text").to_pylist(), batch.column("text_pair").to_pylist(), strict=True):
            whole = text if pair is None else f"{text}\n{pair}"
            seen.scripts[script_of(whole)] += 1
            for name, (is_damaged, *_) in _DAMAGE.items():
                if is_damaged(whole):
                    found[name].append(position)
            position += 1
    findings = []
    for name, rows in found.items():
        _, severity, message, fix = _DAMAGE[name]
        findings.append(finding(name, severity, table, rows, message=message, fix=fix))
    total = sum(seen.scripts.values())
    if len(seen.scripts) > 1:
        shares = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in seen.scripts.most_common())
        minority = total - seen.scripts.most_common(1)[0][1]
        findings.append(Finding("scripts", "info", minority, f"scripts: {shares}", "use a model that knows them all"))
    return findings


def _labels(seen: Inspection) -> list[Finding]:
    check = LABEL_CHECKS.get(seen.table.kind.name)
    if check is None:
        return []
    seen.label_counts, found = check(seen.table)
    facts = seen.table.facts
    if joined := facts["num_joined"]:
        message = "rows joined to an earlier one of the same text, since each row holds one label"
        found.append(
            Finding("joined_rows", "info", joined, message, "give all labels of a text in one row, to be sure")
        )
    if absent := facts["not_renamed"]:
        message = f"labels of data.label_map that no row has: {', '.join(map(repr, absent))}"
        found.append(Finding("label_map", "warning", len(absent), message, "write them as the rows do"))
    if merged := facts["merged_labels"]:
        message = (
            f"ways of writing a label that became another: {', '.join(f'{a!r} -> {b!r}' for a, b in merged.items())}"
        )
        found.append(Finding("merged_labels", "info", len(merged), message, "data.labels=canonical applies"))
    return found


def _equal_texts(seen: Inspection) -> list[Finding]:
    table, config = seen.table, seen.config
    findings = []
    if table.kind.is_labelled:
        _, is_first, conflicting = groups_of(Side(table, np.arange(len(table))))
    else:
        is_first, conflicting = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
        is_first[np.unique(table.keys, return_index=True)[1]] = True
    again = np.flatnonzero(~is_first).tolist()
    if again:
        columns = ["text", "text_pair", "label", "messages"]
        exact = len(table) - len(table.rows.select(columns).group_by(columns).aggregate([]))
        message = f"rows whose text stood before ({exact:,} of them letter for letter with the same label)"
        fix = f"data.duplicates={config.duplicates} applies; none is ever on both sides of a split"
        findings.append(finding("duplicates", "warning", table, again, message=message, fix=fix))
    rows = np.flatnonzero(conflicting).tolist()
    if rows:
        rows.sort(key=lambda i: table.keys[i].tobytes())  # equal texts side by side
        severity: Severity = "error" if config.conflicts == "fail" else "warning"
        message = "rows whose text stands under different labels"
        fix = f"correct them; data.conflicts={config.conflicts} applies"
        findings.append(finding("conflicts", severity, table, rows, message=message, fix=fix))
    return findings


def _near_duplicates(seen: Inspection) -> list[Finding]:
    table, config = seen.table, seen.config
    if config.near_duplicates == "off":
        return []
    seen.say("looking for near-duplicates")
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
    where = tuple(table.ids(rows[:SHOWN]))
    return [
        Finding(
            code="near_duplicates",
            severity="info",
            count=len(rows),
            message=message,
            fix=fix,
            where=where,
            examples=tuple(examples),
        )
    ]


def _across_sides(seen: Inspection) -> list[Finding]:
    """Rows of the training data that evaluation data given separately has too."""
    table, config = seen.table, seen.config
    if config.eval is None:
        return []
    other = build(config.eval, config, seen.kind, tuple(seen.label_counts))
    findings = [replace(one, message=f"evaluation rows: {one.message}") for one in reading_findings(other, config)]
    shared = np.flatnonzero(np.isin(table.keys, other.keys)).tolist()
    if shared:
        message = "training rows whose text is an evaluation row's too"
        findings.append(
            finding("overlap", "warning", table, shared, message=message, fix="they are left out of training")
        )
    findings += _labels_of_sides(seen, other)
    if config.near_duplicates != "off":
        own = sorted(set(range(len(table))) - set(shared))
        pairs = near_pairs(other.whole_texts(), table.whole_texts(own), config.near_threshold)
        rows = list(dict.fromkeys(own[i] for i, _, _ in pairs))
        if rows:
            message, fix = (
                "training rows nearly equal to an evaluation row",
                f"data.near_duplicates={config.near_duplicates} applies",
            )
            findings.append(finding("near_overlap", "warning", table, rows, message=message, fix=fix))
    return findings


def _labels_of_sides(seen: Inspection, other: Table) -> list[Finding]:
    """Labels that one side alone has: nothing is measured of the one, and nothing learnt of the other."""
    if not seen.table.kind.has_counts or not seen.label_counts or seen.table.kind.name == "tokens":
        return []
    own, others = set(seen.label_counts), set(Side(other, np.arange(len(other))).every_label)
    missing = sorted(own - others)
    if not missing:
        return []
    message = f"evaluation rows hold {len(own & others)} of {len(own)} labels; missing: {', '.join(missing[:8])}"
    fix = "take evaluation rows by lot: data.eval=FILE#N, or data.test_size=N with data.eval=FILE"
    return [Finding("eval_labels", "warning", len(other), message, fix)]


def _lengths(seen: Inspection) -> list[Finding]:
    """Percentiles and a histogram; with a tokenizer, what max_length would cut."""
    table, config = seen.table, seen.config
    seen.say("counting lengths")
    if seen.lengths_of is None:
        pairs = zip(table.column("text"), table.column("text_pair"), strict=True)
        seen.lengths = _length_facts(
            np.array([len(text) + len(pair or "") for text, pair in pairs]), "characters", config
        )
        return []
    counts, first, last = map(np.asarray, seen.lengths_of(table))
    refused = np.flatnonzero(counts == REFUSED).tolist()
    if len(refused) == len(counts):
        raise DataError(
            f"The chat template refuses all {len(counts):,} conversations of {config.train}.\nExpected some that it renders.\n"
            "Correct the rows, or give another template: data.chat_template=FILE"
        )
    rendered = counts[counts != REFUSED]
    seen.lengths = _length_facts(rendered, "tokens", config)
    findings = []
    if refused:
        message, fix = (
            "conversations that the chat template refuses: left out",
            "correct them, or give another template by data.chat_template",
        )
        findings.append(finding("refused_by_template", "warning", table, refused, message=message, fix=fix))
    long = np.flatnonzero(counts > config.max_length).tolist()
    if long:
        lost = int((counts[long] - config.max_length).sum())
        severity: Severity = "error" if config.over_length == "fail" else "warning"
        share = f"{lost:,} tokens, {100 * lost / rendered.sum():.2f} % of all"
        fix = f"data.over_length={config.over_length} applies; raise data.max_length if the model allows"
        findings.append(
            finding(
                "over_length",
                severity,
                table,
                long,
                message=f"rows longer than {config.max_length} tokens ({share})",
                fix=fix,
            )
        )
    return findings + (_cut_answers(table, config, first, last) if table.kind.name == "sft" else [])


def _vocabulary(seen: Inspection) -> list[Finding]:
    """What the model cannot read, and texts that it cannot tell apart."""
    if seen.vocabulary_of is None:
        return []
    return seen.vocabulary_of(seen.table).findings(seen.table)


def _length_facts(counts: Any, unit: Any, config: DataConfig) -> LengthFacts:
    values, edges = np.histogram(counts, bins=min(60, max(1, int(counts.max()))))
    percentiles = zip(_PERCENTILES, np.percentile(counts, _PERCENTILES), strict=True)
    return {
        "unit": unit,
        "max_length": config.max_length,
        "mean": float(counts.mean()),
        "percentiles": {str(p): float(v) for p, v in percentiles},
        "histogram": {"counts": values.tolist(), "edges": edges.tolist()},
    }


def _cut_answers(table: Table, config: DataConfig, first: Any, last: Any) -> list[Finding]:
    """Conversations whose answers, or their ends, lie behind max_length."""
    findings = []
    mute = np.flatnonzero(first >= config.max_length).tolist()
    if mute and config.over_length != "drop":
        message = "rows whose question alone fills max_length: nothing of the answer could be learnt"
        findings.append(
            finding(
                "no_supervision", "error", table, mute, message=message, fix="raise data.max_length, or shorten them"
            )
        )
    endless = np.flatnonzero((last >= config.max_length) & (first < config.max_length)).tolist()
    if endless:
        message = "rows whose answer is cut, so that its end is never learnt"
        fix = "raise data.max_length, or data.over_length=drop"
        findings.append(finding("no_stop", "warning", table, endless, message=message, fix=fix))
    return findings


CHECKS: tuple[Callable[[Inspection], list[Finding]], ...] = (
    lambda seen: reading_findings(seen.table, seen.config),
    _texts,
    _labels,
    _equal_texts,
    _near_duplicates,
    _across_sides,
    _lengths,
    _vocabulary,
)
