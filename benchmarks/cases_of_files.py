"""Cases of cases.py that look at files."""

import os
import sys
from pathlib import Path

from case_tools import MODEL, ROOT, Run, Shown, chats, check, csv_of, rows, show, texts, train, trained


def alike(folder: Path, run: Run) -> bool:
    pairs = (("1", "1.0"), ("1", "１"), ("负面", "负面\u200b"), ("café", "cafe\u0301"), ("是", "true"))
    made = [
        rows(folder, f"{n}.jsonl", 60, lambda i, r, p=pair: {**r, "label": [p[0], p[1], "x"][i % 3]})
        for n, pair in enumerate(pairs)
    ]
    return all(check(run, file, "task=classification").has("label_variants") for file in made)


def separators(folder: Path, run: Run) -> bool:
    for n, mark in enumerate("，；、｜|;,"):
        file = rows(
            folder,
            f"{n}.jsonl",
            60,
            lambda i, r, m=mark: {**r, "label": [f"体育{m}财经", f"财经{m}科技", "体育", "科技"][i % 4]},
        )
        if check(run, file, "task=multi_label").labels != {"体育", "财经", "科技"}:
            return False
    slash = rows(
        folder, "s.jsonl", 60, lambda i, r: {**r, "label": ["体育/财经", "财经/科技", "体育", "科技/体育"][i % 4]}
    )
    vector = rows(folder, "v.jsonl", 60, lambda i, r: {"text": r["text"], "labels": [[0, 1], [1, 0]][i % 2]})
    return (
        check(run, slash, "task=multi_label").has("uncut_labels")
        and "vectors of 0 and 1" in check(run, vector, "task=multi_label").text
    )


def singleton(folder: Path, run: Run) -> bool:
    file = rows(folder, "r.jsonl", 60, lambda i, r: {**r, "label": f"only{i}"} if i % 5 == 2 else r)
    done = train(run, file, folder / "run", "train.max_steps=1")
    return done.code == 0


def zero_width(folder: Path, run: Run) -> bool:
    plain = texts(60)
    file = folder / "r.csv"
    file.write_text(
        csv_of(plain + [(text[:2] + "\u200b" + text[2:], label) for text, label in plain]), encoding="utf-8"
    )
    return check(run, file).has("duplicates", 60)


def encodings(folder: Path, run: Run) -> bool:
    sys.path.insert(0, str(ROOT))
    from tests.support.languages import table

    for language, encoding in (("traditional", "big5"), ("german", "cp1252")):
        (folder / "r.csv").write_bytes(table(language).encode(encoding))
        found = check(run, folder / "r.csv").report
        first = table(language).splitlines()[1].split('"')[1]
        if first not in show(run, folder / "r.csv", model=MODEL, task="classification").text.replace(
            "##", ""
        ) and found.get("format", {}).get("encodings", {}).get("r.csv", "") not in (
            "big5",
            "cp950",
            "big5hkscs",
            "cp1252",
        ):
            return False
    return True


def bytes(folder: Path, run: Run) -> bool:
    done = run("predict", str(trained(folder, run)), "--text", os.fsdecode(b"\xc4\xe3\xba\xc3"))
    return done.code == 2 and "UTF-8" in done.text


def template(folder: Path, run: Run) -> bool:
    (folder / "t.jinja").write_bytes("{# 模板 #}{% for m in messages %}{{ m.content }}{% endfor %}".encode("gbk"))
    file = chats(folder, "r.jsonl", lambda i: {"prompt": f"问{i}", "completion": f"答{i}"})
    done = show(run, file, f"data.chat_template={folder / 't.jinja'}")
    return done.code == 2 and "UTF-8" in done.text


def separator_in_rejected(folder: Path, run: Run) -> bool:
    (folder / "r.csv").write_text("text,label\n" + "".join(f"a\u2028b{i},x,y\n" for i in range(20)), encoding="utf-8")
    done = check(run, folder / "r.csv", "task=classification")
    return done.code == 2 and "no usable rows" in done.text


def exports(folder: Path, run: Run) -> bool:
    import gzip

    reviews = texts(60)
    made = {
        "semi.csv": csv_of(reviews, ";").encode(), "tab.csv": csv_of(reviews, "\t").encode(), "sep.csv": ("sep=;\n" + csv_of(reviews, ";")).encode(),
        "index.csv": (",text,label\n" + "".join(f'{i},"{t}",{label}\n' for i, (t, label) in enumerate(reviews))).encode(),
        "utf16.csv": csv_of(reviews).encode("utf-16"), "utf16le.csv": csv_of(reviews).encode("utf-16-le"), "gz.csv": gzip.compress(csv_of(reviews).encode()),
        "upper.csv": csv_of(reviews, ",", "TEXT,LABEL\n").encode(), "again.csv": (csv_of(reviews[:30]) + csv_of(reviews[30:])).encode(),
    }  # fmt: skip
    for name, content in made.items():
        (folder / name).write_bytes(content)
        if check(run, folder / name, "task=classification").labels != {"正面", "负面"}:
            return False
    (folder / "nul.csv").write_bytes(csv_of(reviews).encode().replace(b", ", b"\0", 1))
    return "in line 2" in check(run, folder / "nul.csv").text


def conll(folder: Path, run: Run, text: str, name: str = "r.conll") -> Shown:
    (folder / name).write_text(text, encoding="utf-8")
    return check(run, folder / name, "task=token_classification")


def blanks(folder: Path, run: Run) -> bool:
    (folder / "r.conll").write_text(
        "".join(f"Los Angeles\tB-LOC\nis\tO\nbig{i}\tO\n\n" for i in range(20)), encoding="utf-8"
    )
    return (
        "angeles"
        in show(
            run, folder / "r.conll", "data.near_duplicates=off", model=MODEL, task="token_classification"
        ).text.lower()
    )


def empty_tag(folder: Path, run: Run) -> bool:
    found = conll(
        folder, run, "".join(f"Bob\tNNP\tB-NP\tB-PER\nran{i}\tVB\tB-VP\t{'' if i % 2 else 'O'}\n\n" for i in range(20))
    )
    return found.has("rejected", 10) and found.labels == {"PER"}


def documents(folder: Path, run: Run) -> bool:
    text = "".join(f"-DOCSTART- -X- O\nBob{i} NNP B-PER\nran VB O\n\nAnn{i} NNP B-PER\n" for i in range(10))
    return conll(folder, run, text).report.get("num_rows") == 20


def oddities(folder: Path, run: Run) -> bool:
    text = "".join(f"# id {i}\tdomain=news\nBob{i} NNP B-PER\nran VB O\n\n" for i in range(20))
    return (
        conll(folder, run, text).report.get("num_rows") == 20
        and conll(folder, run, "a b-per\nb o\n", "l.conll").code == 2
    )


def beside(folder: Path, run: Run) -> bool:
    turns = {"conversations": [{"from": "human", "value": "订单?"}, {"from": "gpt", "value": "明天"}]}
    shapes = (
        lambda i: {**turns, "conversations": [{"from": "human", "value": f"订单{i}?"}, turns["conversations"][1]], "system": "你是一只猫"},
        lambda i: {"prompt": f"订单{i}?", "response": f"明天{i}", "system": "你是一只猫"},
        lambda i: {"prompt": f"订单{i}?", "response": f"明天{i}", "history": [["你是一只猫", "喵"]]},
    )  # fmt: skip
    return all(
        "你是一只猫" in show(run, chats(folder, f"{n}.jsonl", shape), "data.near_duplicates=off").text
        for n, shape in enumerate(shapes)
    )


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def calls(folder: Path, run: Run) -> bool:
    file = chats(
        folder,
        "r.jsonl",
        lambda i: {
            "messages": [
                {"role": "user", "content": f"天气{i}"},
                CALL,
                {"role": "tool", "content": "晴"},
                {"role": "assistant", "content": f"晴{i}"},
            ],
            "tools": TOOLS,
        },
    )
    plain, chatml = (
        show(run, file, "data.near_duplicates=off"),
        show(run, file, "data.near_duplicates=off", "data.chat_template=chatml"),
    )
    return "does not show tools" in plain.text and "<tool_call>" in chatml.text


def marked(folder: Path, run: Run) -> bool:
    for n, mark in enumerate(({"weight": 0}, {"train": False}, {"loss": False}, {"loss_weight": 0.0})):
        file = chats(
            folder,
            f"{n}.jsonl",
            lambda i, m=mark: {
                "messages": [
                    {"role": "user", "content": f"q{i}"},
                    {"role": "assistant", "content": "WRONG", **m},
                    {"role": "user", "content": "again"},
                    {"role": "assistant", "content": f"right{i}"},
                ]
            },
        )
        shown = show(run, file, "data.near_duplicates=off", "--json").report
        if any("WRONG" in p["text"] and p["learnt"] for row in shown["rows"] for p in row["pieces"]):
            return False
    return True


def reasoning(folder: Path, run: Run) -> bool:
    thought = chats(
        folder,
        "t.jsonl",
        lambda i: {
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": "a", "reasoning_content": "why"},
            ]
        },
    )
    image = chats(
        folder,
        "i.jsonl",
        lambda i: {
            "messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}],
            "images": ["a.png"],
        },
    )
    return (
        "does not show reasoning_content" in show(run, thought, "data.near_duplicates=off").text
        and "images holds" in show(run, image).text
    )


def same_role(folder: Path, run: Run) -> bool:
    file = chats(
        folder,
        "r.jsonl",
        lambda i: {
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "user", "content": "more"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "end"},
            ]
        },
    )
    return show(run, file, "data.near_duplicates=off").code == 0
