"""Answers that are written together: room, faults of one, models that come and go, and the end of a server in a stream."""

import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fork_server import ForkServer
from support.served import server, trained
from weitiao.errors import ModelError
from weitiao.inference.decoder import Decoder, Unfit
from weitiao.inference.sampling import Asked
from weitiao.rundir.folder import RunDir
from weitiao.serving.registry import Registry, find_runs
from weitiao.serving.worker import Full, Stopping
from weitiao.serving.writer import Answer, Piece, Writer

Runs = dict[str, RunDir]
PROMPT = list(range(20, 50))


@pytest.fixture(scope="module")
def runs(writer_runs: Runs) -> Runs:
    return {name: writer_runs[name] for name in ("lora", "rslora")}


def listed(runs: Runs) -> Registry:
    """A registry is of one engine, which its models are resident in."""
    return Registry(find_runs([], {name: run.path for name, run in runs.items()}))


@pytest.fixture
def registry(runs: Runs) -> Registry:
    return listed(runs)


@pytest.fixture
def started() -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def start(**options: Any) -> Writer:
        made.append(Writer(**options))
        return made[-1]

    yield start
    for writer in made:
        writer.stop(drop=True)


class Heard:
    """An answer, and what came of it."""

    def __init__(self, registry: Registry, name: str, ids: list[int], most: int = 5, **asked: Any) -> None:
        self.pieces: queue.Queue[Piece] = queue.Queue()
        self.answer = Answer(registry.open_writer(name), ids, Asked(most, **asked), self.pieces.put)

    def tokens(self) -> list[int]:
        """All tokens, or what went wrong."""
        found: list[int] = []
        while True:
            piece = self.pieces.get(timeout=60)
            if piece.error is not None:
                raise piece.error
            found += [piece.token.id] if piece.token else []
            if piece.finish is not None:
                return found


def test_room_for_one_at_a_time(runs: Runs, started: Callable[..., Writer]) -> None:
    """Answers wait for memory, in order, and are the same as with much of it; one that is larger than all of it runs alone."""
    asked = [(name, PROMPT[:n]) for name in ("lora", "rslora", "model") for n in (5, 30)]
    large, registry = started(), listed(runs)
    expected = []
    for name, ids in asked:
        large.submit((one := Heard(registry, name, ids)).answer)
        expected.append(one.tokens())
    small, registry = started(memory_bytes=1), listed(runs)
    heard = [Heard(registry, name, ids) for name, ids in asked]
    with small._changed:
        for one in heard:
            small.submit(one.answer)
    assert [one.tokens() for one in heard] == expected
    assert len(small._kept) <= 1  # the last one's, which was there when it ran
    assert large.reused > 0


def test_long_prompts_are_read_in_parts(runs: Runs, started: Callable[..., Writer]) -> None:
    found = []
    for room in (7, 1000):
        writer, registry = started(prompt_tokens=room), listed(runs)
        heard = [Heard(registry, name, PROMPT[: 30 - i]) for i, name in enumerate(("lora", "rslora", "model"))]
        with writer._changed:
            for one in heard:
                writer.submit(one.answer)
        found.append([one.tokens() for one in heard])
        assert writer.steps == (13 + 4 if room == 7 else 5)  # 87 tokens of prompts; the last part gives the first token
    assert found[0] == found[1]


def test_conversations_in_turns_keep_what_each_has_read(runs: Runs, started: Callable[..., Writer]) -> None:
    """Two that begin alike, as all of one template do: the second one's start takes nothing from the first."""
    firsts = [[5, 6, *PROMPT], [5, 6, *PROMPT[::-1]]]

    def turns(writers: list[Writer]) -> list[Answer]:
        answers: list[Answer] = []
        for i in range(6):
            before = [*answers[i - 2].ids, *answers[i - 2].tokens, 9] if i > 1 else firsts[i]
            one = Heard(listed(runs) if len(writers) > 1 else registry, "lora", before)
            writers[i % len(writers)].submit(one.answer)
            one.tokens()
            answers.append(one.answer)
        return answers

    registry = listed(runs)
    writer = started()
    found = turns([writer])
    fresh = turns([started() for _ in range(6)])
    assert [one.tokens for one in found] == [one.tokens for one in fresh]
    assert [one.known for one in found] == [0, 2, *(len(one.ids) + len(one.tokens) - 1 for one in found[:4])]
    assert len(writer._kept) == 2  # of each conversation the last one alone


def test_prompts_are_read_in_the_order_they_came(registry: Registry, started: Callable[..., Writer]) -> None:
    writer, order = started(prompt_tokens=8), []
    heard = [Heard(registry, name, PROMPT, most=1) for name in ("rslora", "lora")]
    for one in heard:
        one.answer.hear = lambda piece, one=one: (order.append(one.answer.speaker.name), one.pieces.put(piece))  # type: ignore[misc]
    with writer._changed:
        for one in heard:
            writer.submit(one.answer)
    for one in heard:
        one.tokens()
    assert order == ["rslora", "lora"]


def test_a_model_that_waits_for_room_is_read_once(registry: Registry, started: Callable[..., Writer]) -> None:
    writer = started(resident=1, memory_bytes=1)
    heard = [Heard(registry, name, PROMPT, most=20) for name in ("lora", "rslora")]
    with writer._changed:
        for one in heard:
            writer.submit(one.answer)
    for one in heard:
        one.tokens()
    assert writer.residents.loaded == 2


def test_longrope_has_its_first_context(tiny_chat_model: Path, chats_file: Path, tmp_path: Path) -> None:
    """Behind it the frequencies of every token of a pass change, those of shorter conversations too."""
    import json
    import shutil

    base = Path(shutil.copytree(tiny_chat_model, tmp_path / "long"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512, **factors}
    (base / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}), encoding="utf-8")
    data = {"train": str(chats_file), "test_size": 8, "near_duplicates": "off"}
    train = {"bf16": False, "tokens_per_batch": 256, "eval_strategy": "no", "generate_rows": 0}
    options: dict[str, Any] = {"model": str(base), "task": "causal_lm", "data": data, "train": train}
    run = trained(options, tmp_path / "run")
    registry = listed({"lora": run})
    assert [registry.open_writer(name).context for name in ("lora", "long")] == [512, 512]


def test_a_fault_of_one_is_not_anothers(
    registry: Registry, started: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Decoder.next_logits

    def broken(self: Decoder, parts: Any) -> Any:
        if any(part.memory.ids[:1] == [99] or part.ids[:1] == [99] for part in parts):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return right(self, parts)

    writer = started()
    writer.submit((one := Heard(registry, "lora", PROMPT)).answer)
    expected = one.tokens()
    monkeypatch.setattr(Decoder, "next_logits", broken)
    good, bad = Heard(registry, "lora", PROMPT), Heard(registry, "rslora", [99, *PROMPT])
    with writer._changed:
        writer.submit(bad.answer)
        writer.submit(good.answer)
    assert good.tokens() == expected
    with pytest.raises(RuntimeError, match="allocate"):
        bad.tokens()
    assert not writer.running


def test_models_come_and_go(registry: Registry, started: Callable[..., Writer]) -> None:
    """One model stays, so each answer evicts the other's; one that works is never evicted."""
    writer = started(resident=1)
    found = []
    for name in ("lora", "rslora", "lora", "rslora"):
        writer.submit((one := Heard(registry, name, PROMPT)).answer)
        found.append(one.tokens())
    assert found[:2] == found[2:]
    assert found[0] != found[1]
    both = [Heard(registry, name, PROMPT) for name in ("lora", "rslora")]
    with writer._changed:
        for one in both:
            writer.submit(one.answer)
    assert [one.tokens() for one in both] == found[:2]
    assert writer.residents.evicted >= 3


def test_a_damaged_model_is_said_and_others_go_on(runs: Runs, started: Callable[..., Writer], tmp_path: Path) -> None:
    import shutil

    broken = RunDir(shutil.copytree(runs["lora"].path, tmp_path / "broken"))
    registry = Registry(find_runs([], {"broken": broken.path, "lora": runs["lora"].path}))
    (broken.model / "adapter_model.safetensors").write_bytes(b"no tensors")
    writer = started()
    bad, good = Heard(registry, "broken", PROMPT), Heard(registry, "lora", PROMPT)
    with writer._changed:
        writer.submit(bad.answer)
        writer.submit(good.answer)
    with pytest.raises(ModelError, match="'broken' cannot be opened"):
        bad.tokens()
    assert len(good.tokens()) >= 1


def test_a_model_that_cannot_be_served_is_read_once(
    registry: Registry, started: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Decoder] = []

    def unfit(self: Decoder) -> int:
        checks.append(self)
        raise Unfit("It keeps more than keys and values.")

    monkeypatch.setattr(Decoder, "_check", unfit)
    writer = started()
    for _ in range(2):
        writer.submit((one := Heard(registry, "lora", PROMPT)).answer)
        with pytest.raises(Unfit, match="keeps more"):
            one.tokens()
    assert len(checks) == 1


def test_keys_and_values_stay_within_what_was_counted(registry: Registry, started: Callable[..., Writer]) -> None:
    writer = started()
    for length, most in ((30, 5), (300, 200)):
        writer.submit((one := Heard(registry, "model", [i % 90 + 9 for i in range(length)], most=most)).answer)
        one.tokens()
        decoder = writer.residents.bodies[one.answer.speaker.base]
        assert one.answer.memory.num_bytes <= one.answer.most_tokens * decoder.bytes_per_token


def test_full_queues_and_ends(runs: Runs, started: Callable[..., Writer]) -> None:
    writer, registry = started(most_waiting=2, at_once=1), listed(runs)
    with writer._changed:
        for _ in range(2):
            writer.submit(Heard(registry, "lora", PROMPT).answer)
        with pytest.raises(Full):
            writer.submit(Heard(registry, "lora", PROMPT).answer)
    writer.stop()
    with pytest.raises(Stopping):
        writer.submit(Heard(registry, "lora", PROMPT).answer)
    other, registry = started(), listed(runs)
    long = Heard(registry, "model", PROMPT, most=100_000, temperature=2.0)
    other.submit(long.answer)
    long.pieces.get(timeout=60)
    assert other.stop(drop=True) == 1
    with pytest.raises(Stopping):
        long.tokens()


def test_a_stream_ends_before_the_server(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    """SIGTERM in the middle of a stream: it goes on to its end, and the server ends with code 0."""
    import http.client
    import json

    with server(fork_server, tmp_path / "log", "--adapter", f"lora={runs['lora'].path}") as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        body = {"model": "model", "prompt": "很好看", "max_tokens": 300, "temperature": 2, "seed": 3, "stream": True}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        first = answer.readline()
        client.process.send_signal(signal.SIGTERM)
        rest = answer.read().decode()
        connection.close()
        assert first.startswith(b"data: ")
        assert rest.endswith("data: [DONE]\n\n")
        assert '"finish_reason": "length"' in rest or '"finish_reason": "stop"' in rest
        assert client.process.wait(60) == 0


def test_a_stream_that_the_end_cuts_is_counted(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    """Ctrl-C twice: the server does not wait, and says what it left."""
    import http.client
    import json

    log = tmp_path / "log"
    with server(fork_server, log, str(runs["lora"].path.parent)) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        body = {"model": "model", "prompt": "很好看", "max_tokens": 2000, "temperature": 2, "seed": 3, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        connection.getresponse().readline()
        for _ in range(2):
            client.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert client.process.wait(60) == 0
        connection.close()
    assert "1 parts of requests were not answered" in log.read_text(encoding="utf-8")
