"""How near a generated answer is to the reference: chrF, ROUGE-L, exact match. Right for Chinese, which has no blanks.

The usual ROUGE package drops every character that is not a-z or 0-9, so two equal Chinese texts score 0 with it.
"""

import re
from collections import Counter
from collections.abc import Sequence

_ORDER, _BETA = 6, 2.0
# A word of an alphabet, or a single character of a script that is written without blanks.
_UNIT = re.compile(r"[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0002fa1f]+|\S")


def chrf(answer: str, reference: str) -> float:
    """F-score of character n-grams up to 6, recall counted twice (Popović 2015, W15-3049), from 0 to 1.

    As in sacrebleu, blanks are left out, and orders for which one of the texts is too short do not count.
    """
    texts = ["".join(text.split()) for text in (answer, reference)]
    precisions, recalls = [], []
    for order in range(1, _ORDER + 1):
        ours, theirs = (Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in texts)
        if ours and theirs:
            common = (ours & theirs).total()
            precisions.append(common / ours.total())
            recalls.append(common / theirs.total())
    if not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence (Lin 2004, W04-1013), from 0 to 1: words, or single Chinese characters."""
    ours, theirs = (_UNIT.findall(text.lower()) for text in (answer, reference))
    common = _longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def exact_match(answer: str, reference: str) -> float:
    """1 where the texts are equal but for blanks around them, else 0."""
    return float(answer.strip() == reference.strip())


def overlap(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The mean of each measure over the pairs."""
    pairs = list(zip(answers, references, strict=True))
    return {
        measure.__name__: sum(measure(answer, reference) for answer, reference in pairs) / len(pairs)
        for measure in (chrf, rouge_l, exact_match)
    }


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    lengths = [0] * (len(second) + 1)
    for unit in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = lengths[j]
            lengths[j] = diagonal + 1 if unit == other else max(above, lengths[j - 1])
            diagonal = above
    return lengths[-1]
