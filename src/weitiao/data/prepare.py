"""Tables -> two sides that share no text. Every row that goes is counted, by reason."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import task_word
from weitiao.data.kinds import EMPTY, KINDS
from weitiao.data.labels import in_class_order, sort_labels
from weitiao.data.near_duplicates import kept_pairs, near_pairs
from weitiao.data.report import ConflictExample, NearReport, PolicyReport, SplitFormat, SplitReport
from weitiao.data.side import Side
from weitiao.data.split import groups_of, sample, split, take_by_lot
from weitiao.data.table import Table, build
from weitiao.errors import DataError

log = logging.getLogger("weitiao")
_SHOWN = 5
FEW_EMPTY = 0.05  # a larger share of texts without characters is no accident but a wrong column


@dataclass(frozen=True)
class Prepared:
    """The two sides of the split, the label names in class order, and the account of every row left out."""

    train: Side
    eval: Side
    label_names: tuple[str, ...]
    report: SplitReport


def prepare(config: DataConfig, kind: str = "classification") -> Prepared:
    """Read rows of a kind, apply the policies, split.

    Texts are the same when they are equal after NFKC and white-space folding. Whatever the policies, no text (and with
    ``near_duplicates=drop`` no near-equal one) is on both sides.

    Raises:
        DataError: rows that a policy refuses, or a side that is left too small.
    """
    train, evaluation, counts = _two_sides(config, kind)
    train, near = _without_near(train, evaluation, config)
    if config.train_size is not None:
        train = sample(train, config.train_size, config)
    table = train.table
    names = in_class_order(table.kind.names(train.every_label, table.facts["columns"]), config)
    _refuse_unknown_labels(evaluation, names)
    _refuse_too_few(train, evaluation, names)
    report: Any = {
        **counts,
        "format": _format(table),
        "near_duplicates": near,
        "num_train_rows": len(train),
        "num_eval_rows": len(evaluation),
        "label_counts_train": label_counts(train, names),
        "label_counts_eval": label_counts(evaluation, names),
    }
    return Prepared(train, evaluation, names, report)


def _format(table: Table) -> SplitFormat:
    facts = table.facts
    return {
        "name": facts["name"],
        "reason": facts["reason"],
        "columns": facts["columns"],
        "encodings": facts["encodings"],
    }


def _two_sides(config: DataConfig, kind: str) -> tuple[Side, Side, Any]:
    """Training and evaluation rows after the policies, without a text on both sides; and what was left out."""
    side, report = _apply_policies(_all_rows(config.train, config, kind), config)
    if config.eval is None:
        train, held, alone = split(side, config)
        return train, held, {"train": report, "overlap_dropped_from_train": 0, "rare_rows_kept_for_training": alone}
    known = sorted(set(side.every_label)) if config.labels == "canonical" else ()
    evaluation, eval_report = _apply_policies(_all_rows(config.eval, config, kind, known), config)
    if len(side) and len(evaluation) and (side.pairs is None) != (evaluation.pairs is None):
        raise one_text_or_two(config, evaluation_has_two=side.pairs is None)
    if config.test_size is not None:
        evaluation = take_by_lot(evaluation, config)
    overlap = np.isin(side.identity, evaluation.identity)
    counts = {"train": report, "eval": eval_report, "overlap_dropped_from_train": int(overlap.sum())}
    return side.keep(~overlap), evaluation, counts


def one_text_or_two(config: DataConfig, evaluation_has_two: bool) -> DataError:
    """Of a model that would learn one text and be scored on two, or the other way round."""
    two, one = (config.eval, config.train) if evaluation_has_two else (config.train, config.eval)
    return DataError(
        f"{two} holds pairs of texts, {one} single ones.\nExpected the same on both sides.\nName the columns that both have, "
        "data.text=COLUMN alone for single texts, or add the second text: data.text_pair=COLUMN"
    )


def _all_rows(spec: str | Sequence[str], config: DataConfig, kind: str, known: Sequence[str] = ()) -> Side:
    table = usable(spec, config, kind, known)
    return Side(table, np.arange(len(table)))


def _refuse_unknown_labels(evaluation: Side, names: Sequence[str]) -> None:
    unknown = set(evaluation.every_label) - set(names) if names else set()
    if unknown:
        # a split in proportion leaves no label out, so another seed would not help
        another = "" if evaluation.table.kind is KINDS["classification"] else "take another data.split_seed, "
        raise DataError(
            f"The evaluation rows have labels that no training row has: {sorted(unknown)}.\nExpected: {list(names)}.\n"
            f"Add training rows for them, {another}or correct the labels."
        )


def _refuse_too_few(train: Side, evaluation: Side, names: Sequence[str]) -> None:
    kind = train.table.kind
    if len(names) < kind.fewest_names or not len(train) or not len(evaluation):
        labels = f" with the labels {list(names)}" if kind.fewest_names else ""
        raise DataError(
            f"After the policies {len(train)} training rows{labels} and {len(evaluation)} evaluation rows are left.\n"
            f"Expected at least {kind.least} and one evaluation row.\n"
            "Add rows, change data.test_size, or see what went: weitiao data check"
        )


def prepare_evaluation(config: DataConfig) -> Prepared:
    """The evaluation side alone, for a training side that is streamed; its labels are all labels there are.

    Raises:
        DataError: see :func:`prepare`.
    """
    assert config.eval is not None
    side, report = _apply_policies(_all_rows(config.eval, config, "classification"), config)
    if config.test_size is not None:
        side = take_by_lot(side, config)
    names = in_class_order(sort_labels(set(side.labels)), config)
    if len(names) < 2:
        raise DataError(
            f"{config.eval} has the labels {list(names)} alone.\nExpected at least two: the evaluation rows of a streamed "
            "run name all labels.\nAdd rows of the others."
        )
    counts: SplitReport = {
        "eval": report,
        "format": _format(side.table),
        "num_eval_rows": len(side),
        "label_counts_eval": label_counts(side, names),
    }
    return Prepared(side.keep(np.zeros(len(side), dtype=bool)), side, names, counts)


def usable(
    spec: str | Sequence[str], config: DataConfig, kind: str = "classification", known: Sequence[str] = ()
) -> Table:
    """The table of a source, of the kind that a task needs, with ``bad_rows`` applied.

    Raises:
        DataError: rows were rejected under ``bad_rows=fail``, or the rows are of another kind.
    """
    table = build(spec, config, kind, known)
    if table.kind.name != kind:
        wanted, found = KINDS[kind], table.kind.purpose
        other = f", or learn {found}" if found else ""
        raise DataError(
            f"{spec} holds {table.facts['name']} rows ({table.facts['reason']}).\nExpected {wanted.wanted}.\n{wanted.fix}{other}."
        )
    empty, rejected = table.facts["num_empty"], table.facts["num_rejected"]
    many_empty = empty > FEW_EMPTY * (len(table) + empty)
    if (rejected or many_empty) and config.bad_rows == "fail":
        first = next(row for row in table.rejected() if many_empty or not row["reason"].startswith(EMPTY))
        raise DataError(
            f"{first['id']}: {first['reason']}\nFound: {first['found']}\n{rejected + empty:,} such rows in "
            f"{spec}. See them all: weitiao data check {spec}{task_word(kind)}\nOr leave them out, counted: data.bad_rows=skip"
        )
    return table


def _apply_policies(side: Side, config: DataConfig) -> tuple[Side, PolicyReport]:
    group, is_first, conflicting = groups_of(side)
    shown = np.unique(group[conflicting])[:_SHOWN]
    examples = [_conflict(Side(side.table, side.rows[group == g])) for g in shown]
    if conflicting.any() and config.conflicts == "fail":
        raise DataError(
            f"{int(conflicting.sum()):,} rows have a text that stands under different labels. The first: {examples[0]}\n"
            "Expected one label a text.\nCorrect them, or set data.conflicts=drop (or keep)."
        )
    keep = np.ones(len(side), dtype=bool)
    if config.conflicts == "drop":
        keep &= ~conflicting
    if config.duplicates == "drop":
        # a kept conflict keeps one row a label, or it would no longer be one
        keep &= is_first | (_first_of_label(side, group) & conflicting)
    report: PolicyReport = {
        "num_rows": len(side),
        "num_rejected": int(side.table.facts["num_rejected"]),
        "num_empty": int(side.table.facts["num_empty"]),
        "num_distinct_texts": int(is_first.sum()),
        "duplicates_dropped": int((~keep).sum() - (conflicting.sum() if config.conflicts == "drop" else 0)),
        "conflicts_dropped": int(conflicting.sum()) if config.conflicts == "drop" else 0,
        "conflict_examples": examples,
    }
    return side.keep(keep), report


def _conflict(members: Side) -> ConflictExample:
    return {"text": members.texts[0][:80], "rows": dict(zip(members.ids, members.answers, strict=True))}


def _first_of_label(side: Side, group: NDArray[np.int64]) -> NDArray[np.bool_]:
    seen: set[tuple[int, str]] = set()
    first = np.zeros(len(side), dtype=bool)
    for i, pair in enumerate(zip(group.tolist(), side.answers, strict=True)):
        first[i] = pair not in seen
        seen.add(pair)
    return first


def _without_near(train: Side, evaluation: Side, config: DataConfig) -> tuple[Side, NearReport]:
    """The training side without rows nearly equal to an evaluation row, and what was found."""
    if config.near_duplicates == "off":
        return train, {"policy": "off"}
    pairs = kept_pairs(
        f"{config.near_threshold} {len(train)}".encode() + train.keys.tobytes() + evaluation.keys.tobytes(),
        lambda: near_pairs(evaluation.whole_texts, train.whole_texts, config.near_threshold),
    )
    close = sorted({i for i, _, _ in pairs})
    ids, held = train.ids, evaluation.ids
    report: NearReport = {
        "policy": config.near_duplicates,
        "threshold": config.near_threshold,
        "across_the_split": len(close),
        "dropped_from_train": len(close) if config.near_duplicates == "drop" else 0,
        "examples": [{"train": ids[i], "eval": held[j], "similarity": round(s, 3)} for i, j, s in pairs[:_SHOWN]],
    }
    if config.near_duplicates == "warn":
        return train, report
    mask = np.ones(len(train), dtype=bool)
    mask[close] = False
    return train.keep(mask), report


def label_counts(side: Side, names: Sequence[str]) -> dict[str, int]:
    """Rows of each label, or words of each tag; nothing where rows have a number."""
    if not side.table.kind.has_counts:
        return {}
    found = Counter(side.every_label)
    return {name: found[name] for name in names}
