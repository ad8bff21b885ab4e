"""Two real processes (gloo) train as one does: losses, saved files, resuming with another number, two nodes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.fork_server import ForkServer
from support.processes import environment, fork, free_port, launch, losses, start_forked
from weitiao.rundir.folder import RunDir
from weitiao.training.checkpoint import checkpoint_step

FILES = {"full": "model.safetensors", "lora": "adapter_model.safetensors"}
pytestmark = pytest.mark.beyond_check


def options(model: Path, rows: Path, method: str, folder: Path, *more: str) -> list[str]:
    return [
        f"model={model}",
        f"data.train={rows}",
        "data.test_size=0.25",
        f"method.type={method}",
        "train.bf16=false",
        "train.logging_steps=1",
        "train.tokens_per_batch=60",
        "train.num_train_epochs=2",
        "train.learning_rate=0.001",
        f"output.dir={folder}",
        *more,
    ]


@pytest.mark.beyond_test
@pytest.mark.parametrize(("method", "more"), [("qlora", []), ("galore", ["method.galore_rank=4"])])
def test_packed_and_projected_train_alike_in_two_processes(
    method: str, more: list[str], tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    """DDP as one process with twice the accumulation; FSDP2 is refused."""
    one = [*more, "train.gradient_accumulation_steps=2"]
    for processes, folder, words in ((1, "one", one), (2, "two", more)):
        done = fork(whole_fork_server, options(tiny_model, rows_file, method, tmp_path / folder, *words), processes)
        assert done.returncode == 0, done.stderr[-3000:]
    same_training(tmp_path / "one", tmp_path / "two", "lora" if method == "qlora" else "full")
    words = options(tiny_model, rows_file, method, tmp_path / "no", *more, "train.distributed=fsdp2")
    refused = fork(whole_fork_server, words)
    assert refused.returncode != 0
    assert "Expected DDP or one process" in refused.stderr


def same_training(one: Path, two: Path, method: str) -> None:
    first, second = losses(one), losses(two)
    assert len(first) == len(second) >= 8
    assert second == pytest.approx(first, abs=1e-4)
    assert max(first) - min(first) > 1e-3, "something was learnt, so equality is no accident"
    expected, found = (load_file(folder / "model" / FILES[method]) for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.numel() > 0
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4, msg=name)


@pytest.fixture(scope="module")
def single(
    tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory, whole_fork_server: ForkServer
) -> dict[str, Path]:
    """One process with twice the accumulation, full and LoRA."""
    folders = {}
    for method in FILES:
        folders[method] = tmp_path_factory.mktemp("single") / method
        words = options(tiny_model, rows_file, method, folders[method], "train.gradient_accumulation_steps=2")
        done = fork(whole_fork_server, words, processes=1)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.beyond_test
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_in_float16_train_as_one(
    strategy: str, tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    """Within float16's digits: the scale, what it leaves out and the losses, through a checkpoint."""
    runs = {}
    for processes, words in ((1, ["train.gradient_accumulation_steps=2"]), (2, [f"train.distributed={strategy}"])):
        words += ["train.bf16=auto", "train.fp16=true", "train.save_steps=3"]
        asked = options(tiny_model, rows_file, "full", tmp_path / f"{processes}", *words)
        done = fork(whole_fork_server, [word for word in asked if word != "train.bf16=false"], processes)
        assert done.returncode == 0, done.stderr[-3000:]
        runs[processes] = RunDir(tmp_path / f"{processes}")
    assert losses(runs[2].path) == pytest.approx(losses(runs[1].path), abs=5e-3)
    for key in ("dtype", "skipped_steps", "loss_scale"):
        assert runs[2].summary[key] == runs[1].summary[key]
    assert runs[2].summary["dtype"] == "float16"


@pytest.mark.parametrize(
    ("strategy", "method"),
    [
        ("ddp", "full"),
        ("fsdp2", "lora"),
        pytest.param("ddp", "lora", marks=pytest.mark.beyond_test),
        pytest.param("fsdp2", "full", marks=pytest.mark.beyond_test),
    ],
)
def test_two_processes_train_as_one(
    strategy: str,
    method: str,
    single: dict[str, Path],
    tiny_model: Path,
    rows_file: Path,
    tmp_path: Path,
    whole_fork_server: ForkServer,
) -> None:
    words = options(tiny_model, rows_file, method, tmp_path / "run", f"train.distributed={strategy}", "--json")
    real = (strategy, method) == ("ddp", "full")  # under torchrun, as a user starts it
    done = launch(words) if real else fork(whole_fork_server, words)
    assert done.returncode == 0, done.stderr[-3000:]
    same_training(single[method], tmp_path / "run", method)
    assert len(done.stdout.strip().splitlines()) == 1, "one process prints"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["num_processes"], summary["distributed"]) == (2, strategy)
    assert 0 <= summary["token_imbalance_share"] < 0.5
    alone = json.loads((single[method] / "summary.json").read_text(encoding="utf-8"))
    for name in ("accuracy", "log_loss", "roc_auc"):
        assert summary["metrics"][name] == pytest.approx(alone["metrics"][name], abs=1e-3)
    if strategy == "fsdp2":
        assert "shared out among 2 processes" in done.stderr, "FSDP2 engaged"


@pytest.mark.parametrize(
    ("method", "more"),
    [
        pytest.param("full", ["train.packing=true", "train.generate_rows=1"], marks=pytest.mark.beyond_test),
        ("lora", ["train.distributed=fsdp2", "train.generate_rows=0"]),
    ],
    ids=["ddp-full-packed", "fsdp2-lora"],
)
def test_a_language_model_trains_alike_in_two_processes(
    method: str,
    more: list[str],
    tiny_chat_model: Path,
    chats_file: Path,
    tmp_path: Path,
    whole_fork_server: ForkServer,
) -> None:
    more += ["task=causal_lm", "data.near_duplicates=off", "train.max_new_tokens=4", "train.tokens_per_batch=200"]
    one = [*more, "train.gradient_accumulation_steps=2"]
    for processes, folder, words in ((1, "one", one), (2, "two", more)):
        done = fork(
            whole_fork_server, options(tiny_chat_model, chats_file, method, tmp_path / folder, *words), processes
        )
        assert done.returncode == 0, done.stderr[-3000:]
    same_training(tmp_path / "one", tmp_path / "two", method)
    found = [json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert found[1]["num_processes"] == 2
    assert found[1]["metrics"]["log_loss"] == pytest.approx(found[0]["metrics"]["log_loss"], abs=1e-4)


def test_the_saved_adapter_loads_in_plain_peft(
    tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification

    words = options(tiny_model, rows_file, "lora", tmp_path / "run", "train.distributed=fsdp2")
    done = fork(whole_fork_server, words)
    assert done.returncode == 0, done.stderr[-3000:]
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "model")
    moved = [n for n, p in model.named_parameters() if "lora_B" in n and p.abs().sum() > 0]
    assert len(moved) == len([n for n, _ in model.named_parameters() if "lora_B" in n]) > 0


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.beyond_test)])
def test_resume_with_another_number_of_processes(
    before: int,
    after: int,
    single: dict[str, Path],
    tiny_model: Path,
    rows_file: Path,
    tmp_path: Path,
    whole_fork_server: ForkServer,
) -> None:
    """Killed under one number, continued under another: the same steps, rows and weights."""
    run = tmp_path / "run"
    words = options(tiny_model, rows_file, "full", run, "train.save_steps=3", "train.distributed=fsdp2")
    words += [] if before == 2 else ["train.gradient_accumulation_steps=2"]
    processes = start_forked(whole_fork_server, words, before)
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "step-3").is_dir():
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None] * before, "it ended before its first checkpoint"
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.wait()
    assert not (run / "DONE").exists()
    done = fork(whole_fork_server, ["--resume", str(run)], processes=after)
    assert done.returncode == 0, done.stderr[-3000:]
    same_training(single["full"], run, "full")


@pytest.mark.fault("kill -9 of one of two processes")
@pytest.mark.parametrize(
    ("strategy", "victim", "after"), [("ddp", 1, 2), pytest.param("fsdp2", 0, 1, marks=pytest.mark.beyond_test)]
)
def test_one_of_two_processes_is_killed(
    strategy: str,
    victim: int,
    after: int,
    single: dict[str, Path],
    tiny_model: Path,
    rows_file: Path,
    tmp_path: Path,
    whole_fork_server: ForkServer,
) -> None:
    """The one that is left says so and how to go on; what was saved is whole, and leads to the undisturbed weights."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    more = ("train.save_steps=1", "train.save_total_limit=2", f"train.distributed={strategy}")
    words = options(tiny_model, rows_file, "full", run, *more)
    processes = start_forked(whole_fork_server, words)
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "step-2").is_dir():
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None, None], "it ended before its second checkpoint"
        time.sleep(0.01)
    processes[victim].kill()
    processes[victim].wait()
    _, printed = processes[1 - victim].communicate(timeout=60)
    assert processes[1 - victim].returncode not in (0, None)
    assert f"Process {1 - victim} of 2 (counted from 0) lost another one" in printed
    assert f"weitiao train --resume {run}" in printed
    assert 'File "' not in printed.partition("Error: ")[0], "no traceback of ours"
    assert not (run / "DONE").exists()
    newest = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    assert checkpoint_step(RunDir(run)) == newest, "every checkpoint is whole"

    done = fork(whole_fork_server, ["--resume", str(run)], processes=after)
    assert done.returncode == 0, done.stderr[-3000:]
    same_training(single["full"], run, "full")
    if after == 2:  # with the same processes, bit by bit
        done = fork(whole_fork_server, options(tiny_model, rows_file, "full", whole, *more))
        assert done.returncode == 0, done.stderr[-3000:]
        one, two = (load_file(folder / "model" / FILES["full"]) for folder in (run, whole))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.beyond_test
def test_a_run_that_goes_on_drops_what_the_undisturbed_one_drops(
    tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    more = ("train.save_steps=2", "train.dropout=0.2", "train.bf16=false")
    processes = start_forked(whole_fork_server, options(tiny_model, rows_file, "full", run, *more), 2)
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "step-2").is_dir():
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.wait()
    for words in (["--resume", str(run)], options(tiny_model, rows_file, "full", whole, *more)):
        done = fork(whole_fork_server, words)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(folder / "model" / FILES["full"]) for folder in (run, whole))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.beyond_test
def test_accelerate_launch(single: dict[str, Path], tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    done = launch(options(tiny_model, rows_file, "lora", tmp_path / "run"), launcher="accelerate")
    assert done.returncode == 0, done.stderr[-3000:]
    same_training(single["lora"], tmp_path / "run", "lora")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["num_processes"] == 2


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, capture_output=True, text=True)


@pytest.fixture
def two_nodes() -> Any:
    """Two network namespaces joined by a cable."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command: two network namespaces cannot be made")
    names = [f"weitiao{os.getpid()}{side}" for side in "ab"]
    ends = [f"wt{os.getpid() % 10000}{side}" for side in "ab"]
    made = shell(
        f"ip netns add {names[0]} && ip netns add {names[1]} && ip link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]} && "
        + " && ".join(
            f"ip -n {name} addr add 10.77.0.{i}/24 dev {end} && ip -n {name} link set {end} up && ip -n {name} link set lo up"
            for i, (name, end) in enumerate(zip(names, ends, strict=True), start=1)
        )
    )
    try:
        if made.returncode:
            pytest.skip(f"this machine lets nobody make network namespaces: {made.stderr.strip()}")
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            shell(f"ip netns del {name}")


@pytest.mark.beyond_test
def test_two_nodes(
    two_nodes: list[tuple[str, str]], single: dict[str, Path], tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    words = options(tiny_model, rows_file, "lora", tmp_path / "run", "train.distributed=fsdp2")
    processes = [
        subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                name,
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes",
                "2",
                "--node_rank",
                str(rank),
                "--nproc_per_node",
                "1",
                "--master_addr",
                "10.77.0.1",
                "--master_port",
                "29533",
                "-m",
                "weitiao",
                "train",
                *words,
            ],
            env=environment() | {"GLOO_SOCKET_IFNAME": end},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (name, end) in enumerate(two_nodes)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    same_training(single["lora"], tmp_path / "run", "lora")


def test_a_step_that_cannot_be_dealt_evenly(
    tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    """Three batches for two processes: one of them repeats a row, which must not count."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes, accumulation in ((one, 1, 6), (two, 2, 3)):
        more = (
            f"train.gradient_accumulation_steps={accumulation}",
            "train.tokens_per_batch=25",
            "train.num_train_epochs=4",
        )
        done = fork(whole_fork_server, options(tiny_model, rows_file, "full", folder, *more), processes)
        assert done.returncode == 0, done.stderr[-3000:]
    same_training(one, two, "full")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_row_counts_once_and_every_process_runs_equally_many(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from weitiao.training.world import World

    monkeypatch.setenv("WORLD_SIZE", "2")
    batches, lengths = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(count)], [4 + i % 3 for i in range(3 * count)]
    worlds = [World(SimpleNamespace(process_index=rank, num_processes=2), "ddp") for rank in range(2)]
    first, second = (world.deal(batches, lengths) for world in worlds)
    assert len(first) == len(second)
    counted = [row for rows, counts in first + second if counts for row in rows]
    assert sorted(counted) == list(range(3 * count))
    if count % 2 and count > 1:
        assert [counts for _, counts in first + second].count(False) == 1


def test_packed_batches_are_dealt_by_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of 90 and one of 10 are 100 tokens when packed and 180 when padded; three of 50 are 150 either way."""
    from types import SimpleNamespace

    from weitiao.training.world import World

    monkeypatch.setenv("WORLD_SIZE", "2")
    batches, lengths = [[0, 1], [2, 3, 4], [5]], [90, 10, 50, 50, 50, 40]
    world = World(SimpleNamespace(process_index=0, num_processes=2), "ddp")
    assert [rows for rows, counts in world.deal(batches, lengths, packed=True) if counts] == [[2, 3, 4]]
    assert [rows for rows, counts in world.deal(batches, lengths) if counts] == [[0, 1]]


def test_gradients_in_bf16_are_averaged_in_fp32() -> None:
    script = Path(__file__).parents[1] / "support" / "average_in_bf16.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "4", "--master_port", free_port()]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    # (256 + 1 + 1 + 1) / 4 = 64.75 rounded once
    assert found == {"ddp": [65.0] * 4, "fsdp2": [65.0] * 4, "accumulated": [65.0] * 4, "unused": True}
