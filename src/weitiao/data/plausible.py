"""How plausible a decoded text is: that bytes decode proves nothing, since GB18030 accepts almost any Big5 and much Latin-1.

A wrong decoding gives characters that hardly anybody writes. So each character is worth something: much where it is among the most
frequent of its script, nothing where it is rare, less than nothing where no text has it. The frequent Han characters are the 400
most frequent of Chinese reviews, news and instructions (69 % of all); the traditional ones and hangul are by common knowledge.
"""

import re
import unicodedata

_HAN = (
    "的一是不和有在人大中个国我了以可能生为这用上年要会间行新发出来房图成时们地到作高学对数好法方下开日机家子小分很店务多动现进面点还将价酒元于业金理他公过"
    "如定工月主后全提自经你最美入本力重加市前天平建度关也同服通实文比电就意与期基问民利之考长得合您表题被体住使化三组网员名都特两算些政并说其部解然种总性应"
    "计感外设没等次或场车万更者事里常情据明起需当果产心内程保海它所信交式展相水位手安品台无物而代持因游目别制推结第股系助女选去强客门战格户量星正打标但区创"
    "商变件世斯调指么报科看首收资活及华非太供着回再帮称影北道类西单错包议书联只给决任布预社想统级试改取确城济技放气风线增受二获每马餐排盘语居港各热山型从东"
    "老环那习复评色较周费友示光早楼空已少求香向京义传身字路视导英整球样领界接达队四此共司什反十具广近根话知尔告例亚治让术军序头查男克何找吗快处项觉售索息列"
    "测便火赛该续教款馆真随望精约值施未造专优境乐步张研"
)
_TRADITIONAL = (
    "個國為這會間發來圖時們學對數開機務動現進點還將價於業過後經實電兩說總應設場萬車當產無給課決書議認讓語頭結選強戰門區創變報資華邊類單錯聯該財風氣確濟線獲馬級"
    "試視導樣領達隊軍術條難東長樂義習評較觀費號員網題體問聽寫讀愛沒見聞覺親錢買賣麼嗎誰請謝處備從眾幣層歲師廣張權極標歡漢熱環畫離種稱簡紅約紀組細終統續維節藥"
    "雖補裝訂計記講許論證識訴詞詳調談質購貴賽輕轉輸適裡鐵銀陽陸際險隨靜須顧預頻飛飯館驗魚鮮黃龍並與關讚啊嗎吧呢吃喝她把跟做比用過頁幫歷歸壞聲夠勞勵滿濃壓"
)
_HANGUL = (
    "이다는에의가을를로하고은지도사기한어시나서아대리인자해그정있스라제수일습니까요게만들부장전상주보공원생여비구조동경문오유선성소미신관안우중면적등및것과와내"
    "세음국었했없위연분양용건발당실방물모두무같때합됩입려러며계말식회결개산통작재행체호직영속간권심민저거천터치트드르세더데네저진화학교감야맛좋"
)
_FREQUENT = frozenset(_HAN + _TRADITIONAL + _HANGUL)
_CANNOT_BE = 3.0


def plausibility(text: str, kana: bool = True) -> float:
    """The mean worth of the characters beyond ASCII, from below -1 (no text) to 1; 0 where there are none.

    ``kana``: whether the encoding is one of Japanese. GB2312 has kana in the places where EUC-JP has them.
    """
    worths = [_worth(text, i, kana) for i, c in enumerate(text) if c > "\x7f"]
    return sum(worths) / len(worths) if worths else 0.0


def _worth(text: str, i: int, kana: bool) -> float:
    """What a character says for its decoding."""
    c = text[i]
    if c in _FREQUENT:
        return 1.0
    if "\u3041" <= c <= "\u30fe":  # they are few, and all are frequent
        return 1.0 if kana else 0.0
    if "\u3000" <= c <= "\u303f" or "\uff01" <= c <= "\uff5e":
        return 0.7
    if "\u4e00" <= c <= "\u9fff":
        return 0.0
    if "\uac00" <= c <= "\ud7a3":
        beside = text[max(0, i - 1) : i] + text[i + 1 : i + 2]
        return -0.5 if len(beside) == 2 and beside.isascii() and beside.isalpha() else 0.1
    if "\uff61" <= c <= "\uff9f":  # half-width katakana: a single byte in Shift-JIS, so often a wrong one
        return -0.5
    if c in "\u00a0µ×÷±²³½¼¾ªº¶":
        return 0.4
    kind = unicodedata.category(c)
    if kind in ("Co", "Cn", "Cc"):
        return -_CANNOT_BE
    if "\u00c0" <= c <= "\u024f" and kind[0] == "L":
        beside = text[max(0, i - 1) : i] + text[i + 1 : i + 2]
        strange = any(n > "\x7f" and n.isalpha() for n in beside)
        return 0.8 if not strange and any(n.isascii() and n.isalpha() for n in beside) else -0.6
    if "\u2010" <= c <= "\u203a" or c in "«»°€£©®·¿¡§´¨":
        inside = text[max(0, i - 1) : i].isalpha() and text[i + 1 : i + 2].isalpha()
        return -0.2 if inside and c not in "’‘-·‐" else 0.4
    return -0.4


_LINE = re.compile(r"[^\r\n]+")


def share_of_plausible_lines(text: str, least: float) -> float:
    """Of the lines with some characters beyond ASCII: how many are at least as plausible."""
    lines = [line for line in _LINE.findall(text) if sum(c > "\x7f" for c in line) >= 4]
    return sum(plausibility(line) >= least for line in lines) / len(lines) if lines else 1.0
