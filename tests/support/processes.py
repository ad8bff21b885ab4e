"""Processes that train together: forked ones, or under a real launcher; and what they leave."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from support.fork_server import ForkServer, Process


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launch(words: list[str], processes: int = 2, launcher: str = "torchrun") -> subprocess.CompletedProcess[str]:
    """`weitiao train WORDS` under torchrun or accelerate, as a user starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", free_port(), "-m", "weitiao", "train", *words]  # fmt: skip
    if launcher == "accelerate":
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--main_process_port", free_port(), "-m", "weitiao", "train", *words]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def start_forked(server: ForkServer, words: list[str], processes: int = 2, **more: float) -> list[Process]:
    """The same processes with what torchrun tells each of them, but without its seconds; ``more``: of ForkServer.start."""
    port = free_port()
    rank = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    return [
        server.start(
            "train", *words, env=rank | {"RANK": str(i), "LOCAL_RANK": str(i)} if processes > 1 else {}, **more
        )
        for i in range(processes)
    ]


def fork(server: ForkServer, words: list[str], processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run them to their end. As under torchrun, one that fails ends the others."""
    started = start_forked(server, words, processes)
    deadline = time.monotonic() + 300
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        if any(process.returncode for process in started):
            time.sleep(1)
            break
        time.sleep(0.02)
    for process in started:
        process.kill()
    said = [process.communicate() for process in started]
    code = next((process.returncode for process in started if process.returncode), 0)
    return subprocess.CompletedProcess(words, code or 0, *("".join(parts) for parts in zip(*said, strict=True)))


def losses(folder: Path) -> list[float]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "log"]
