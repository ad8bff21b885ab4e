"""Real `weitiao train` processes under launchers, and what they leave."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launch(words: list[str], processes: int = 2, launcher: str = "torchrun") -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "weitiao", "train", *words]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", port, "-m", "weitiao", "train", *words]  # fmt: skip
    if launcher == "accelerate":
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--main_process_port", port, "-m", "weitiao", "train", *words]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def losses(folder: Path) -> list[float]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "log"]
