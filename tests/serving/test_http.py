"""A real server over runs of every task: the shapes that clients know, what is refused, and how it ends."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.fork_server import ForkServer
from support.served import Client, server
from weitiao.rundir.folder import RunDir

TEXTS = ["很好看的书", "太差了", "服务好，下次再来看看吧"]
Runs = dict[str, RunDir]


@pytest.fixture(scope="module")
def runs(served_runs: dict[str, RunDir]) -> dict[str, RunDir]:
    return served_runs


@pytest.fixture(scope="module")
def client(runs: Runs, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("server")
    root = runs["reviews"].path.parent
    words = [str(root), "--adapter", f"again={runs['reviews'].path}", "--texts", "8", "--body-bytes", "40000"]
    with server(fork_server, folder / "log", *words) as found:
        yield found


def predicted(run: RunDir, texts: list[str], **given: Any) -> list[dict[str, Any]]:
    return weitiao.predict(run.path, text=texts, **given)


def test_every_task_answers_as_predict_does(client: Client, runs: Runs) -> None:
    for name in ("reviews", "rs", "five", "dora", "full", "several"):
        status, found, _ = client.ask("/classify", {"model": name, "input": TEXTS})
        assert (status, found["model"], len(found["data"])) == (200, name, 3)
        for i, (one, answer) in enumerate(zip(found["data"], predicted(runs[name], TEXTS), strict=True)):
            assert one["index"] == i
            assert one["probs"] == pytest.approx(list(answer["probabilities"].values()), abs=1e-5)
            assert one["num_classes"] == len(answer["probabilities"])
            assert one["label"] == max(answer["probabilities"], key=lambda label: answer["probabilities"][label])
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 3 * len(TEXTS)
    status, found, _ = client.ask("/predict", {"model": "numbers", "inputs": TEXTS})
    numbers = [answer["number"] for answer in predicted(runs["numbers"], TEXTS)]
    assert [one[0]["label"] for one in found] == ["number"] * 3
    assert [one[0]["score"] for one in found] == pytest.approx(numbers, abs=1e-5)
    status, found, _ = client.ask("/predict", {"model": "pairs", "inputs": [["很好", "太差"], ["太差", "很好"]]})
    expected = predicted(runs["pairs"], ["很好", "太差"], text_pair=["太差", "很好"])
    for one, answer in zip(found, expected, strict=True):
        assert {s["label"]: s["score"] for s in one} == pytest.approx(answer["probabilities"], abs=1e-5)
        assert [s["score"] for s in one] == sorted((s["score"] for s in one), reverse=True)
    status, found, _ = client.ask("/tokens", {"model": "tags", "inputs": TEXTS})
    assert status == 200
    for entities, answer in zip(found, predicted(runs["tags"], TEXTS), strict=True):
        told = [(e["entity_group"], e["word"], e["start"], e["end"]) for e in entities]
        assert told == [(e["type"], e["text"], e["start"], e["end"]) for e in answer["entities"]]
        assert [e["score"] for e in entities] == pytest.approx([e["score"] for e in answer["entities"]], abs=1e-5)


def test_one_text_is_one_list_and_raw_scores_are_logits(client: Client, runs: Runs) -> None:
    _, single, _ = client.ask("/predict", {"model": "reviews", "inputs": TEXTS[0]})
    _, several, _ = client.ask("/predict", {"model": "reviews", "inputs": TEXTS[:1]})
    assert [single] == several
    _, raw, _ = client.ask("/predict", {"model": "reviews", "inputs": TEXTS[0], "raw_scores": True})
    logits = {one["label"]: one["score"] for one in raw}
    row = next(iter(predicted(runs["reviews"], TEXTS[:1])))
    import math

    for name, p in row["probabilities"].items():
        assert math.exp(logits[name]) / sum(map(math.exp, logits.values())) == pytest.approx(p, abs=1e-5)


def test_many_clients_at_once_get_their_own_answers(client: Client, runs: Runs) -> None:
    """Requests of several adapters at the same time; each answer is that of its own adapter and text."""
    names = ["reviews", "rs", "five", "again"]
    expected = {
        name: {t: predicted(runs["reviews" if name == "again" else name], [t])[0]["probabilities"] for t in TEXTS}
        for name in names
    }
    wrong: list[Any] = []

    def work(number: int) -> None:
        for i in range(12):
            name, text = names[(number + i) % 4], TEXTS[(number * i) % 3]
            status, found, _ = client.ask("/predict", {"model": name, "inputs": text})
            got = {one["label"]: one["score"] for one in found} if status == 200 else found
            if got != pytest.approx(expected[name][text], abs=1e-5):
                wrong.append((name, text, got))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_models_and_pages(client: Client, runs: Runs) -> None:
    _, found, _ = client.ask("/v1/models")
    by_name = {one["id"]: one for one in found["data"]}
    assert set(by_name) == {*runs, "again"}
    assert by_name["five"]["labels"] == [f"c{i}" for i in range(5)]
    assert by_name["full"]["parent"] is None
    assert by_name["reviews"]["parent"] == runs["reviews"].summary["base_model"]
    assert client.ask("/health")[:2] == client.ask("/ready")[:2] == (200, {"status": "ok"})
    _, html, _ = client.ask("/docs")
    assert "POST /classify" in html
    assert not re.search(r"(src|href)=.https?:", html)
    assert client.ask("/predict", {"model": "reviews", "inputs": "好"})[0] == 200
    status, text, _ = client.ask("/metrics")
    assert status == 200
    assert re.search(r'weitiao_requests_total\{path="/predict",status="200"\} \d', text)
    assert re.search(r"weitiao_adapters_resident \d", text)


BAD: dict[str, tuple[str, Any, int, str]] = {
    "unknown model": ("/predict", {"model": "revews", "inputs": "好"}, 404, "Did you mean reviews"),
    "no model": ("/classify", {"input": "好"}, 400, "No model is named"),
    "wrong task": ("/tokens", {"model": "reviews", "inputs": "好"}, 400, "token_classification"),
    "a number for a label": ("/classify", {"model": "numbers", "input": "好"}, 400, "classification"),
    "one text of a pair": ("/predict", {"model": "pairs", "inputs": "好"}, 400, "text and text_pair"),
    "a pair for one text": ("/predict", {"model": "reviews", "inputs": [["好", "差"]]}, 400, "1 texts"),
    "mixed": ("/predict", {"model": "pairs", "inputs": [["好", "差"], "好"]}, 422, "among pairs"),
    "empty": ("/predict", {"model": "reviews", "inputs": " "}, 422, "visible"),
    "no texts": ("/predict", {"model": "reviews", "inputs": []}, 422, "inputs"),
    "an unknown option": ("/predict", {"model": "reviews", "inputs": "好", "top_n": 3}, 422, "top_n"),
    "half a character": ("/classify", {"model": "reviews", "input": "\ud800"}, 422, ""),
    "too many": ("/classify", {"model": "reviews", "input": ["好"] * 9}, 413, "9 texts"),
    "too long for the model": ("/classify", {"model": "reviews", "input": "好" * 300}, 413, "truncate=true"),
    "too long for the server": ("/classify", {"model": "reviews", "input": "好" * 20000}, 413, "40,000 bytes"),
    "no JSON": ("/classify", b'{"model": "rev', 422, ""),
    "no path": ("/nowhere", {"model": "reviews"}, 404, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_in_the_shape_of_their_path(client: Client, name: str) -> None:
    path, body, expected, words = BAD[name]
    status, found, _ = client.ask(path, body)
    assert status == expected, found
    if path == "/predict":
        assert set(found) == {"error", "error_type"}
        message = found["error"]
    else:
        assert set(found["error"]) == {"message", "type", "param", "code"}
        assert found["error"]["code"] == expected
        message = found["error"]["message"]
    assert words in message
    assert client.ask("/health")[0] == 200


def test_truncate_cuts_and_answers(client: Client, runs: Runs) -> None:
    status, found, _ = client.ask("/classify", {"model": "reviews", "input": "好" * 300, "truncate": True})
    assert status == 200
    expected = predicted(runs["reviews"], ["好" * 300])[0]
    assert found["data"][0]["probs"] == pytest.approx(list(expected["probabilities"].values()), abs=1e-5)


def test_a_body_without_a_length_is_counted(client: Client) -> None:
    """Chunks, whose sum nobody declares."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(
            b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        try:
            for _ in range(20):
                raw.sendall(chunk)
            raw.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it has answered and closed
        answer = raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413"), answer


def test_half_a_request_holds_nobody_up(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        assert client.ask("/classify", {"model": "reviews", "input": "好"})[0] == 200
    assert client.ask("/classify", {"model": "reviews", "input": "好"})[0] == 200


def test_a_page_elsewhere_cannot_ask(client: Client) -> None:
    """A name that leads to this machine is another's all the same."""
    status, found, _ = client.ask("/classify", {"model": "reviews", "input": "好"}, {"Host": "elsewhere.example"})
    assert status == 400
    assert "Host" in found["error"]["message"]
    assert client.ask("/health", None, {"Host": f"localhost:{client.port}"})[0] == 200


def test_a_shared_tokenizer_cuts_for_one_run_at_a_time(client: Client) -> None:
    """How a tokenizer cuts is a setting of its own: two requests at once must not set it for each other."""
    found: list[int] = []

    def work(number: int) -> None:
        for _ in range(15):
            length = 300 if number % 2 else 5
            body = {
                "model": "reviews" if number % 4 < 2 else "five",
                "input": "好" * length,
                "truncate": bool(number % 2),
            }
            status, answer, _ = client.ask("/classify", body)
            found.append((status, answer["usage"]["prompt_tokens"]) == (200, 64 if number % 2 else 7))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 120
    assert all(found)


def test_keys(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    words = [str(runs["reviews"].path)]
    with server(fork_server, tmp_path / "log", *words, env={"WEITIAO_API_KEYS": "first, second"}) as client:
        for headers, expected in (
            ({}, 401), ({"Authorization": "Bearer third"}, 401), ({"Authorization": "first"}, 401),
            ({"Authorization": "Bearer first"}, 200), ({"Authorization": "bearer second"}, 200),
        ):  # fmt: skip
            status, found, _ = client.ask("/predict", {"inputs": "好"}, headers)  # one model: it need not be named
            assert status == expected, found
        assert client.ask("/health")[0] == client.ask("/ready")[0] == 200
        assert client.ask("/v1/models")[0] == client.ask("/metrics")[0] == 401
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert "first" not in said
    assert "好" not in said


def test_a_full_queue_says_when_to_come_again(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    words = [str(runs["five"].path), "--waiting", "1", "--tokens-per-batch", "8"]
    with server(fork_server, tmp_path / "log", *words) as client:
        found: list[tuple[int, Any]] = []

        def work() -> None:
            status, _, headers = client.ask("/classify", {"input": ["服务好，下次再来看看吧"] * 60})
            found.append((status, headers.get("retry-after")))

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in found} == {200, 429}
        assert all(after == "1" for status, after in found if status == 429)
        assert client.ask("/classify", {"input": "好"})[0] == 200


def test_what_was_accepted_is_answered_before_the_end(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    with server(fork_server, tmp_path / "log", str(runs["five"].path), "--tokens-per-batch", "8") as client:
        client.ask("/classify", {"input": "好"})
        found: list[int] = []
        work = threading.Thread(
            target=lambda: found.append(client.ask("/classify", {"input": ["服务好，下次再来看看吧"] * 400})[0])
        )
        work.start()
        deadline = time.monotonic() + 30
        while "weitiao_queue_size 0.0" in client.ask("/metrics")[1] and time.monotonic() < deadline:
            time.sleep(0.005)
        client.process.terminate()
        work.join()
        assert found == [200]
        assert client.process.wait(30) == 0


def test_an_adapter_that_is_damaged_is_one_clear_error(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "runs"
    for name in ("reviews", "five"):
        shutil.copytree(runs[name].path, root / name)
    with server(fork_server, tmp_path / "log", str(root)) as client:
        (root / "five" / "model" / "adapter_model.safetensors").write_bytes(b"x" * 100)
        status, found, _ = client.ask("/classify", {"model": "five", "input": "好"})
        assert status == 424, found
        assert "five" in found["error"]["message"]
        shutil.rmtree(root / "five")
        assert client.ask("/classify", {"model": "five", "input": "好"})[0] == 424
        assert client.ask("/classify", {"model": "reviews", "input": "好"})[0] == 200


def test_wrong_words(runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    reviews = str(runs["reviews"].path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for words, message in (
            ([], "Found no run"),
            ([str(tmp_path)], "no finished run to serve"),
            ([str(tmp_path / "none")], "No folder"),
            (["--adapter", reviews], "NAME=RUN"),
            ([reviews, "--adapter", f"reviews={reviews}"], "Two runs have the name reviews"),
            ([reviews, "--port", str(taken.getsockname()[1])], "Cannot listen"),
        ):
            done = fork_server.run("serve", *words)
            assert done.returncode == 2, done.stderr
            assert message in done.stderr


def test_help_shows_a_request(fork_server: ForkServer) -> None:
    done = fork_server.run("serve", "--help")
    assert "curl localhost:8000/predict" in done.stdout


def test_schema_names_every_error(client: Client) -> None:
    _, described, _ = client.ask("/openapi.json")
    for path in ("/classify", "/predict", "/tokens"):
        assert {"200", "400", "404", "413", "422", "424", "429", "503"} <= set(
            described["paths"][path]["post"]["responses"]
        )
