"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, in the shapes of vLLM's, for finished runs below folders that were allowed."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from weitiao.errors import ConfigError, WeitiaoError
from weitiao.rundir.folder import RunDir
from weitiao.serving.guard import STOPPING
from weitiao.serving.registry import NO_PLACE, Listed, can_be_served, listed_run
from weitiao.serving.state import Refused, Server
from weitiao.serving.worker import Stopping

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Load(BaseModel):
    """A finished run, and the name that requests use."""

    model_config = ConfigDict(extra="forbid")

    lora_name: Name = Field(description="The name for requests; one that a run has needs load_inplace.")
    lora_path: str = Field(min_length=1, max_length=4096, description="A run folder below one of --load-from.")
    load_inplace: bool = Field(False, description="Take the place of a run that has the name.")


class Unload(BaseModel):
    """A run by its name."""

    model_config = ConfigDict(extra="forbid")

    lora_name: Name = Field(description="The name that requests use.")
    lora_int_id: int | None = Field(None, description="Has no effect.")


def add_loading(app: FastAPI, server: Server, errors: dict[int | str, dict[str, Any]]) -> None:
    """Put both paths into the application."""

    @app.post("/v1/load_lora_adapter", responses=errors, response_class=PlainTextResponse)
    async def load(asked: Load) -> str:
        """Serve one run more, of any method that this server serves."""
        await asyncio.to_thread(_load, server, asked)
        return f"Success: LoRA adapter '{asked.lora_name}' added successfully."

    @app.post("/v1/unload_lora_adapter", responses=errors, response_class=PlainTextResponse)
    async def unload(asked: Unload) -> str:
        """Serve a run no more. Requests that were accepted are answered."""
        await asyncio.to_thread(_unload, server, asked.lora_name)
        return f"Success: LoRA adapter '{asked.lora_name}' removed successfully."


def _load(server: Server, asked: Load) -> None:
    """Raises Refused for a name that is taken, and for a path that is no finished run below an allowed folder.

    A run whose place was to be taken stays where the other one cannot be loaded.
    """
    one = _found(asked, server.load_from)
    if not can_be_served(one):
        raise Refused(400, f"{asked.lora_name}: {NO_PLACE.format(method=one.method)}, and is not served.", "lora_path")
    if not asked.load_inplace and asked.lora_name in server.registry.listed:
        raise _taken(asked.lora_name)
    before = server.registry.listed.get(asked.lora_name)
    try:
        server.registry.add(one, replace=asked.load_inplace)
    except ConfigError:
        raise _taken(asked.lora_name) from None
    try:
        opened = server.registry.open_writer(one.name) if one.writes else server.registry.open(one.name)
        (server.writer if one.writes else server.engine).load(opened).result()  # type: ignore[arg-type]
    except Stopping:
        raise Refused(503, STOPPING) from None
    except (WeitiaoError, KeyError, ValueError) as error:
        if server.registry.listed.get(one.name) == one:
            with contextlib.suppress(KeyError, ConfigError):  # somebody else has changed it meanwhile
                if before is None:
                    server.registry.remove(one.name)
                else:
                    server.registry.add(before, replace=True)
        raise Refused(400, f"The run cannot be loaded: {str(error).partition(chr(10))[0]}", "lora_path") from None


def _taken(name: str) -> Refused:
    return Refused(
        400,
        f"The lora adapter '{name}' has already been loaded. Unload it first, or set load_inplace=true to take a run's place.",
        "lora_name",
    )


def _found(asked: Load, roots: Sequence[Path]) -> Listed:
    """The run at a path. What lies outside, and what is not there, is refused in the same words."""
    for path in (Path(asked.lora_path), *(root / asked.lora_path for root in roots)):
        run = RunDir(path)
        try:
            inside = any(_lies_below(run, root) for root in roots)
            if inside and (run.path / "config.yaml").is_file() and run.is_done:
                return listed_run(asked.lora_name, run.path.resolve())
        except (OSError, ValueError, WeitiaoError):
            continue
    raise Refused(404, "lora_path is no finished run below the folders of --load-from.", "lora_path")


def _lies_below(run: RunDir, root: Path) -> bool:
    """Whether the folder, its model and all files of it are below ``root``, also where links lead."""
    below = root.resolve()
    parts = [run.path, run.model, *run.path.iterdir(), *run.model.iterdir()] if run.model.is_dir() else [run.path]
    return run.path.resolve() != below and all(part.resolve().is_relative_to(below) for part in parts)


def _unload(server: Server, name: str) -> None:
    one = server.registry.listed.get(name)
    try:
        server.registry.remove(name)
    except KeyError:
        near = server.registry.near(name)
        like = f" Did you mean {' or '.join(near)}?" if near and one is None else ""
        why = "is the base of other models" if one is not None else "cannot be found"
        raise Refused(404, f"The lora adapter '{name}' {why}.{like}", "lora_name") from None
