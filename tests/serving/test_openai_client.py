"""Conversations through the official client: answers equal those of `weitiao predict`, alone, together and as a stream."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import weitiao
from support.fork_server import ForkServer
from support.served import Client, server
from weitiao.inference.sampling import Asked
from weitiao.rundir.folder import RunDir
from weitiao.serving.chat_schemas import Completion
from weitiao.serving.openai import _TEXT, _streamed, _worded
from weitiao.serving.registry import Registry, find_runs
from weitiao.serving.writer import Answer, Piece

openai = pytest.importorskip("openai")
ASKED = ["很好看的书？", "太差了？", "服务好，下次再来看看吧？"]
Runs = dict[str, RunDir]


@pytest.fixture(scope="module")
def runs(writer_runs: Runs) -> Runs:
    return {name: run for name, run in writer_runs.items() if name != "prompt"}


@pytest.fixture(scope="module")
def server_of(runs: Runs, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("chat") / "log"
    with server(fork_server, log, str(runs["lora"].path.parent), "--new-tokens", "24") as found:
        assert "prompt: what method=prompt learnt lies before the words, and is not served" in log.read_text()
        yield found


@pytest.fixture(scope="module")
def client(server_of: Client) -> Any:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server_of.port}/v1", api_key="none", max_retries=0)


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def asked(client: Any, model: str, text: str, **more: Any) -> Any:
    given = {"temperature": 0, "max_tokens": 12, **more}
    return client.chat.completions.create(model=model, messages=turn(text), **given)


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def predicted(run: RunDir, text: str) -> str:
    return str(weitiao.predict(run.path, text=text, max_new_tokens=12)[0]["answer"])


def test_answers_are_those_of_predict(client: Any, runs: Runs) -> None:
    found = {name: [text_of(asked(client, name, text)) for text in ASKED] for name in runs}
    for name, run in runs.items():
        assert found[name] == [predicted(run, text) for text in ASKED], name
    assert len({tuple(answers) for answers in found.values()}) == len(runs)  # each model has answers of its own


def test_models_are_runs_and_their_base(client: Any, runs: Runs) -> None:
    by_name = {one.id: one for one in client.models.list()}
    assert set(by_name) == {*runs, "model"}
    assert by_name["model"].parent is None
    base_model = runs["lora"].summary["base_model"]
    assert by_name["lora"].parent == base_model
    base = text_of(asked(client, "model", ASKED[0]))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    ids = tokenizer.apply_chat_template(
        turn(ASKED[0]), add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    plain = AutoModelForCausalLM.from_pretrained(base_model)
    written = plain.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert base == tokenizer.decode(written, skip_special_tokens=True).rstrip("\ufffd")


def test_streams_and_whole_answers_are_the_same(client: Any, runs: Runs) -> None:
    for name in runs:
        whole = asked(client, name, ASKED[2])
        chunks = list(asked(client, name, ASKED[2], stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text_of(whole)
        assert chunks[0].choices[0].delta.role == "assistant"
        ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        assert ends == [whole.choices[0].finish_reason]
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert len({c.id for c in chunks}) == 1


def test_many_at_once_get_their_own_answers(client: Any, runs: Runs) -> None:
    """Prompts of several lengths, begun and ended at any step, on several adapters."""
    expected = {(name, text): text_of(asked(client, name, text)) for name in runs for text in ASKED}
    wrong: list[Any] = []

    def work(number: int) -> None:
        for i in range(6):
            name, text = list(runs)[(number + i) % len(runs)], ASKED[number * i % 3]
            if (found := text_of(asked(client, name, text))) != expected[name, text]:
                wrong.append((name, text, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_usage_and_the_end(client: Any, runs: Runs) -> None:
    answer = asked(client, "lora", ASKED[0], max_tokens=3)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3
    again = asked(client, "lora", ASKED[0], max_tokens=3)
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1  # the prompt is known
    assert text_of(again) == text_of(answer)
    assert asked(client, "lora", ASKED[0], max_completion_tokens=2, max_tokens=None).usage.completion_tokens == 2
    unbounded = client.chat.completions.create(model="lora", messages=turn(ASKED[0]), temperature=0)
    assert unbounded.usage.completion_tokens <= 24


def test_conversations_of_several_turns(client: Any, runs: Runs) -> None:
    messages = [*turn(ASKED[0]), {"role": "assistant", "content": "是"}, *turn("再说一次0")]
    found = client.chat.completions.create(model="lora", messages=messages, temperature=0, max_tokens=12)
    (answer,) = weitiao.inference.predictor.Predictor(runs["lora"]).replies([messages], 12)
    assert text_of(found) == answer["answer"]
    parts = [{"role": "user", "content": [{"type": "text", "text": ASKED[0]}]}, *messages[1:]]
    again = client.chat.completions.create(model="lora", messages=parts, temperature=0, max_tokens=12)
    assert text_of(again) == text_of(found)


def test_stop_texts_end_an_answer_and_are_left_out(client: Any, runs: Runs) -> None:
    whole = text_of(asked(client, "full", ASKED[0]))
    assert len(whole) >= 3
    stop = whole[1:3]
    cut = asked(client, "full", ASKED[0], stop=["never here", stop])
    assert (text_of(cut), cut.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
    streamed = asked(client, "full", ASKED[0], stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == text_of(cut)


def test_seeds_repeat_and_chance_differs(client: Any, runs: Runs) -> None:
    def drawn(**more: Any) -> str:
        return text_of(asked(client, "lora", ASKED[0], temperature=1.5, **more))

    assert len({drawn(seed=7) for _ in range(3)}) == 1
    assert len({drawn(seed=seed) for seed in range(5)}) > 1
    assert len({drawn() for _ in range(5)}) > 1
    assert drawn(top_p=1e-6) == text_of(asked(client, "lora", ASKED[0]))  # only the likeliest is left


def test_log_probabilities_are_the_models(client: Any, runs: Runs) -> None:
    import torch

    from weitiao.data.chat import Chat
    from weitiao.inference.predictor import Predictor

    answer = asked(client, "lora", ASKED[0], logprobs=True, top_logprobs=3)
    predictor = Predictor(runs["lora"])
    prompt = Chat.of(predictor.tokenizer, None).question(turn(ASKED[0]))
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    ids = list(prompt)
    for one in content:
        with torch.inference_mode():
            found = predictor.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = int(found.argmax())
        assert one.logprob == pytest.approx(float(found[best]), abs=1e-4)
        assert [t.logprob for t in one.top_logprobs] == pytest.approx(found.topk(3).values.tolist(), abs=1e-4)
        assert bytes(one.bytes).decode() == one.token
        ids.append(best)


def test_plain_completions(client: Any, runs: Runs) -> None:
    given = {"model": "lora", "prompt": "很好看", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**given, logprobs=2)
    choice = whole.choices[0]
    assert len(choice.logprobs.tokens) == whole.usage.completion_tokens == 6
    assert choice.logprobs.text_offset[0] == 3
    assert all(
        max(top.values()) == value
        for top, value in zip(choice.logprobs.top_logprobs, choice.logprobs.token_logprobs, strict=True)
    )
    streamed = client.completions.create(**given, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text
    assert client.completions.create(**{**given, "max_tokens": None}).usage.completion_tokens <= 16


def test_streams_have_the_log_probabilities_of_whole_answers(client: Any) -> None:
    given = {"model": "lora", "prompt": "很好看", "temperature": 0, "max_tokens": 6, "logprobs": 1}
    whole = client.completions.create(**given).choices[0].logprobs
    chunks = [chunk.choices[0].logprobs for chunk in client.completions.create(**given, stream=True)]
    assert [one.text_offset[0] for one in chunks] == whole.text_offset
    assert [one.tokens[0] for one in chunks] == whole.tokens
    assert _worded(Half(), 5, -1.0) == {"token": "\ufffd", "logprob": -1.0, "bytes": None}


class Half:
    """A tokenizer whose tokens are parts of a character."""

    def decode(self, _: Any) -> str:
        return "\ufffd"


NULLS = [
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "n",
    "stream",
    "stream_options",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "logit_bias",
    "metadata",
    "store",
]


def test_null_is_as_if_it_were_left_out(server_of: Client) -> None:
    given = {"model": "lora", "temperature": 0, "seed": 3, "max_tokens": 4}
    messages = [{**turn(ASKED[0])[0], "name": None}]
    for path, more in (("chat/completions", {"messages": messages}), ("completions", {"prompt": ASKED[0]})):
        nulls = {name: None for name in NULLS if name not in given} | {"echo": None, "best_of": None, "suffix": None}
        status, found, _ = server_of.ask(f"/v1/{path}", {**nulls, **given, **more})
        assert (status, found["usage"]["completion_tokens"]) == (200, 4), found
    status, found, _ = server_of.ask("/v1/completions", {"model": "lora", "prompt": None})
    assert (status, found["error"]["param"]) == (422, "prompt")


def test_an_answer_goes_back_as_it_came(client: Any) -> None:
    """The client's own object, which has keys with null."""
    reply = asked(client, "lora", ASKED[0]).choices[0].message
    messages = [*turn(ASKED[0]), reply, *turn("b")]
    found = client.chat.completions.create(model="lora", messages=messages, temperature=0, max_tokens=4)
    messages[1] = {"role": "assistant", "content": reply.content}
    again = client.chat.completions.create(model="lora", messages=messages, temperature=0, max_tokens=4)
    assert text_of(found) == text_of(again)


def test_a_stream_that_fails_says_so(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    speaker = Registry(find_runs([], {"lora": runs["lora"].path})).open_writer("lora")

    async def pieces() -> Any:
        yield Piece("a")
        raise RuntimeError("no memory")

    async def lines() -> list[Any]:
        response = _streamed(_TEXT, Completion(prompt="a"), Answer(speaker, [5], Asked(4), lambda _: None), pieces())
        return [line async for line in response.body_iterator]

    found = asyncio.run(lines())
    assert len(found) == 2
    assert '"code": 500' in found[1]
    assert "no memory" in caplog.text
    assert "no memory" not in found[1]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("n", 2, "n"),
        ("presence_penalty", 0.5, "presence_penalty"),
        ("tools", [{"type": "function", "function": {"name": "f"}}], "tools"),
        ("logit_bias", {"5": 10}, "logit_bias"),
        ("response_format", {"type": "json_object"}, "response_format"),
        ("max_tokens", 5000, "2,048 tokens"),
        ("top_logprobs", 2, "logprobs=true"),
        ("stream_options", {"include_usage": True}, "stream=true"),
        ("temperature", 3, "temperature"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: Any, option: str, value: Any, named: str) -> None:
    with pytest.raises(openai.APIStatusError, match=named) as error:
        asked(client, "lora", ASKED[0], **{option: value})
    assert error.value.status_code in (400, 422)


def test_models_of_other_kinds_are_refused(client: Any, server_of: Client) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean lora"):
        asked(client, "lorra", ASKED[0])
    status, found, _ = server_of.ask("/classify", {"model": "lora", "input": "很好"})
    assert (status, "task=causal_lm" in found["error"]["message"]) == (400, True)
    for messages in ([], [{"role": "tool", "content": "a"}], [{"role": "user", "content": [{"type": "image_url"}]}]):
        status, found, _ = server_of.ask("/v1/chat/completions", {"model": "lora", "messages": messages})
        assert status == 422


@pytest.mark.parametrize("wait", [0.0, 0.3])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_answer(client: Any, server_of: Client, stream: bool, wait: float) -> None:
    """Before its first word too, and where it waits for the whole answer."""
    import json
    import socket
    import time

    given = {"model": "lora", "prompt": "很好看", "max_tokens": 1900, "temperature": 2, "stream": stream}
    body = json.dumps(given).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    asked(client, "lora", ASKED[0])  # the model is there
    _, before, _ = server_of.ask("/metrics")
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", server_of.port)) as one:
            one.sendall(head.encode() + body)
            time.sleep(wait)
    time.sleep(0.2)
    for _ in range(20):
        _, text, _ = server_of.ask("/metrics")
        if "weitiao_answers_running 0.0" in text and "weitiao_answers_waiting 0.0" in text:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("it is still being written")
    assert steps_of(text) - steps_of(before) < 1900  # it did not end by itself


def steps_of(metrics: str) -> float:
    return float(
        next(line for line in metrics.splitlines() if line.startswith("weitiao_answer_steps_total")).split()[1]
    )
