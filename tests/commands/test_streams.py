"""A command whose output cannot be written says so; one whose streams are closed still ends well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.beyond_check
WEITIAO = [sys.executable, "-m", "weitiao"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_under_stdout_is_said() -> None:
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*WEITIAO, "methods", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert done.returncode == 2
    assert "No space left on device" in done.stderr


def test_what_an_encoding_lacks_is_escaped() -> None:
    narrow = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [*WEITIAO, "methods", "--language", "zh"], capture_output=True, encoding="latin-1", env=narrow
    )
    assert done.returncode == 0, done.stderr
    assert "\\u" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_failure(closed: str) -> None:
    done = subprocess.run(["sh", "-c", f'"$0" -m weitiao methods {closed}', sys.executable], capture_output=True)
    assert done.returncode == 0, done.stderr
