"""Sentences in several languages, as rows of a review file, to be written in the encodings that such files have."""

import random

SENTENCES: dict[str, tuple[str, ...]] = {
    "simplified": (
        "房间很干净，服务员也很热情", "离地铁站太远了，打车都不方便", "早餐种类不多，味道一般", "这次入住的感觉比上次差很多",
        "前台办理入住等了半个小时", "性价比很高，下次还会再来", "隔音效果不好，晚上睡不着", "书的内容不错，就是纸张太薄",
        "物流很快，第二天就收到了", "屏幕有划痕，客服说可以退换", "孩子非常喜欢这套绘本", "电池用不到一天就没电了",
    ),
    "traditional": (
        "房間很乾淨，服務員也很熱情", "離捷運站太遠了，叫車都不方便", "早餐種類不多，味道普通", "這次入住的感覺比上次差很多",
        "櫃檯辦理入住等了半個小時", "價格合理，下次還會再來", "隔音效果不好，晚上睡不著", "書的內容不錯，就是紙張太薄",
        "物流很快，第二天就收到了", "螢幕有刮痕，客服說可以退換", "孩子非常喜歡這套繪本", "電池用不到一天就沒電了",
    ),
    "japanese": (
        "部屋はとても清潔で、スタッフも親切でした", "駅から遠くて、少し不便です", "朝食の種類が少なく、味も普通でした", "前回より良くなったと思います",
        "チェックインに三十分も待たされました", "値段の割に満足できるので、また来たいです", "壁が薄くて夜は眠れませんでした", "本の内容は良いのですが、紙が薄いです",
        "翌日に届きました。ありがとうございます", "画面に傷があったので交換してもらいました", "子供がこの絵本を大好きになりました", "電池が一日も持ちません",
    ),
    "korean": (
        "방이 아주 깨끗하고 직원들도 친절했습니다", "역에서 너무 멀어서 조금 불편해요", "아침 식사 종류가 적고 맛도 보통이었어요", "지난번보다 훨씬 좋아진 것 같습니다",
        "체크인하는 데 삼십 분이나 기다렸어요", "가격 대비 만족스러워서 또 오고 싶어요", "방음이 안 되어서 밤에 잠을 못 잤습니다", "책 내용은 좋은데 종이가 너무 얇아요",
        "다음 날 바로 도착했습니다. 감사합니다", "화면에 흠집이 있어서 교환했습니다", "아이가 이 그림책을 정말 좋아합니다", "배터리가 하루도 못 갑니다",
    ),
    "german": (
        "Das Zimmer war schön und das Frühstück großartig", "Leider viel zu laut, wir würden nicht wiederkommen", "Die Bücher kamen beschädigt an",
        "Für den Preis völlig in Ordnung", "Der Kellner war unfreundlich und überfordert", "Überraschend gute Qualität", "Nächstes Mal wählen wir ein anderes Hotel",
        "Alles übersichtlich und gut erklärt", "Die Lieferung dauerte drei Wochen", "Fünf Sterne, jederzeit wieder",
    ),
    "french": (
        "La chambre était très propre et l’accueil chaleureux", "Le petit déjeuner n’était pas à la hauteur", "Très déçu, l’écran est arrivé rayé",
        "Livraison rapide, emballage soigné", "Le garçon a oublié notre commande", "Rapport qualité-prix imbattable", "Où sont passées les pièces détachées ?",
        "Une histoire émouvante, bien écrite", "Ça ne marche plus après deux jours", "Le café était froid et le gâteau sec",
    ),
    "english": (
        "The room was clean and the staff friendly", "Far too loud, we would not come back", "The café next door saves it",
        "Delivery took three weeks", "It’s naïve to expect more – but still", "Five stars, any time again",
    ),
}  # fmt: skip
ENCODINGS: dict[str, tuple[str, ...]] = {
    "simplified": ("utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-16-be"),
    "traditional": ("utf-8", "big5", "utf-16", "utf-16-le"),
    "japanese": ("utf-8", "shift_jis", "euc_jp", "utf-16-le"),
    "korean": ("utf-8", "euc_kr", "utf-16-be"),
    "german": ("utf-8", "cp1252", "utf-16-le"),
    "french": ("utf-8", "cp1252"),
    "english": ("utf-8", "cp1252", "utf-16"),
}


def table(language: str, rows: int = 200, seed: int = 0) -> str:
    """A csv file of ``rows`` reviews, two sentences each in a new order, with a number that makes each one distinct."""
    lot = random.Random(seed)
    mark = "。" if language in ("simplified", "traditional", "japanese") else ". "
    lines = ["text,label"]
    for i in range(rows):
        one, other = lot.sample(SENTENCES[language], 2)
        lines.append(f'"{one}{mark}{other}{mark}{i}",{"good" if i % 2 else "bad"}')
    return "\n".join(lines) + "\n"
