"""What a launcher (torchrun, accelerate launch) says in the environment. Imports no torch."""

import os


def is_main() -> bool:
    """Whether this process writes the run folder; before any process group exists, too."""
    return int(os.environ.get("RANK", "0")) == 0


def num_processes() -> int:
    """How many processes the launcher made."""
    return int(os.environ.get("WORLD_SIZE", "1"))
