"""How a command's process ends."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("several", [False, True])
def test_it_ends_without_taking_the_interpreter_down(several: bool) -> None:
    """A thread of gloo that still holds a tensor would abort the process there. What is registered for the end still runs."""
    script = (
        "import atexit, sys; from weitiao.commands import app\n"
        "class Late:\n    def __del__(self): print('taken down')\n"
        "late = Late(); atexit.register(lambda: print('registered'))\n"
        "print('said'); app._end(7)"
    )
    given = {"WORLD_SIZE": "2", "RANK": "1"} if several else {}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | given)
    assert (done.returncode, done.stdout.split()) == (7, ["said", "registered"]), done.stderr
