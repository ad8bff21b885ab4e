"""chrF, ROUGE-L and exact match by hand, and for Chinese."""

import pytest

from weitiao.measure.overlap import chrf, exact_match, overlap, rouge_l


@pytest.mark.parametrize("text", ["是", "你好", "人工智能是工程和科学的分支。", "the cat sat", "Python 语言"])
def test_equal_texts_score_one(text: str) -> None:
    assert overlap([text, text], [text, text]) == {"chrf": 1.0, "rouge_l": 1.0, "exact_match": 1.0}


@pytest.mark.parametrize(("answer", "reference"), [("", "你好"), ("天气", "你好"), ("abc", "你好")])
def test_texts_with_nothing_in_common_score_zero(answer: str, reference: str) -> None:
    assert overlap([answer], [reference]) == {"chrf": 0.0, "rouge_l": 0.0, "exact_match": 0.0}


def test_rouge_l_counts_characters_of_chinese_and_words_of_english() -> None:
    # common in order: 我 北 京; 5 and 4 characters
    assert rouge_l("我爱去北京", "我住北京") == pytest.approx(2 * 3 / 9)
    assert rouge_l("北京爱我", "我爱北京") == pytest.approx(2 * 2 / 8)
    # the example of Lin 2004, section 3: three of four words in order
    assert rouge_l("police kill the gunman", "Police killed the gunman") == pytest.approx(0.75)


def test_chrf_by_hand() -> None:
    # answer abc, reference abd: 1-grams 2/3, 2-grams 1/2, 3-grams 0/1, precision = recall = 7/18
    assert chrf("abc", "abd") == pytest.approx(7 / 18)
    # answer 你好, reference 你好吗: precision (1 + 1) / 2, recall (2/3 + 1/2) / 2; a trigram is there on one side alone
    precision, recall = 1.0, 7 / 12
    assert chrf("你好", "你 好吗") == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_exact_match_ignores_blanks_around() -> None:
    assert exact_match(" 好\n", "好") == 1.0
    assert exact_match("好 的", "好的") == 0.0
