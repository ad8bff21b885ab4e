"""Small cases of several processes, forked from one that has imported everything; prints what the first of each found.

python several.py CASE FOLDER PROCESSES [CASE FOLDER PROCESSES ...]      one line of JSON each
"""

import hashlib
import json
import os
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from transformers import BertConfig, BertModel

from weitiao.config.train import TrainConfig
from weitiao.errors import RunError
from weitiao.kernels.frozen_layers import layers
from weitiao.kernels.limits import return_free_memory
from weitiao.measure.meters import memory_bytes
from weitiao.pretrained.in_file import LayersInFile
from weitiao.pretrained.load import load_model
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.folder import RunDir
from weitiao.training import checkpoint
from weitiao.training.checkpoint import checkpoint_step, load_checkpoint, save_checkpoint
from weitiao.training.masters import gathered, masters_of
from weitiao.training.optim import MasterAdamW
from weitiao.training.shards import settle
from weitiao.training.waiting import gather, wait_for_all
from weitiao.training.world import World


def sharded(world: World) -> tuple[torch.nn.Module, MasterAdamW]:
    """Rows that no number of processes divides, fewer rows than processes, a number; the same weights everywhere."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 7), torch.nn.Linear(7, 1), torch.nn.Linear(1, 5, bias=False))
    if world.shards:
        world.shard(model, [model[0]])
    config = TrainConfig()
    return model, MasterAdamW(masters_of(model.named_parameters(), config, torch.float32), config)


def one_step(model: torch.nn.Module, optimizer: MasterAdamW, step: int) -> None:
    model(torch.arange(6.0).view(2, 3) + step).square().sum().backward()
    optimizer.step(0.01, None)


def everything(model: torch.nn.Module, optimizer: MasterAdamW) -> str:
    """A hash of all weights, after a step that reads all moments."""
    one_step(model, optimizer, 9)
    found = hashlib.sha256()
    for name, value in gathered(model, optimizer.masters, frozen=True):
        found.update(name.encode() + value.detach().numpy().tobytes())
    return found.hexdigest()


def save(world: World, folder: Path) -> Any:
    """Two steps and a checkpoint."""
    model, optimizer = sharded(world)
    for step in (1, 2):
        one_step(model, optimizer, step)
    save_checkpoint(RunDir(folder), optimizer, world, 2, {}, keep=1)
    wait_for_all()
    files = sorted(path.name for path in (folder / "checkpoints" / "step-2").iterdir())
    return {"weights": everything(model, optimizer), "files": files, "step": checkpoint_step(RunDir(folder))}


def load(world: World, folder: Path) -> Any:
    model, optimizer = sharded(world)
    assert load_checkpoint(RunDir(folder), optimizer, world) is not None
    return {"weights": everything(model, optimizer)}


def no_room(world: World, folder: Path) -> Any:
    """The second process cannot write its part; the checkpoint before stays."""
    model, optimizer = sharded(world)
    one_step(model, optimizer, 1)
    save_checkpoint(RunDir(folder), optimizer, world, 1, {}, keep=1)
    if world.rank == 1:

        def full(*_: Any) -> Path:
            raise OSError(28, "No space left on device")

        checkpoint.save_part = full
    try:
        save_checkpoint(RunDir(folder), optimizer, world, 2, {}, keep=1)
        said = "nothing"
    except RunError as error:
        said = str(error).splitlines()[0]
    told = gather(said)
    return {"said": told, "left": sorted(p.name for p in (folder / "checkpoints").iterdir()), "step": checkpoint_step(RunDir(folder))}  # fmt: skip


class Peak:
    """The most memory above what was held at first, looked at every two milliseconds."""

    def __enter__(self) -> "Peak":
        self.first, self.most, self.over = memory_bytes(), 0, False
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self.over:
            self.most = max(self.most, memory_bytes() - self.first)
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.over = True
        self._thread.join()


def loaded(world: World, folder: Path, by_parts: bool) -> torch.nn.Module:
    """A model that is shared out."""
    held = LayersInFile() if by_parts else None
    resolved = Resolved("cpu", "float32", "auto", {})
    torch.manual_seed(0)
    model, new = load_model(str(folder), "AutoModelForSequenceClassification", ("a", "b"), 0, resolved, in_file=held)
    assert new == ("classifier.bias", "classifier.weight")
    ready = partial(settle, held=held, dtype=torch.float32, device=torch.device("cpu"), share=(world.rank, world.size))
    world.shard(model, list(layers(model)[1]), ready)
    return model


def memory(world: World, folder: Path) -> Any:
    """Load and share out a model: from the file by parts, and whole, with their peaks; whether the weights are equal."""
    small = folder.with_name("small")  # the first process writes it
    BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(small)
    wait_for_all()
    loaded(world, small, True)  # what is imported on the way is not measured
    peaks, weights = {}, []
    for way in ("parts", "whole"):
        return_free_memory()
        with Peak() as peak:
            model = loaded(world, folder, way == "parts")
        peaks[way] = gather(peak.most)
        weights.append({name: value.to_local().clone() for name, value in model.state_dict().items()})
        del model
    parts, whole = weights
    equal = parts.keys() == whole.keys() and all(torch.equal(value, whole[name]) for name, value in parts.items())
    return {**peaks, "equal": gather(equal)}


def unused(world: World, folder: Path) -> Any:
    """Gradients of DistributedDataParallel that looks for unused parameters, and of one that need not, over several batches."""
    found = []
    for reached in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(30, 200), torch.nn.Tanh(), torch.nn.Linear(200, 3))
        wrapped = World(world.accelerator, "ddp").wrap(model, reached)
        grads = []
        for step in range(3):
            for batch in range(2):
                torch.manual_seed(10 * step + 2 * batch + world.rank)
                with world.synced(wrapped, last=batch == 1):
                    wrapped(torch.randn(4, 30)).square().sum().backward()
            grads += [p.grad.clone() for p in model.parameters()]
            model.zero_grad(set_to_none=True)
        found.append((grads, wrapped.find_unused_parameters))
    same = all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    return {"same": gather(same), "looks": [looks for _, looks in found]}


def in_process(case: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    world = World(Accelerator(cpu=True), "ddp" if case == "unused" else "fsdp2")
    found = globals()[case](world, folder)
    if world.rank == 0:
        print(json.dumps(found), flush=True)
    wait_for_all()
    if dist.is_initialized():
        dist.destroy_process_group()


def together(case: str, folder: Path, processes: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in map(str, range(processes)):
        if (child := os.fork()) == 0:
            if processes > 1:
                os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            in_process(case, folder)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        sys.exit(f"{case}: {codes}")


def main() -> None:
    words = sys.argv[1:]
    for i in range(0, len(words), 3):
        together(words[i], Path(words[i + 1]), int(words[i + 2]))


if __name__ == "__main__":
    main()
