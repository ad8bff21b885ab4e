"""What reading the files left out or had to guess: records, files, columns, lines."""

from collections import defaultdict
from typing import Any

from weitiao.config.data import DataConfig
from weitiao.data.kinds import EMPTY
from weitiao.data.names import MEANINGFUL
from weitiao.data.prepare import FEW_EMPTY
from weitiao.data.report import SHOWN, Finding, Severity
from weitiao.data.table import Table


def rejected(table: Table, config: DataConfig) -> list[Finding]:
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.rejected():
        reason = row["reason"].split("\n")[0].split(" (")[0]
        by_reason[EMPTY if reason.startswith(EMPTY) else reason].append(row)
    strict: Severity = "error" if config.bad_rows == "fail" else "warning"
    few = table.facts["num_empty"] <= FEW_EMPTY * (len(table) + table.facts["num_empty"])
    return [
        Finding(
            code="empty" if reason == EMPTY else "rejected",
            severity="warning" if reason == EMPTY and few else strict,
            count=len(rows),
            message=f"rows left out: {reason}" if reason == EMPTY else f"rows that cannot be used: {reason}",
            fix="correct them, or data.bad_rows=skip",
            where=tuple(row["id"] for row in rows[:SHOWN]),
            examples=tuple(row["found"][:80] for row in rows[:5]),
        )
        for reason, rows in by_reason.items()
    ]


def _ignored_files(table: Table) -> list[Finding]:
    ignored = table.facts["ignored"]
    if not ignored:
        return []
    message, fix = "files in a folder or an archive that were not read", "give them a known ending, or name them"
    return [
        Finding(
            code="ignored_files",
            severity="warning",
            count=len(ignored),
            message=message,
            fix=fix,
            where=tuple(ignored[:SHOWN]),
        )
    ]


def _unused(table: Table) -> list[Finding]:
    """Columns and keys that rows have and training does not see."""
    return [
        Finding(
            code="unused_columns",
            severity="warning" if name in MEANINGFUL else "info",
            count=count,
            message=f"rows with the column '{name}', which is not used",
            fix="name the columns that matter: data.text=, data.label=, data.text_pair=; or leave it, if it is no part of the task",
        )
        for name, count in table.facts["unused"].items()
    ]


def _lines(table: Table) -> list[Finding]:
    """Lines that are no rows, and tables whose columns had to be told from their contents."""
    facts = table.facts
    skipped = [
        Finding(
            "skipped_lines",
            "warning" if "header" in reason else "info",
            count,
            f"{reason}: left out",
            "take them out, to be sure",
        )
        for reason, count in facts["skipped"].items()
    ]
    guessed = [
        Finding("no_header", "warning", len(table), f"{name}: {how}", "give a header, or name them: data.columns=[...]")
        for name, how in facts["guessed"].items()
    ]
    return skipped + guessed


def _encodings(table: Table, config: DataConfig) -> list[Finding]:
    """Files in an encoding that was told from their characters: a reader sees whether it is the right one."""
    told = {name: found for name, found in table.facts["encodings"].items() if not found.startswith(("utf-", "utf_"))}
    if not told or config.encoding is not None:
        return []
    examples = [text[:80] for text in table.column("text", range(min(len(table), 1000))) if not text.isascii()][:3]
    names = ", ".join(f"{name} as {found}" for name, found in told.items())
    severity: Severity = "warning" if "cp1252" in told.values() else "info"
    message = (
        f"not UTF-8, told from the characters: {names}; for example {examples[0]!r}"
        if examples
        else f"not UTF-8: {names}"
    )
    fix = "if it reads wrongly, data.encoding=NAME"
    return [Finding("encoding", severity, len(table), message, fix, examples=tuple(examples))]


def reading_findings(table: Table, config: DataConfig) -> list[Finding]:
    """All of them."""
    return [
        *rejected(table, config),
        *_ignored_files(table),
        *_unused(table),
        *_lines(table),
        *_encodings(table, config),
    ]
