"""How much of the texts a tokenizer's vocabulary knows, and which texts it makes the same."""

from dataclasses import dataclass, field
from typing import Any

from weitiao.data.label_findings import finding
from weitiao.data.report import Finding, Severity
from weitiao.data.table import Table

_ROWS = 20_000  # that are looked up
_SOME, _NEARLY_ALL = 0.03, 0.9


@dataclass
class Vocabulary:
    """Counts over the first rows.

    Args:
        rows: looked at.
        tokens, unknown: all of them, and those that the vocabulary lacks.
        partly: rows with an unknown token.
        same: rows that differ from every earlier one as texts, and equal one as tokens.
    """

    rows: int
    tokens: int = 0
    unknown: int = 0
    partly: list[int] = field(default_factory=list)
    same: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, table: Table, tokenizer: Any) -> "Vocabulary":
        """Look the first rows up."""
        count = min(len(table), _ROWS)
        found = cls(count)
        texts, keys = table.whole_texts(range(count)), [key.tobytes() for key in table.keys[:count]]
        seen: dict[bytes, bytes] = {}
        ids = tokenizer([text.replace("\0", " ") for text in texts], add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        for i, (row, key) in enumerate(zip(ids, keys, strict=True)):
            missing = row.count(tokenizer.unk_token_id)
            found.tokens += len(row)
            found.unknown += missing
            if missing:
                found.partly.append(i)
            first = seen.setdefault(b"".join(token.to_bytes(4, "little") for token in row), key)
            if first != key:
                found.same.append(i)
        return found

    def findings(self, table: Table) -> list[Finding]:
        """What is worth saying."""
        found = []
        share = self.unknown / max(1, self.tokens)
        if share > _SOME:
            severity: Severity = "error" if share >= _NEARLY_ALL else "warning"
            message = f"rows with tokens that the model's vocabulary lacks ({100 * share:.1f} % of all tokens)"
            fix = "use a model of this language and script: weitiao models"
            found.append(finding("unknown_tokens", severity, table, self.partly, message=message, fix=fix))
        if len(self.same) > _SOME * self.rows:
            severity = "error" if len(self.same) >= _NEARLY_ALL * self.rows else "warning"
            message = "rows that are other texts than the ones before and the same tokens"
            fix = "use a model whose vocabulary tells them apart"
            found.append(finding("same_tokens", severity, table, self.same, message=message, fix=fix))
        return found
