"""weitiao serve: finished runs behind one address."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from weitiao.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "auto"]
HELP = """Serve finished runs over HTTP. Adapters of one base share it, and answer in one batch.

Try it: curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"model": "NAME", "inputs": "很好看，推荐"}'

Chat: the openai client with base_url=http://localhost:8000/v1 and a run of task=causal_lm.

Names: /v1/models. All paths: /docs. Keys: WEITIAO_API_KEYS=first,second."""


def serve(
    roots: Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs.", show_default=False)] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="A run by a name of its own: NAME=RUN.")] = None,
    load_from: Annotated[
        list[Path] | None, typer.Option(help="Requests may load finished runs below this folder.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    tokens_per_batch: Annotated[int, typer.Option(min=1, help="Padded tokens that one pass computes.")] = 2048,
    resident: Annotated[int, typer.Option(min=1, help="Adapters that stay in memory.")] = 1000,
    conversations: Annotated[int, typer.Option(min=1, help="Answers that are written at the same time.")] = 16,
    memory_mb: Annotated[int, typer.Option(min=1, help="Keys and values of conversations, in MB.")] = 1024,
    dtype: Annotated[
        Dtype,
        typer.Option(help="float32 answers as predict does; auto: bfloat16 where it is faster here (labels alone)."),
    ] = "float32",
    body_bytes: Annotated[int, typer.Option(min=1, help="Longest request.")] = 1 << 20,
    texts: Annotated[int, typer.Option(min=1, help="Texts a request.")] = 1024,
    new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer where a request does not say it.")] = 1024,
    waiting: Annotated[
        int, typer.Option(min=1, help="Parts of requests that may wait; more are refused (429).")
    ] = 1024,
) -> None:
    named: dict[str, Path] = {}
    for one in adapter or ():
        name, equals, path = one.partition("=")
        if not name or not equals or not path:
            raise ConfigError(f"--adapter {one}.\nExpected NAME=RUN.\nExample: --adapter reviews=runs/lora")
        if name in named:
            raise ConfigError(
                f"--adapter {name} is given twice.\nExpected one run a name.\nGive the second another name."
            )
        named[name] = Path(path)
    if not roots and not named and not load_from:
        raise ConfigError("Found no run.\nExpected runs, or a folder of runs.\nExample: weitiao serve runs/")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"The package {error.name} is not installed.\nExpected what a server needs.\nInstall it: pip install 'weitiao[serve]'"
        ) from None
    from weitiao.system.imports import load_libraries

    load_libraries()
    from weitiao.serving.server import serve as run_server
    from weitiao.serving.state import Limits

    run_server(
        roots or [], adapters=named, host=host, port=port, tokens_per_batch=tokens_per_batch, resident=resident,
        conversations=conversations, memory_bytes=memory_mb * 10**6, dtype=dtype, load_from=load_from or (),
        limits=Limits(body_bytes=body_bytes, texts=texts, waiting=waiting, new_tokens=new_tokens),
    )  # fmt: skip


serve.__doc__ = HELP
