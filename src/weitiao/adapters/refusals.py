"""What cannot be merged, said before anything is loaded. Imports no torch."""

from pathlib import Path
from typing import Literal, get_args

from weitiao.errors import ConfigError
from weitiao.rundir.folder import RunDir

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def refuse_merge(run: RunDir, dtype: str) -> None:
    """Raise ConfigError for a dtype that is none, and for a run without an adapter."""
    method = run.config.method
    if dtype not in get_args(Dtype):
        raise ConfigError(
            f"--dtype {dtype}.\nExpected one of: {', '.join(get_args(Dtype))}.\nLeave it out for the base's own."
        )
    if not method.saves_adapter:
        raise ConfigError(
            f"{run.path} was trained with method.type={method.type}, which has no adapter.\nExpected a run with an adapter, such as "
            f"method.type=lora.\n{run.model} is a whole model already: use it as it is."
        )


def refuse_unmergeable(run: RunDir) -> None:
    """Raise ConfigError for an adapter that no weight can hold."""
    method = run.config.method
    if method.saves_adapter and not method.merges:
        raise ConfigError(
            f"{run.path} was trained with method.type={method.type}: what it learnt lies before the words, not in weights.\n"
            f"Expected an adapter that can be summed into its base, such as LoRA's.\nUse {run.model} with peft, or weitiao predict."
        )


def refuse_output(run: RunDir, folder: Path) -> None:
    """Raise ConfigError where ``folder`` is no new folder outside the run's own."""
    if folder.is_relative_to(run.path.resolve()):
        raise ConfigError(
            f"--output {folder} lies in the run's own folder.\nExpected another place.\nName another --output."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} already exists and is not empty.\nExpected a new folder.\nName another --output.")
