"""Texts that look damaged: mojibake, control characters, and what scripts a text is written in."""

import re
import unicodedata

# What UTF-8 becomes in a wrong GBK round trip, and uninitialised memory printed as GBK.
_GBK_RUINS = re.compile("锟斤拷|烫烫烫|屯屯屯|锘挎")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002fa1f]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af]")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")


def has_control(text: str) -> bool:
    """Control characters other than tab and line breaks."""
    return _CONTROL.search(text) is not None


def has_replacement(text: str) -> bool:
    """U+FFFD: a byte was lost when the text was decoded."""
    return "\ufffd" in text


def is_mojibake(text: str) -> bool:
    """UTF-8 that was read as Latin-1 or Windows-1252, or as GBK."""
    if _GBK_RUINS.search(text):
        return True
    if text.isascii():
        return False
    for wrong in ("latin-1", "cp1252"):
        try:
            repaired = text.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
        if repaired != text and any(unicodedata.category(c)[0] in "LPS" for c in repaired if ord(c) > 127):
            return True
    return False


def script_of(text: str) -> str:
    """The script that most letters of a text are in: Han, Kana, Hangul, Cyrillic, Latin or other."""
    counts = {
        "Han": len(_HAN.findall(text)) * 3,  # a Han character says as much as a few letters
        "Kana": len(_KANA.findall(text)) * 4,
        "Hangul": len(_HANGUL.findall(text)) * 3,
        "Cyrillic": len(_CYRILLIC.findall(text)),
        "Latin": len(_LATIN.findall(text)),
    }
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "other"
