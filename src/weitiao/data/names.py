"""Names of columns that say what they hold."""

TEXT = ("text", "sentence", "review", "content", "comment", "title", "query", "文本", "内容", "评论")
LABEL = ("label", "labels", "class", "category", "sentiment", "target", "rating", "intent", "标签", "类别")
# Further names where a task asks for labels or for a number.
ASKED = {"labels": (*LABEL, "tags", "categories"), "number": (*LABEL, "score", "value", "分数", "评分")}
NAMES = {"classification": "label", "labels": "labels", "number": "number"}
PAIRS = (
    ("sentence1", "sentence2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
)
WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "pos_tags")
# Columns whose name says that they matter: leaving one unused is worth a warning.
MEANINGFUL = frozenset((*TEXT, *LABEL, *(name for pair in PAIRS for name in pair), "system", "history", "tools"))
# Any of these in a first line says that it is a header.
KNOWN = MEANINGFUL.union(
    (*WORDS, *TAGS, *ASKED["labels"], *ASKED["number"]),
    ("instruction", "input", "output", "prompt", "completion", "response", "answer", "messages", "conversations"),
    ("id", "idx", "index", "no", "uid", "qid", "guid", "date", "source", "split", "label_name"),
    ("序号", "编号", "评价", "评论内容", "正文", "句子", "标注", "情感", "分类", "来源", "日期"),
)  # fmt: skip
