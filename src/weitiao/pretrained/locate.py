"""Catalogue name, hub id, local folder or GGUF file -> a folder or hub id that transformers opens."""

import os
import tempfile
from pathlib import Path

from weitiao import catalogue
from weitiao.errors import FetchError, ModelError

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


NO_FOREIGN_CODE = {"trust_remote_code": False}  # said aloud: left open, transformers asks on a terminal


def locate(model: str) -> str:
    """A folder or hub id that transformers can open.

    Raises:
        ModelError: a data name, a missing path, or a GGUF file that cannot be read.
    """
    if model in catalogue.ENTRIES:
        if catalogue.ENTRIES[model].kind != "model":
            raise ModelError(f"'{model}' is a data set.\nExpected a model.\nList the catalogue: weitiao models")
        return str(catalogue.fetch(model))
    path = Path(model)
    if path.name == "config.json" and path.is_file():
        path = path.parent
    if path.suffix == ".gguf":
        return str(_from_gguf(path))
    if path.is_dir():
        path = path.resolve()  # an adapter names its base, and must find it from any folder
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} has no config.json.\nExpected a transformers model folder.\n"
                "For a LoRA run use its base model here, and go on from it by method.init_from."
            )
        refuse_pickled(path)
        return str(path)
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if path.is_file() or looks_like_path:
        raise ModelError(
            f"No model folder '{model}'.\nExpected a folder, a hub id or one of: {_names()}.\nList them: weitiao models"
        )
    return _from_modelscope(model) if os.environ.get("WEITIAO_HUB") == "modelscope" else model


def refuse_pickled(folder: Path) -> None:
    """Raises ModelError for a folder whose weights are pickled alone: opening a pickle can run what it holds."""
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds pickled weights alone ({', '.join(pickled)}).\nExpected *.safetensors: opening a pickle can "
            "run any code that its maker put in, so weitiao never does.\nAsk its maker for safetensors, or convert it where "
            "you trust it: model.save_pretrained(folder)."
        )


def _names() -> str:
    return ", ".join(e.name for e in catalogue.ENTRIES.values() if e.kind == "model")


def _from_modelscope(model: str) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ModelError(
            "WEITIAO_HUB=modelscope, but the package modelscope is not installed.\nExpected it in the same environment as weitiao.\n"
            "Install it: pip install modelscope"
        ) from None
    return str(snapshot_download(model))


def _from_gguf(path: Path) -> Path:
    """The file as a folder, converted once; the cache key is its content."""
    if not path.is_file():
        raise ModelError(f"No file '{path}'.\nExpected a GGUF file, a folder, a hub id or one of: {_names()}.")
    from weitiao.catalogue.download import sha256_of
    from weitiao.catalogue.worker import convert_apart

    folder = catalogue.home() / "gguf" / f"{path.stem}-{sha256_of(path)[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            try:
                convert_apart("gguf:convert_gguf", path, made)
            except FetchError as error:
                raise ModelError(f"{path}: cannot be read as a causal language model in GGUF.\n{error}") from None
            made.rename(folder)
    return folder


def cannot_load(model: str, error: Exception) -> ModelError:
    """The ModelError for a model that a library could not open."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        reason = "it needs code of its own, and weitiao runs none that comes with a model"
    return ModelError(
        f"Cannot load the model '{model}': {reason}\nExpected a folder, a hub id that this machine can reach "
        f"(or WEITIAO_HUB=modelscope), or one of: {_names()}.\nList the catalogue: weitiao models"
    )
