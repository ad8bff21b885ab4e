"""What makes two texts the same, and what makes two labels the same."""

import hashlib
import math
import re
import unicodedata

# Characters that leave no mark on a page: soft hyphen, fillers, zero-width blanks, bidirectional marks, variation selectors.
# Tags are among them but for those of a flag (U+1F3F4), which tell one flag from another.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0100-\U000e01ef]"
)
_TAG = re.compile("[\U000e0001-\U000e007f]")
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007f]+)|[\U000e0001-\U000e007f]+")
# Joiners (U+200C, U+200D) are spelling in Arabic and Indic scripts, and make one emoji of several; elsewhere they are nothing.
_JOINS = "\u0600-\u08ff\u0900-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"
_LOOSE_JOINER = re.compile(f"(?<![{_JOINS}])[\u200c\u200d]+|[\u200c\u200d]+(?![{_JOINS}])")
_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters without a shape
_INTEGER = re.compile("[-+]?[0-9]{1,400}")
_SEES_NOTHING = re.compile("[\u200c\u200d\u2800]")
_TRUE, _FALSE = ("true", "yes", "是", "真"), ("false", "no", "否", "假")
_BOOLEAN = dict.fromkeys(_TRUE, "1") | dict.fromkeys(_FALSE, "0")
PLACEHOLDERS = frozenset(
    ("nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat", "undefined", "-", "--", "?", "无", "空", "暂无", "缺失", "未标注")
)  # fmt: skip


def _bare(text: str) -> str:
    """NFKC, without characters that cannot be seen."""
    if text.isascii():
        return text
    if _TAG.search(text):
        text = _TAGS.sub(lambda found: found[1] or "", text)
    shown = _LOOSE_JOINER.sub("", text) if "\u200c" in text or "\u200d" in text else text
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", shown))


def text_key(text: str) -> str:
    """What makes two texts the same: NFKC, no invisible characters, runs of white space as one blank."""
    return " ".join(_bare(text).split())


def is_visible(text: str) -> bool:
    """Whether a text leaves a mark on a page."""
    for c in text[:8]:  # a letter is soon found, in nearly every text
        if c.isalnum() and c not in _FILLERS:
            return True
    return any(unicodedata.category(c)[0] not in "ZC" for c in _SEES_NOTHING.sub("", _bare(text)))


def key_bytes(text: str, pair: str | None) -> bytes:
    """16 bytes that are equal exactly (but for chance 2**-64) when the texts are the same."""
    whole = text_key(text) if pair is None else f"{text_key(text)}\0{text_key(pair)}"
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def label_key(label: str) -> str:
    """What makes two labels the same: case, blanks and width aside, numbers by value, true and yes as 1, false and no as 0."""
    folded = "".join(_bare(label).casefold().split())
    if folded in _BOOLEAN:
        return _BOOLEAN[folded]
    if _INTEGER.fullmatch(folded):
        return str(int(folded))
    try:
        number = float(folded) if "_" not in folded else math.nan
    except ValueError:
        return folded
    if not math.isfinite(number):
        return folded
    return str(int(number)) if number.is_integer() else repr(number)


def is_placeholder(label: str) -> bool:
    """Whether a label is a word for a value that is not there."""
    return "".join(_bare(label).casefold().split()) in PLACEHOLDERS
