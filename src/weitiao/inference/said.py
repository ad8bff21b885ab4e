"""The text of an answer while its tokens come: whole characters alone, and nothing of a text that stops it."""

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"  # what half a character is decoded to


class Said:
    """Tokens in, pieces of text out; the pieces together are the answer."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [one for one in stop if one]
        self.stopped = False
        self._ids: list[int] = []
        self._from = self._to = (
            0  # decoded before: ids up to ``_to``; those from ``_from`` give the next ones their context
        )
        self._held = ""

    def add(self, token: int) -> str:
        """The next piece; it may be empty."""
        self._ids.append(token)
        before, now = self._decoded(self._ids[self._from : self._to]), self._decoded(self._ids[self._from :])
        if len(now) <= len(before) or now.endswith(HALF):
            return ""
        self._from, self._to = self._to, len(self._ids)
        return self._handed(now[len(before) :])

    def end(self) -> str:
        """What is left at the end; half a character is left out."""
        before, now = self._decoded(self._ids[self._from : self._to]), self._decoded(self._ids[self._from :])
        piece = self._handed(now[len(before) :].rstrip(HALF))
        if not self.stopped:
            piece, self._held = piece + self._held, ""
        return piece

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _handed(self, piece: str) -> str:
        """Text without what a stop ends; what may be the beginning of one is held back."""
        text = self._held + piece
        found = min((at for one in self.stop if (at := text.find(one)) >= 0), default=-1)
        if found >= 0:
            self.stopped, self._held = True, ""
            return text[:found]
        held = max((_overlap(text, one) for one in self.stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that begin ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
