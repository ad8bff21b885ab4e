"""Runs in use, by programs that know nothing of weitiao: python benchmarks/use.py SCRATCH (about 6 min on two cores).

Trains a short chat adapter and a short classifier, then asks them through OpenAI's client, transformers, onnxruntime and llama.cpp.
Writes docs/use.md and docs/use.zh.md.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import material
import serving_material as made
from figures import document
from record import ROOT
from serving_program import server, texts
from study_wording import LANGUAGES, Text, text

PAGES = ("use.md", "use.zh.md")
INTRO = (
    Text("# Runs in use", "# 在别的程序里使用训练结果"),
    Text(
        "`python benchmarks/use.py SCRATCH` trains a short classifier (multilingual-e5-small) and a short chat adapter "
        "(SmolLM2-135M-Instruct). It asks them in processes of programs that know nothing of weitiao. The runs are short: what "
        "counts is that the answers agree.",
        "`python benchmarks/use.py SCRATCH` 训练一个分类模型（multilingual-e5-small）和一个对话适配器（SmolLM2-135M-Instruct）。"
        "然后在单独的进程里，用和 weitiao 无关的程序向它们提问。训练很短，答得好不好不要紧，要紧的是回答一致。",
    ),
)
TITLES = {
    "predict": Text("weitiao predict, the reference of the classifier", "weitiao predict：分类模型的参照"),
    "merged": Text(
        "A merged folder in transformers (worst logit {worst} apart)",
        "合并后的文件夹，用 transformers 打开（logit 最多差 {worst}）",
    ),
    "onnx": Text(
        "An ONNX file in onnxruntime (worst logit {worst} apart)",
        "ONNX 文件，用 onnxruntime 打开（logit 最多差 {worst}）",
    ),
    "serve": Text(
        "OpenAI's client with weitiao serve: an adapter, and its base beside it",
        "用 OpenAI 的客户端访问 weitiao serve：一个适配器和它的基座",
    ),
    "gguf": Text(
        "A GGUF file of the same adapter in llama.cpp ({same} of {answers} held-out answers equal, worst log probability {worst} apart)",
        "同一个适配器的 GGUF 文件，用 llama.cpp 打开（{answers} 个留出问题有 {same} 个回答相同，对数概率最多差 {worst}）",
    ),
}
QUESTIONS = ("What is the capital of France?", "你好")
OPENAI = """
import sys, openai
client = openai.OpenAI(base_url=f"http://127.0.0.1:{sys.argv[1]}/v1", api_key="none")
for model in sys.argv[2].split(","):
    for question in sys.argv[3:]:
        turns = [{"role": "user", "content": question}]
        whole = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=24)
        parts = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=24, stream=True)
        pieces = [piece.choices[0].delta.content or "" for piece in parts if piece.choices]
        answer = whole.choices[0].message.content
        same = "the same" if "".join(pieces) == answer else "ANOTHER ANSWER"
        print(f"{model} | {question} -> {answer!r} ({whole.usage.completion_tokens} tokens); streamed in {len(pieces)} pieces: {same}")
"""
TRANSFORMERS = """
import sys
from transformers import pipeline
asked = pipeline("text-classification", model=sys.argv[1], device="cpu")
for text in sys.argv[2:]:
    found = asked(text)[0]
    print(f"{text} -> {found['label']} {found['score']:.4f}")
print("weitiao is imported:", "weitiao" in sys.modules)
"""
ONNX = """
import sys, json, numpy, onnxruntime
from tokenizers import Tokenizer
folder = sys.argv[1]
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
labels = json.load(open(f"{folder}/config.json"))["id2label"]
for text in sys.argv[2:]:
    found = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text)
    known = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
    given = {one.name: numpy.array([known[one.name]]) for one in session.get_inputs()}
    logits = session.run(None, given)[0][0]
    chances = numpy.exp(logits - logits.max()); chances /= chances.sum()
    print(f"{text} -> {labels[str(chances.argmax())]} {chances.max():.4f}")
print("weitiao is imported:", "weitiao" in sys.modules, "- torch:", "torch" in sys.modules)
"""
LLAMA = """
import json, os, sys, urllib.request, xllamacpp
out = os.fdopen(os.dup(1), "w", encoding="utf-8"); os.dup2(os.open(os.devnull, os.O_WRONLY), 1); os.dup2(1, 2)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.port, params.hostnames = sys.argv[1], 512, 1, False, 0, ["127.0.0.1"]
params.use_jinja = True
server = xllamacpp.Server(params)
for question in sys.argv[2:]:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 24}
    asked = urllib.request.Request(f"{server.listening_address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    print(f"{question} -> {json.load(urllib.request.urlopen(asked))['choices'][0]['message']['content']!r}", file=out)
print("weitiao is imported:", "weitiao" in sys.modules, "- torch:", "torch" in sys.modules, file=out, flush=True)
os._exit(0)
"""


def told(program: str, *words: str | Path) -> str:
    """What a program prints, in a process without this project's folder on its path."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip()


def main(scratch: Path) -> None:
    import weitiao

    chat, reviews = made.chats(scratch), made.reviews(scratch, material.E5, f"reviews-{material.E5}")
    folder = scratch / "use"
    shutil.rmtree(folder, ignore_errors=True)
    with server(scratch, "--adapter", f"chat={chat}") as port:
        talk = told(OPENAI, str(port), f"chat,{material.SMOLLM}", *QUESTIONS)
    merged = weitiao.merge(reviews, output=folder / "merged", dtype="float32")
    onnx = weitiao.export(reviews, output=folder / "onnx", format="onnx")
    gguf = weitiao.export(chat, output=folder / "gguf", format="gguf", quantization="f32")
    asked = texts(scratch, 3)
    predicted = weitiao.predict(reviews, text=asked)
    (file,) = (folder / "gguf").glob("*.gguf")
    parts = [
        (titled("predict"), "\n".join(map(_line, asked, predicted))),
        (titled("merged", worst=merged["worst"]), told(TRANSFORMERS, folder / "merged", *asked)),
        (titled("onnx", worst=onnx["worst"]), told(ONNX, folder / "onnx", *asked)),
        (titled("serve"), talk),
        (titled("gguf", **_compared(gguf["llama_cpp"])), told(LLAMA, file, *QUESTIONS)),
    ]
    for name, language in zip(PAGES, LANGUAGES, strict=True):
        (ROOT / "docs" / name).write_text(page(parts, language), "utf-8")


def titled(name: str, worst: float = 0.0, **counts: object) -> Text:
    """One of ``TITLES`` with its figures."""
    return text(*TITLES[name], worst=f"{worst:.1e}", **counts)


def page(parts: list[tuple[Text, str]], language: str) -> str:
    """One of ``PAGES``: of each part its title and what a program printed; ``language`` is of ``LANGUAGES``."""
    i = LANGUAGES.index(language)
    shown = [piece for title, printed in parts for piece in (f"## {title[i]}", f"```\n{printed}\n```")]
    return document([*(part[i] for part in INTRO), *shown], language)


def _line(text: str, answer: dict[str, object]) -> str:
    chances = answer["probabilities"]
    assert isinstance(chances, dict)
    return f"{text} -> {answer['label']} {max(chances.values()):.4f}"


def _compared(found: dict[str, Any]) -> dict[str, Any]:
    return {"same": found["same_answers"], "answers": found["answers"], "worst": found["worst"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())  # programs are asked from another folder
