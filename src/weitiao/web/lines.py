"""The same question from a terminal or a program."""

import json
import shlex
from dataclasses import dataclass

from weitiao.serving.labelling import ENTITIES
from weitiao.serving.registry import Listed


@dataclass(frozen=True)
class Lines:
    """A command of `weitiao`, a line of curl, and Python."""

    command: str | None
    curl: str
    python: str


def lines(listed: Listed, address: str, texts: tuple[str, str | None], *, asks_key: bool) -> Lines:
    """How to ask a model without the page.

    Args:
        address: of this server, without a slash at its end.
        texts: the text, and the second one of a pair.
        asks_key: requests need a key.
    """
    text, pair = texts
    if listed.writes:
        return _of_chat(listed, address, text, asks_key=asks_key)
    inputs: object = text if pair is None else [[text, pair]]
    path = "/tokens" if listed.task in ENTITIES else "/predict"
    words = ["weitiao", "predict", str(listed.run and listed.run.path), f"--text={text}"]
    words += [] if pair is None else [f"--text-pair={pair}"]
    more = "" if pair is None else f", text_pair={_quoted(pair)}"
    python = f"import weitiao\n\nprint(weitiao.predict({_quoted(words[2])}, text={_quoted(text)}{more}))"
    body = {"model": listed.name, "inputs": inputs}
    return Lines(shlex.join(words), _curl(f"{address}{path}", body, asks_key=asks_key), python)


def _of_chat(listed: Listed, address: str, text: str, *, asks_key: bool) -> Lines:
    body = {"model": listed.name, "messages": [{"role": "user", "content": text}], "temperature": 0}
    key = "KEY" if asks_key else "none"
    python = (
        f'from openai import OpenAI\n\nclient = OpenAI(base_url="{address}/v1", api_key="{key}")\n'
        f'turns = [{{"role": "user", "content": {_quoted(text)}}}]\n'
        f"for chunk in client.chat.completions.create(model={_quoted(listed.name)}, messages=turns, temperature=0, stream=True):\n"
        '    print(chunk.choices[0].delta.content or "", end="", flush=True)'
    )
    command = None if listed.run is None else shlex.join(["weitiao", "predict", str(listed.run.path), f"--text={text}"])
    return Lines(command, _curl(f"{address}/v1/chat/completions", body, asks_key=asks_key), python)


def _curl(url: str, body: object, *, asks_key: bool) -> str:
    key = " -H 'Authorization: Bearer KEY'" if asks_key else ""
    return f"curl {url}{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
