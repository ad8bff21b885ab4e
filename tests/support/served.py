"""Runs of several tasks on the tiny model, and a real server over them."""

import http.client
import json
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weitiao
from support.fork_server import ForkServer, Process
from weitiao.config.method_names import ALIASES
from weitiao.rundir.folder import RunDir

Options = dict[str, Any]


def trained(options: Options, folder: Path, method: str = "lora", **changes: Any) -> RunDir:
    """A few steps at a rate that moves every weight."""
    train = {**options["train"], "num_train_epochs": 1, "learning_rate": 2e-2}
    given = {**options, "train": train, "method": ALIASES.get(method, {"type": method})}
    return weitiao.train({**given, **changes, "output": {"dir": str(folder)}})


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def runs_of_many_tasks(folder: Path, tiny_model: Path, rows_file: Path, tagged_file: Path) -> dict[str, RunDir]:
    """Two classifiers, one of five labels, tags, numbers, several labels and pairs by LoRA on one base; DoRA; a full run."""
    train = {"bf16": False, "tokens_per_batch": 96, "eval_strategy": "no"}
    options: Options = {"model": str(tiny_model), "train": train}
    texts = [json.loads(line)["text"] for line in rows_file.read_text(encoding="utf-8").splitlines()]
    five = write(folder / "five.jsonl", [{"text": text, "label": f"c{i % 5}"} for i, text in enumerate(texts)])
    numbers = write(folder / "numbers.jsonl", [{"text": text, "label": i % 7 / 2} for i, text in enumerate(texts)])
    several = write(
        folder / "several.jsonl", [{"text": t, "label": ["a", "b", "c"][: i % 3 + 1]} for i, t in enumerate(texts)]
    )
    pairs = write(
        folder / "pairs.jsonl", [{"text": a, "text_pair": b, "label": str(a < b)} for a, b in zip(texts, texts[7:], strict=False)]
    )  # fmt: skip
    data = {"test_size": 16, "near_duplicates": "off"}
    reviews = {**data, "train": str(rows_file)}
    made = folder / "runs"
    return {
        "reviews": trained(options, made / "reviews", data=reviews),
        "rs": trained(options, made / "rs", "rslora", data=reviews),
        "five": trained(options, made / "five", data={**data, "train": five}),
        "tags": trained(options, made / "tags", task="token_classification", data={**data, "train": str(tagged_file)}),
        "numbers": trained(options, made / "numbers", task="regression", data={**data, "train": numbers}),
        "several": trained(options, made / "several", task="multi_label", data={**data, "train": several}),
        "pairs": trained(options, made / "pairs", data={**data, "train": pairs, "text_pair": "text_pair"}),
        "dora": trained(options, made / "dora", "dora", data=reviews),
        "full": trained(options, made / "full", "full", data=reviews),
    }


def writers(folder: Path, tiny_chat_model: Path, chats_file: Path) -> None:
    """Runs that write texts, by their methods: two that share their base, one that is summed into it, a full one, prompts."""
    options: Options = {
        "model": str(tiny_chat_model),
        "task": "causal_lm",
        "data": {"train": str(chats_file), "test_size": 8, "near_duplicates": "off"},
        "train": {"bf16": False, "tokens_per_batch": 256, "eval_strategy": "no", "generate_rows": 0},
    }
    made = folder / "runs"
    for name in ("lora", "rslora", "dora", "full", "prompt"):
        trained(options, made / name, name)


@dataclass
class Client:
    """A client of one server, which knows nothing of its code."""

    process: Process
    port: int

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, verb: str | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON (or text), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        verb = verb or ("GET" if body is None else "POST")
        connection.request(verb, path, data, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        told = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, json.loads(text) if "json" in told.get("content-type", "") else text, told


@contextmanager
def server(fork_server: ForkServer, log: Path, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Client]:
    """`weitiao serve WORDS` on a free port, until the end of the block; then it must end by SIGTERM with code 0."""
    with log.open("w") as said:
        process = fork_server.start("serve", *words, "--port", "0", stderr=said, env=env)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        try:
            yield Client(process, int(found[1]))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text(encoding="utf-8")
        finally:
            process.kill()
