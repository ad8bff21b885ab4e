"""Files and runs that went wrong in other tools, tried with this code and with an earlier one: benchmarks/results/cases.json.

    python benchmarks/cases.py --before COMMIT     # both, side by side
    python benchmarks/cases.py                     # this code alone, beside the earlier one's kept results

Each case makes its own input. What a careful user expects is a condition on what the command prints, and the result says whether it
holds. Reported cases: docs/data.md. Models come from the catalogue.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cases.json"
MODEL, CHAT = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
GOOD = (
    "the room was clean",
    "friendly staff",
    "breakfast was good",
    "close to the station",
    "we come again",
    "fast delivery",
)
BAD = ("the room was dirty", "rude staff", "breakfast was cold", "far from the station", "never again", "late delivery")


@dataclass(frozen=True)
class Shown:
    """What a command did."""

    code: int
    text: str

    @property
    def report(self) -> dict[str, Any]:
        """Of `data check --json`: the object; empty without one."""
        lines = [line for line in self.text.splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {}

    def has(self, code: str, count: int | None = None) -> bool:
        """Whether a finding with this code is there."""
        found = [f for f in self.report.get("findings", ()) if f["code"] == code]
        return bool(found) and (count is None or sum(f["count"] for f in found) == count)

    @property
    def labels(self) -> set[str]:
        return set(self.report.get("label_counts", ()))


Run = Callable[..., Shown]


@dataclass(frozen=True)
class Case:
    """One case: what is expected, and the function that makes the input, runs commands and says whether that came."""

    name: str
    expected: str
    holds: Callable[[Path, Run], bool]


def texts(count: int) -> list[tuple[str, str]]:
    """Reviews that differ, with their labels."""
    lot = random.Random(1)
    return [
        (f"{', '.join(lot.sample(GOOD if i % 2 else BAD, 3))}, number {i * 37}", "正面" if i % 2 else "负面")
        for i in range(count)
    ]


def rows(folder: Path, name: str, count: int, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
    """A jsonl file of reviews, each changed."""
    lines = [
        json.dumps(change(i, {"text": t, "label": label}), ensure_ascii=False)
        for i, (t, label) in enumerate(texts(count))
    ]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def csv_of(rows: list[tuple[str, str]], mark: str = ",", header: str = "text{}label\n") -> str:
    return header.format(mark) + "".join(f'"{text}"{mark}{label}\n' for text, label in rows)


def chats(folder: Path, name: str, change: Callable[[int], dict[str, Any]]) -> Path:
    (folder / name).write_text(
        "".join(json.dumps(change(i), ensure_ascii=False) + "\n" for i in range(20)), encoding="utf-8"
    )
    return folder / name


def check(run: Run, file: Path, *words: str) -> Shown:
    return run("data", "check", str(file), *words, "--json")


def show(run: Run, file: Path, *words: str, model: str = CHAT, task: str = "causal_lm") -> Shown:
    return run(
        "data", "show", f"model={model}", f"task={task}", f"data.train={file}", "output.dir=unused", "--n", "1", *words
    )


def train(run: Run, file: Path, folder: Path, *words: str) -> Shown:
    return run(
        "train",
        f"model={MODEL}",
        f"data.train={file}",
        "method.type=lora",
        "data.near_duplicates=off",
        f"output.dir={folder}",
        *words,
    )


def _alike(folder: Path, run: Run) -> bool:
    pairs = (("1", "1.0"), ("1", "１"), ("负面", "负面\u200b"), ("café", "cafe\u0301"), ("是", "true"))
    made = [
        rows(folder, f"{n}.jsonl", 60, lambda i, r, p=pair: {**r, "label": [p[0], p[1], "x"][i % 3]})
        for n, pair in enumerate(pairs)
    ]
    return all(check(run, file, "task=classification").has("label_variants") for file in made)


def _separators(folder: Path, run: Run) -> bool:
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


def _singleton(folder: Path, run: Run) -> bool:
    file = rows(folder, "r.jsonl", 60, lambda i, r: {**r, "label": f"only{i}"} if i % 5 == 2 else r)
    done = train(run, file, folder / "run", "train.max_steps=1")
    return done.code == 0


def _zero_width(folder: Path, run: Run) -> bool:
    plain = texts(60)
    file = folder / "r.csv"
    file.write_text(
        csv_of(plain + [(text[:2] + "\u200b" + text[2:], label) for text, label in plain]), encoding="utf-8"
    )
    return check(run, file).has("duplicates", 60)


def _encodings(folder: Path, run: Run) -> bool:
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


def _predicts(folder: Path, run: Run) -> Path:
    file = rows(folder, "train.jsonl", 40, lambda i, r: r)
    train(run, file, folder / "run", "train.max_steps=1")
    return folder / "run"


def _bytes(folder: Path, run: Run) -> bool:
    done = run("predict", str(_predicts(folder, run)), "--text", os.fsdecode(b"\xc4\xe3\xba\xc3"))
    return done.code == 2 and "UTF-8" in done.text


def _template(folder: Path, run: Run) -> bool:
    (folder / "t.jinja").write_bytes("{# 模板 #}{% for m in messages %}{{ m.content }}{% endfor %}".encode("gbk"))
    file = chats(folder, "r.jsonl", lambda i: {"prompt": f"问{i}", "completion": f"答{i}"})
    done = show(run, file, f"data.chat_template={folder / 't.jinja'}")
    return done.code == 2 and "UTF-8" in done.text


def _separator_in_rejected(folder: Path, run: Run) -> bool:
    (folder / "r.csv").write_text("text,label\n" + "".join(f"a\u2028b{i},x,y\n" for i in range(20)), encoding="utf-8")
    done = check(run, folder / "r.csv", "task=classification")
    return done.code == 2 and "no usable rows" in done.text


def _exports(folder: Path, run: Run) -> bool:
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


def _conll(folder: Path, run: Run, text: str, name: str = "r.conll") -> Shown:
    (folder / name).write_text(text, encoding="utf-8")
    return check(run, folder / name, "task=token_classification")


def _blanks(folder: Path, run: Run) -> bool:
    (folder / "r.conll").write_text(
        "".join(f"Los Angeles\tB-LOC\nis\tO\nbig{i}\tO\n\n" for i in range(20)), encoding="utf-8"
    )
    return "angeles" in show(run, folder / "r.conll", model=MODEL, task="token_classification").text.lower()


def _empty_tag(folder: Path, run: Run) -> bool:
    found = _conll(
        folder, run, "".join(f"Bob\tNNP\tB-NP\tB-PER\nran{i}\tVB\tB-VP\t{'' if i % 2 else 'O'}\n\n" for i in range(20))
    )
    return found.has("rejected", 10) and found.labels == {"PER"}


def _documents(folder: Path, run: Run) -> bool:
    text = "".join(f"-DOCSTART- -X- O\nBob{i} NNP B-PER\nran VB O\n\nAnn{i} NNP B-PER\n" for i in range(10))
    return _conll(folder, run, text).report.get("num_rows") == 20


def _oddities(folder: Path, run: Run) -> bool:
    text = "".join(f"# id {i}\tdomain=news\nBob{i} NNP B-PER\nran VB O\n\n" for i in range(20))
    return (
        _conll(folder, run, text).report.get("num_rows") == 20
        and _conll(folder, run, "a b-per\nb o\n", "l.conll").code == 2
    )


def _beside(folder: Path, run: Run) -> bool:
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


def _calls(folder: Path, run: Run) -> bool:
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


def _marked(folder: Path, run: Run) -> bool:
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


def _reasoning(folder: Path, run: Run) -> bool:
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


def _same_role(folder: Path, run: Run) -> bool:
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


def _stopped(folder: Path, run: Run, *words: str) -> Path:
    """A run that a signal stopped after some checkpoints."""
    file, out = rows(folder, "train.jsonl", 60, lambda i, r: r), folder / "run"
    options = (
        "train.num_train_epochs=400",
        "train.save_steps=5",
        "train.save_total_limit=1",
        "train.load_best_model_at_end=true",
    )
    process = run(
        "train",
        f"model={MODEL}",
        f"data.train={file}",
        "method.type=lora",
        "data.near_duplicates=off",
        f"output.dir={out}",
        *options,
        *words,
        background=True,
    )
    while process.poll() is None and not any(int(p.name[5:]) >= 15 for p in (out / "checkpoints").glob("step-*")):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return out


def _epochs_changed(folder: Path, run: Run) -> bool:
    out = _stopped(folder, run)
    config = out / "config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("num_train_epochs: 400", "num_train_epochs: 30"), encoding="utf-8"
    )
    done = run("train", "--resume", str(out))
    return done.code == 2 and "num_train_epochs" in done.text


def _keeps_best(folder: Path, run: Run) -> bool:
    names = [p.name for p in (_stopped(folder, run) / "checkpoints").iterdir()]
    return any(n.startswith("step-") for n in names) and any(n.startswith("best-step-") for n in names)


def _best_gone(folder: Path, run: Run) -> bool:
    out = _stopped(folder, run, "train.max_steps=40")
    for path in (out / "checkpoints").glob("best*"):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    done = run("train", "--resume", str(out))
    return done.code == 0 and "weights are lost" in done.text and (out / "model").is_dir()


def _newest_broken(folder: Path, run: Run) -> bool:
    out = _stopped(folder, run)
    for path in (out / "checkpoints").glob("step-*"):
        (path / "optimizer.safetensors").unlink()
    process = run("train", "--resume", str(out), background=True)
    while process.poll() is None and not any((out / "checkpoints" / f"step-{n}").is_dir() for n in (5, 10)):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    return "starts from step 0" in said and (out / "checkpoints" / "last").resolve().is_dir()


def _pad_ids(folder: Path, run: Run) -> bool:
    where = Path(run("models", "get", CHAT).text.strip().splitlines()[-1])
    shutil.copytree(where, folder / "llama")
    config = json.loads((folder / "llama" / "config.json").read_text())
    (folder / "llama" / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    (folder / "r.csv").write_text(
        "text,label\n"
        + "".join(f"{'fine' if i % 2 else 'bad'} film number {i},{'pos' if i % 2 else 'neg'}\n" for i in range(20))
    )
    run(
        "train",
        f"model={folder / 'llama'}",
        f"data.train={folder / 'r.csv'}",
        "method.type=lora",
        "method.target_modules=[q_proj,v_proj]",
        "train.max_steps=2",
        "data.near_duplicates=off",
        f"output.dir={folder / 'run'}",
    )
    long = "The bread was awful and the hotel was bad and I will never go there again"
    alone = run("predict", str(folder / "run"), "--text", "fine film").report
    mixed = json.loads(run("predict", str(folder / "run"), "--text", "fine film", "--text", long).text.splitlines()[-2])
    return abs(alone["score"] - mixed["score"]) < 1e-3 and alone["label"] == mixed["label"]


def _long(folder: Path, run: Run) -> bool:
    file = rows(folder, "r.jsonl", 40, lambda i, r: {**r, "text": r["text"] * 40})
    done = train(run, file, folder / "run", "data.max_length=2000", "train.max_steps=1")
    return done.code == 0 and "512" in done.text


def _predict_rows(folder: Path, run: Run) -> bool:
    out = _predicts(folder, run)
    (folder / "p.csv").write_text(f'text\n好\n""\n{"长" * 3000}\n', encoding="utf-8")
    done = run("predict", str(out), "--input", str(folder / "p.csv"))
    kept = run("predict", str(out), "--input", str(folder / "p.csv"), "--bad-rows", "skip")
    return done.code == 2 and "is empty" in done.text and kept.code == 0 and "tokens_cut" in kept.text


def _other_labels(folder: Path, run: Run) -> bool:
    two = rows(folder, "two.jsonl", 40, lambda i, r: r)
    three = rows(folder, "three.jsonl", 60, lambda i, r: {**r, "label": "abc"[i % 3]})
    run(
        "train",
        f"model={MODEL}",
        f"data.train={two}",
        "method.type=full",
        "train.max_steps=1",
        "data.near_duplicates=off",
        f"output.dir={folder / 'a'}",
    )
    done = run(
        "train",
        f"model={folder / 'a' / 'model'}",
        f"data.train={three}",
        "method.type=lora",
        "train.max_steps=1",
        "data.near_duplicates=off",
        f"output.dir={folder / 'b'}",
    )
    return done.code == 0


def _adapters(folder: Path, run: Run) -> bool:
    file = rows(folder, "r.jsonl", 40, lambda i, r: r)
    for name, rank in (("a", 8), ("b", 4)):
        train(run, file, folder / name, f"method.r={rank}", "train.max_steps=1")
    done = run(
        "adapters",
        "combine",
        str(folder / "a"),
        str(folder / "b"),
        "--weights",
        "0.5,0.5",
        "--output",
        str(folder / "both"),
    )
    return done.code == 0


def _absent_class(folder: Path, run: Run) -> bool:
    out = _predicts(folder, run)
    one = rows(folder, "one.jsonl", 10, lambda i, r: {**r, "label": "正面"})
    other = rows(folder, "other.jsonl", 10, lambda i, r: {**r, "label": "别的"})
    return run("eval", str(out), "--data", str(one)).code == 0 and run("eval", str(out), "--data", str(other)).code == 2


CASES = (
    Case("01 labels that look alike", "an error-level finding for 1/1.0, full width, U+200B, NFD, true/是", _alike),
    Case("02 placeholder labels", "a finding for nan, None, N/A", lambda f, r: all(check(r, rows(f, f"{n}.jsonl", 60, lambda i, row, w=w: {**row, "label": [w, "a", "b"][i % 3]}), "task=classification").has("placeholder_labels") for n, w in enumerate(("nan", "None", "N/A")))),
    Case("03 separators of several labels", "cut at full-width marks; a finding for /; vectors refused", _separators),
    Case("04 a label with one row", "trained", _singleton),
    Case("05 a column that row 1 lacks", "read as pairs", lambda f, r: check(r, rows(f, "r.jsonl", 60, lambda i, row: {**row, **({"text_pair": f"再{i}"} if i else {})})).report.get("format", {}).get("name") == "text pair and label"),
    Case("06 unknown tokens", "a finding with the share", lambda f, r: r("data", "check", str(rows(f, "r.jsonl", 60, lambda i, row: {"text": "🍜🍣" + "🍕" * (i % 7), "label": "ab"[i % 2]})), "--model", MODEL, "--json").has("unknown_tokens")),
    Case("07 twins with U+200B", "60 duplicates", _zero_width),
    Case("08 Big5 and cp1252", "read rightly", _encodings),
    Case("09 bytes on the command line", "one message, exit code 2", _bytes),
    Case("10 a chat template in GBK", "one message, exit code 2", _template),
    Case("11 U+2028 in rejected rows", "no usable rows, exit code 2", _separator_in_rejected),
    Case("12 exports of Excel and pandas", "nine read, the NUL byte's line named", _exports),
    Case("13 words with blanks in a tab file", "the word is whole", _blanks),
    Case("14 an empty last column", "an error of those lines", _empty_tag),
    Case("15 -DOCSTART- without a blank line", "20 sentences", _documents),
    Case("16 comments and odd tags", "comments skipped, lower-case tags refused", _oddities),
    Case("17 system and history beside the turns", "in the text", _beside),
    Case("18 tool calls", "refused by a template without them, learnt by one with them", _calls),
    Case("19 turns not to be learnt", "not learnt", _marked),
    Case("20 reasoning and images", "refused by name where the template lacks them", _reasoning),
    Case("21 the same role twice", "rendered", _same_role),
    Case("22 epochs changed before a resume", "refused by name", _epochs_changed),
    Case("23 save_total_limit=1 with the best", "last and best are kept", _keeps_best),
    Case("24 the best checkpoint is gone", "said, and a model at the end", _best_gone),
    Case("25 the newest checkpoint is broken", "said truly, and the next ones are kept", _newest_broken),
    Case("26 pad ids differ", "the same answer alone and beside others", _pad_ids),
    Case("27 model_max_length 1e30", "cut at 512, said", _long),
    Case("28 rows to predict", "empty named, skipped on request, cuts marked", _predict_rows),
    Case("29 adapters of two ranks", "combined", _adapters),
    Case("30 another number of labels", "trained", _other_labels),
    Case("31 an absent class in eval", "scored; an unknown label refused", _absent_class),
)  # fmt: skip


def runner(source: Path) -> Run:
    """Runs the command line of a source tree."""
    environment = os.environ | {"PYTHONPATH": str(source / "src"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}

    def run(*words: str, background: bool = False) -> Any:
        command = [sys.executable, "-m", "weitiao", *words]
        if background:
            return subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        return Shown(done.returncode, done.stderr + done.stdout)

    return run


def outcome(case: Case, run: Run) -> str:
    """as expected, otherwise, or a traceback."""
    seen: list[Shown] = []

    def watched(*words: str, **options: Any) -> Any:
        shown = run(*words, **options)
        seen.extend([shown] if isinstance(shown, Shown) else [])
        return shown

    with tempfile.TemporaryDirectory() as folder:
        try:
            good = case.holds(Path(folder), watched)
        except (KeyError, IndexError, ValueError, OSError):  # what was looked for is not there
            good = False
    if any("Traceback (most recent call last)" in shown.text for shown in seen):
        return "traceback"
    return "as expected" if good else "otherwise"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--before", help="a commit to compare with")
    options.add_argument("--only", help="names that begin so")
    given = options.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        trees = {"after": ROOT}
        if given.before:
            subprocess.run(
                ["git", "worktree", "add", "--detach", f"{scratch}/before", given.before], cwd=ROOT, check=True
            )
            trees = {"before": Path(scratch) / "before", **trees}
            kept["before"] = given.before
        for case in CASES:
            if given.only and not case.name.startswith(given.only):
                continue
            found = kept["cases"].setdefault(case.name, {})
            found["expected"] = case.expected
            for when, tree in trees.items():
                found[when] = outcome(case, runner(tree))
                print(f"{case.name}: {when}: {found[when]}", flush=True)
            RESULTS.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if given.before:
            subprocess.run(["git", "worktree", "remove", "--force", f"{scratch}/before"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
