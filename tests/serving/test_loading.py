"""Runs that come and go while a server runs: load and unload as vLLM has them, and a registry that changes."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fork_server import ForkServer
from support.served import Client, server
from weitiao.errors import ConfigError
from weitiao.rundir.folder import RunDir
from weitiao.serving.labelling import LABELS, read_texts, scores_of, worded
from weitiao.serving.registry import Registry, listed_run
from weitiao.serving.state import Refused, Server
from weitiao.serving.workers import Workers

TEXT = "很好看的书"
Runs = dict[str, RunDir]


@pytest.fixture(scope="module")
def root(served_runs: Runs, writer_runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An allowed folder: real runs, one unfinished, one of pickles, and links that lead out of it."""
    folder = tmp_path_factory.mktemp("allowed") / "runs"
    for name in ("reviews", "five", "full"):
        shutil.copytree(served_runs[name].path, folder / name)
    for name in ("lora", "prompt"):
        shutil.copytree(writer_runs[name].path, folder / "writers" / name)
    shutil.copytree(served_runs["reviews"].path, folder / "unfinished")
    (folder / "unfinished" / "DONE").unlink()
    shutil.copytree(served_runs["reviews"].path, folder / "pickled")
    (weights,) = (folder / "pickled" / "model").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    (folder / "link").symlink_to(served_runs["rs"].path)
    shutil.copytree(served_runs["rs"].path, folder / "linked-model")
    shutil.rmtree(folder / "linked-model" / "model")
    (folder / "linked-model" / "model").symlink_to(served_runs["rs"].model)
    return folder


@pytest.fixture(scope="module")
def client(root: Path, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server(fork_server, tmp_path_factory.mktemp("server") / "log", "--load-from", str(root)) as found:
        yield found


def names(client: Client) -> set[str]:
    return {one["id"] for one in client.ask("/v1/models")[1]["data"]}


def load(client: Client, name: str, path: Any, **more: Any) -> tuple[int, Any]:
    return client.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **more})[:2]


def unload(client: Client, name: str) -> tuple[int, Any]:
    return client.ask("/v1/unload_lora_adapter", {"lora_name": name})[:2]


def test_a_run_comes_answers_and_goes(client: Client, root: Path, served_runs: Runs) -> None:
    import weitiao

    assert names(client) == set()  # an empty server is one
    for name, path in (("a", root / "reviews"), ("b", "five"), ("whole", "full")):
        status, said = load(client, name, path)
        assert (status, said) == (200, f"Success: LoRA adapter '{name}' added successfully.")
    assert names(client) == {"a", "b", "whole"}
    for name, run in (("a", "reviews"), ("b", "five"), ("whole", "full")):
        expected = weitiao.predict(served_runs[run].path, text=TEXT)[0]["probabilities"]
        found = {s["label"]: s["score"] for s in client.ask("/predict", {"model": name, "inputs": TEXT})[1]}
        assert found == pytest.approx(expected, abs=1e-5)
    status, said = load(client, "a", root / "five")
    assert status == 400
    assert "has already been loaded" in said["error"]["message"]
    assert unload(client, "a") == (200, "Success: LoRA adapter 'a' removed successfully.")
    assert client.ask("/predict", {"model": "a", "inputs": TEXT})[0] == 404
    status, said = unload(client, "whol")
    assert status == 404
    assert "Did you mean whole?" in said["error"]["message"]
    for name in ("b", "whole"):
        assert unload(client, name)[0] == 200
    for _ in range(100):  # the lane that answered last lets go right after its answer
        metrics = client.ask("/metrics")[1]
        if "weitiao_adapters_resident 0.0" in metrics:
            break
        time.sleep(0.05)
    assert "weitiao_adapters_resident 0.0" in metrics  # nothing of them is left in memory


def test_a_name_is_taken_over_only_where_it_is_asked(client: Client, root: Path) -> None:
    assert load(client, "one", "reviews")[0] == 200
    assert len(client.ask("/predict", {"model": "one", "inputs": TEXT})[1]) == 2
    assert load(client, "one", "five", load_inplace=True)[0] == 200
    assert len(client.ask("/predict", {"model": "one", "inputs": TEXT})[1]) == 5
    assert unload(client, "one")[0] == 200


def test_a_run_stays_where_the_one_that_would_take_its_place_is_damaged(client: Client, root: Path) -> None:
    assert load(client, "one", "reviews")[0] == 200
    damaged = Path(shutil.copytree(root / "five", root / "damaged"))
    weights = next((damaged / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    status, said = load(client, "one", "damaged", load_inplace=True)
    assert (status, "cannot be loaded" in said["error"]["message"]) == (400, True)
    assert len(client.ask("/predict", {"model": "one", "inputs": TEXT})[1]) == 2
    assert unload(client, "one")[0] == 200
    shutil.rmtree(damaged)


def test_what_lies_outside_is_refused_in_the_words_for_nothing(client: Client, root: Path, served_runs: Runs) -> None:
    outside = [
        served_runs["rs"].path, "link", "linked-model", "../runs/../../elsewhere", f"{root}/../{root.name}/link",
        "unfinished", "nowhere", ".", root, "x" * 300, "reviews\0",
    ]  # fmt: skip
    for path in outside:
        status, said = load(client, "x", path)
        assert (status, said["error"]["type"]) == (404, "NotFoundError"), path
        assert said["error"]["message"] == "lora_path is no finished run below the folders of --load-from.", path
    assert names(client) == set()


def test_pickles_and_prompts_are_refused(client: Client) -> None:
    status, said = load(client, "x", "pickled")
    assert (status, "pickled" in said["error"]["message"]) == (400, True)
    status, said = load(client, "x", "writers/prompt")
    assert (status, "before the words" in said["error"]["message"]) == (400, True)
    for body in (
        {"lora_name": "x"},
        {"lora_name": "", "lora_path": "reviews"},
        {"lora_name": "x", "lora_path": "r", "y": 1},
    ):
        assert client.ask("/v1/load_lora_adapter", body)[0] == 422
    assert names(client) == set()


def test_a_run_that_writes_brings_its_base(client: Client) -> None:
    assert load(client, "chat", "writers/lora")[0] == 200
    (base,) = names(client) - {"chat"}
    said = client.ask(
        "/v1/chat/completions", {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "好"}]}
    )
    assert said[0] == 200
    status, said = unload(client, base)
    assert (status, "base of other models" in said["error"]["message"]) == (404, True)
    assert unload(client, "chat")[0] == 200
    assert names(client) == set()


def test_without_a_folder_nobody_can_load(served_runs: Runs, fork_server: ForkServer, tmp_path: Path) -> None:
    with server(fork_server, tmp_path / "log", str(served_runs["reviews"].path)) as client:
        assert load(client, "x", served_runs["five"].path)[0] == 404
        assert unload(client, "reviews")[0] == 404
        assert names(client) == {"reviews"}


async def asked(made: Server, name: str) -> dict[str, Any]:
    read = await read_texts(made, name, ([TEXT], None), LABELS, truncate=False)
    (answer,) = worded(read, await scores_of(made, read))
    return answer["probabilities"]  # type: ignore[no-any-return]


def test_threads_that_ask_while_runs_come_and_go(served_runs: Runs, tmp_path: Path) -> None:
    """Every answer is that of the run that had the name, or a clear 404; and at the end nothing is left in memory."""
    import asyncio

    first, second = (listed_run("one", served_runs[name].path) for name in ("reviews", "five"))
    made = Server(Registry([listed_run("rs", served_runs["rs"].path)]), Workers())
    expected = {}
    for one in (first, second):
        made.registry.add(one, replace=True)
        expected[len(one.labels)] = asyncio.run(asked(made, "one"))
    wrong: list[Any] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            try:
                found = asyncio.run(asked(made, "one"))
            except Refused as error:
                if error.status != 404:
                    wrong.append(error)
            except Exception as error:
                wrong.append(error)
            else:
                if found != pytest.approx(expected[len(found)], abs=1e-5):
                    wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(12):
        made.registry.add((first, second)[number % 2], replace=True)
        if number % 3 == 0:
            made.registry.remove("one")
    end.set()
    for thread in threads:
        thread.join()
    assert not wrong
    made.registry.refresh([])
    made.engine.unload().result()
    assert not made.engine.residents.recent
    assert not made.engine.residents.bodies
    made.workers.stop()


def test_a_registry_says_what_it_cannot(served_runs: Runs) -> None:
    one = listed_run("one", served_runs["reviews"].path)
    registry = Registry([])
    with pytest.raises(KeyError):
        registry.remove("one")
    registry.add(one)
    with pytest.raises(ConfigError, match="The name one is taken"):
        registry.add(one)
    served = registry.open("one")
    registry.refresh([one])
    assert registry.open("one") is served  # nothing has changed
    registry.refresh([])
    assert (served.removed, dict(registry.listed)) == (True, {})
    registry.add(one)
    assert registry.open("one").key != served.key
