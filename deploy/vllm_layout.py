"""Whether vLLM can load a folder: an adapter beside its base, or a whole model; and the command that serves it.

    python deploy/vllm_layout.py runs/x/model
    python deploy/vllm_layout.py runs/merged

Prints each problem and ends with code 1 where there is one. It reads no weights, only names and shapes of tensors. vLLM
itself is not needed. Its rules, by file of its repository:

- vllm/lora/peft_helper.py, PEFTHelper: r, lora_alpha and target_modules are required; modules_to_save, use_dora and a
  bias are refused; use_rslora divides lora_alpha by the root of r. Other keys are not read: one rank and one scale for
  all layers, so rank_pattern and alpha_pattern would be ignored in silence.
- vllm/lora/lora_model.py, from_local_checkpoint: adapter_model.safetensors, every tensor of a layer that takes LoRA.
- vllm/lora/utils.py, parse_fine_tuned_lora_name: names end in lora_A.weight, lora_B.weight, lora_embedding_A or _B,
  behind base_model.model.
- vllm/lora/worker_manager.py and vllm/config/lora.py: the rank is at most --max-lora-rank, one of MaxLoRARanks, 16
  unless given.
- vllm/model_executor/models/registry.py: architectures of config.json names the class.
"""

import argparse
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, MaxLoRARanks
DEFAULT_RANK = 16
MERGED = ("ADALORA", "VERA", "IA3")  # by weitiao merge; prompts and prefixes are no weights
PREFIX = "base_model.model."
ENDS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"}


class Layout(NamedTuple):
    """What was found: problems, and the words that serve the folder."""

    problems: list[str]
    command: list[str]


def check(folder: Path, name: str = "tuned") -> Layout:
    """The layout of an adapter's or a model's folder."""
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, name)
    return _model(folder)


def _adapter(folder: Path, name: str) -> Layout:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    missing = [key for key in ("r", "lora_alpha", "target_modules") if config.get(key) is None]
    problems = [f"adapter_config.json lacks {', '.join(missing)}"] if missing else []
    kind = config.get("peft_type")
    if kind != "LORA":
        way_out = ". Merge it: weitiao merge" if kind in MERGED else ", and this cannot be merged"
        return Layout([f"peft_type is {kind}: vLLM loads LoRA alone{way_out}"], [])
    if config.get("use_dora"):
        problems.append("use_dora is true: vLLM loads no DoRA. Merge it: weitiao merge")
    if config.get("modules_to_save"):
        problems.append(f"modules_to_save is {config['modules_to_save']}: vLLM loads no layers beside the adapter's")
    if config.get("bias", "none") != "none":
        problems.append(f"bias is {config['bias']}: vLLM loads no biases of an adapter")
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            problems.append(f"{key} is set: vLLM takes one rank and one scale for all layers")
    if config.get("task_type") != "CAUSAL_LM":
        problems.append(f"task_type is {config.get('task_type')}: vLLM's adapters write text. Use weitiao serve")
    rank = int(config.get("r") or 0)
    if rank > RANKS[-1]:
        problems.append(f"r is {rank}: vLLM takes {RANKS[-1]} at most. Merge it: weitiao merge")
    problems += _tensors(folder / "adapter_model.safetensors", rank)
    base = str(config.get("base_model_name_or_path"))
    command = ["vllm", "serve", base, "--enable-lora", "--lora-modules", f"{name}={folder}"]
    if rank > DEFAULT_RANK:
        command += ["--max-lora-rank", str(next((r for r in RANKS if r >= rank), RANKS[-1]))]
    return Layout(problems, command)


def _tensors(file: Path, rank: int) -> list[str]:
    """Problems of an adapter's tensors: names that vLLM cannot read, halves without the other, other ranks."""
    if not file.is_file():
        return [f"no {file.name}"]
    problems = []
    halves: dict[str, set[str]] = {}
    for name, facts in _header(file).items():
        end = next((end for end in ENDS if name.endswith(f".{end}")), None)
        if end is None or not name.startswith(PREFIX):
            problems.append(f"{file.name}: vLLM cannot read the name {name}")
            continue
        halves.setdefault(name.removesuffix(f".{end}"), set()).add(ENDS[end])
        own = facts["shape"][0 if ENDS[end] == "A" else -1]
        if own != rank:
            problems.append(f"{file.name}: {name} has rank {own}, and the adapter {rank}")
    alone = [name for name, found in halves.items() if len(found) < 2]
    problems += [f"{file.name}: {name} has lora_A or lora_B alone" for name in alone]
    return problems or ([] if halves else [f"{file.name} holds no tensor"])


def _model(folder: Path) -> Layout:
    problems = []
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    if not names:
        problems.append("config.json is missing, or names no architectures")
    elif not any(name.endswith("ForCausalLM") for name in names):
        problems.append(f"architectures is {', '.join(names)}: vLLM writes no text with it. Use weitiao serve")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        problems += [f"no {shard}" for shard in shards if not (folder / shard).is_file()]
    elif not (folder / "model.safetensors").is_file():
        problems.append("no model.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        problems.append("no tokenizer.json")
    if not (folder / "tokenizer_config.json").is_file():
        problems.append("no tokenizer_config.json")
    return Layout(problems, ["vllm", "serve", str(folder)])


def _header(file: Path) -> dict[str, Any]:
    """Names, types and shapes of a safetensors file: the JSON behind its first 8 bytes."""
    with file.open("rb") as raw:
        (size,) = struct.unpack("<Q", raw.read(8))
        header = json.loads(raw.read(size))
    header.pop("__metadata__", None)
    return dict(header)


def main(words: Sequence[str] | None = None) -> int:
    """Print what is wrong, or the command."""
    parser = argparse.ArgumentParser(description="Whether vLLM can load a folder, and how.")
    parser.add_argument("folder", type=Path, help="RUN/model, or a merged model")
    parser.add_argument("--name", default="tuned", help="what requests call an adapter")
    given = parser.parse_args(words)
    if not given.folder.is_dir():
        parser.error(f"no folder {given.folder}")
    problems, command = check(given.folder, given.name)
    for problem in problems:
        print(f"{given.folder}: {problem}")
    if not problems:
        print(" ".join(command))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
