"""The words of the study in English and Chinese, with their figures filled in once for both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from study_statistics import Pooled

LANGUAGES = ("en", "zh")


class Text(NamedTuple):
    """The same sentence twice."""

    en: str
    zh: str

    def then(self, other: "Text") -> "Text":
        """Both, one after the other."""
        return Text(f"{self.en}; {other.en}", f"{self.zh}；{other.zh}")


def text(en: str, zh: str, **figures: Any) -> Text:
    """Fills the figures in; a Text among them gives each language its own."""
    return Text(
        *(
            form.format(**{key: one[i] if isinstance(one, Text) else one for key, one in figures.items()})
            for i, form in enumerate((en, zh))
        )
    )


KINDS = {
    "holds": Text("holds", "成立"),
    "everywhere": Text(
        "holds on all {num} data sets; the interval over data sets is wide",
        "在全部 {num} 个数据集上都成立，但跨数据集的区间还很宽",
    ),
    "where": Text("holds where: {names}", "在这些数据集上成立：{names}"),
    "no": Text("does not hold", "不成立"),
    "not shown": Text("not shown", "看不出来"),
    "not yet": Text("not measured yet", "还没有测"),
    "construction": Text("holds by construction", "由做法本身决定，成立"),
}
# The weaker one decides a line that rests on two.
WEAKER = ("holds", "everywhere", "where", "not shown", "no", "not yet")


@dataclass(frozen=True)
class Verdict:
    """One of ``KINDS``; ``names`` are the data sets on which something holds."""

    kind: str
    names: tuple[str, ...] = ()

    @property
    def said(self) -> Text:
        en, zh = KINDS[self.kind]
        return Text(
            en.format(num=len(self.names), names=", ".join(self.names)),
            zh.format(num=len(self.names), names="、".join(self.names)),
        )


def weaker(*verdicts: Verdict) -> Verdict:
    return max(verdicts, key=lambda one: WEAKER.index(one.kind))


def points(lead: float) -> str:
    return f"{100 * lead:+.2f}"


def span(values: Sequence[float], form: str) -> Text:
    """The least and the most, once where they read the same."""
    ends = dict.fromkeys(format(value, form) for value in (min(values), max(values)))
    return Text(" to ".join(ends), " 到 ".join(ends))


def sets(number: int) -> Text:
    return text("{n} data set{s}", "{n} 个数据集", n=number, s="" if number == 1 else "s")


def pooled_text(found: Pooled | None) -> Text:
    if found is None:
        return Text("fewer than two data sets have an interval", "有区间的数据集不到两个")
    return text(
        "{mean} points ({lower} to {upper}, {sets})", "{mean} 个百分点（{lower} 到 {upper}，{sets}）",
        mean=points(found.mean), lower=points(found.lower), upper=points(found.upper), sets=sets(found.num),
    )  # fmt: skip
