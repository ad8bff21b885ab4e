"""weitiao export: a run as safetensors, ONNX or GGUF."""

from pathlib import Path
from typing import Annotated, Any

import typer

from weitiao.commands.terminal import Json, print_json


def export(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    output: Annotated[Path, typer.Option(help="New folder for what is written.")],
    format: Annotated[
        str, typer.Option(help="safetensors, onnx (classifiers) or gguf (language models, for llama.cpp).")
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="onnx: a second file in 8 bits; what it loses is measured.")
    ] = False,
    quantization: Annotated[
        str | None, typer.Option(help="gguf: f16 (default), bf16, f32, q8_0, q5_1, q5_0, q4_1 or q4_0.")
    ] = None,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="gguf: the LoRA adapter without its base.")
    ] = False,
    push: Annotated[str | None, typer.Option(help="Upload it to this repository of the hub, OWNER/NAME.")] = None,
    public: Annotated[bool, typer.Option("--public", help="The repository may be public; else it is private.")] = False,
    as_json: Json = False,
) -> None:
    """Export a run: merged, written in another form, opened again and checked on the run's held-out rows."""
    from weitiao.rundir.folder import RunDir
    from weitiao.system.imports import load_libraries

    RunDir.open(run)
    load_libraries(compiles=format == "onnx")  # its graph is traced by the compiler
    from weitiao.exporting.export import export as run_export

    report = run_export(
        run,
        output=output,
        format=format,  # type: ignore[arg-type]
        int8=int8,
        quantization=quantization,
        adapter_only=adapter_only,
        push=push,
        public=public,
    )
    if as_json:
        print_json({"output": str(output), **report})
        return
    _say(report)
    for name, size in report["files"].items():
        print(f"{output / name}: {size / 1e6:,.1f} MB")
    if "pushed" in report:
        print(f"Uploaded: {report['pushed']}")


def _say(report: dict[str, Any]) -> None:
    """What was compared."""
    if report["format"] == "gguf":
        found = report["llama_cpp"]
        if found is not None:
            print(
                f"llama.cpp: {found['same_answers']} of {found['answers']} greedy answers are the same ({found['same_tokens']} of "
                f"{found['tokens']} tokens up to the first other one); log probabilities differ by {found['worst']:.2g} at most"
                + (f" (allowed: {found['tolerance']:.2g})." if found["tolerance"] is not None else ".")
            )
        return
    print(
        f"{report['compared']:,} predictions compared: logits differ by {report['worst']:.2g} at most (allowed: "
        f"{report['tolerance']:.2g}), {report['mean']:.2g} on average."
    )
    for name, one in ((report.get("int8") or {}).get("loss") or {}).items():
        print(f"int8 - fp32: {name} {one['difference']:+.4f} ({one['lower']:+.4f} to {one['upper']:+.4f})")
