"""What makes two texts the same."""

import hashlib
import unicodedata


def text_key(text: str) -> str:
    """What makes two texts the same: NFKC, then runs of white space as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def key_bytes(text: str, pair: str | None) -> bytes:
    """16 bytes that are equal exactly (but for chance 2**-64) when the texts are the same."""
    whole = text_key(text) if pair is None else f"{text_key(text)}\0{text_key(pair)}"
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()
