"""Requests that nobody thought of, made from the server's own description: no failure of the server, and answers as described."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from support.fork_server import ForkServer
from support.served import server, trained
from weitiao.rundir.folder import RunDir

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.beyond_test


@pytest.fixture(scope="module")
def api(
    served_runs: dict[str, RunDir], tiny_chat_model: Path, chats_file: Path, fork_server: ForkServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:  # fmt: skip
    folder = tmp_path_factory.mktemp("fuzz")
    data = {"train": str(chats_file), "test_size": 8, "near_duplicates": "off"}
    train = {"bf16": False, "tokens_per_batch": 256, "eval_strategy": "no", "generate_rows": 0}
    options = {"model": str(tiny_chat_model), "task": "causal_lm", "data": data, "train": train}
    writer = trained(options, folder / "writer")
    named = {**{name: served_runs[name].path for name in ("reviews", "tags")}, "writer": writer.path}
    words = [word for name, path in named.items() for word in ("--adapter", f"{name}={path}")]
    with server(fork_server, folder / "log", *words, "--new-tokens", "4") as client:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{client.port}/openapi.json")
        log = (folder / "log").read_text(encoding="utf-8")
        assert "Traceback" not in log, log


def test_no_request_fails_the_server(api: Any) -> None:
    from schemathesis.specs.openapi.checks import (
        positive_data_acceptance,  # which models are there is not in the description
    )

    operations = [found.ok() for found in api.get_all_operations()]
    assert {one.path for one in operations} > {"/classify", "/predict", "/tokens", "/v1/chat/completions"}
    for operation in operations:

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body["model"] = ("reviews", "tags", "writer", "nobody")[len(str(case.body)) % 4]
                case.body.pop("max_tokens", None)  # minutes of text are no fault
                case.body.pop("max_completion_tokens", None)
            case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])

        ask()
