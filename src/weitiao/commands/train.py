"""weitiao train: one run."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from weitiao.commands.terminal import Config, Json, Overrides, print_json, print_metrics, split_words
from weitiao.errors import ConfigError


def train(
    config: Config = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this unfinished run.")] = None,
    options: Annotated[bool, typer.Option("--options", help="List every option.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model. Example: weitiao train recipes/reviews-lora.yaml method.r=8, or options alone."""
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig
    from weitiao.rundir.folder import RunDir
    from weitiao.system.imports import load_libraries

    if options:
        from weitiao.config.options import options_table

        print(options_table(RunConfig))
        return
    source, words = split_words(config, overrides)
    if resume is not None and (source is not None or words):
        raise ConfigError(
            f"Found options together with --resume: {' '.join([str(source or ''), *words]).strip()}\nExpected --resume alone: the "
            f"run's own config.yaml is used.\nContinue it: weitiao train --resume {resume}"
        )
    wanted = load(RunConfig, source, words) if source is not None or words else None
    known = wanted if resume is None else RunDir.open(resume, finished=False).config
    from weitiao.commands.progress import Progress

    with Progress() as progress:
        if os.environ.get("RANK", "0") == "0":
            progress.say("loading torch and transformers")
        load_libraries(compiles=known is not None and known.train.compile)
        from weitiao.run import train as run_training

        run = run_training(wanted, resume=resume, listener=progress.listen)
    from weitiao.training.launch import is_main

    if not is_main():
        return
    summary = {"run_dir": str(run.path), **run.summary}
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)


def _print_summary(summary: dict[str, Any]) -> None:
    print(
        f"trainable params: {summary['num_trainable_params']:,} || all params: {summary['num_params']:,} || "
        f"trainable%: {summary['trainable_percent']:.4f}"
    )
    print(
        f"{summary['steps']} steps in {summary['train_seconds']:.0f} s ({summary['samples_per_s']:.1f} samples/s, "
        f"{summary['tokens_per_s']:,.0f} tokens/s), peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB, "
        f"artifact {summary['artifact_bytes'] / 1e6:.1f} MB"
    )
    errors = [f"{key} {value:+.1%}" for key, value in summary["plan_error"].items() if value is not None]
    if errors:
        print(f"Plan against measurement: {', '.join(errors)}")
    print_metrics(summary["metrics"])
    print(f"Run folder: {summary['run_dir']}")
