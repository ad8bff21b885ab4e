"""Every answer is counted once, with the status that the client sees."""

import pytest
from fastapi import FastAPI, HTTPException
from starlette.testclient import TestClient

from weitiao.serving.metrics import Measured, Metrics
from weitiao.serving.workers import Workers


@pytest.mark.parametrize(
    ("path", "counted", "status"),
    [("/fine", "/fine", 200), ("/refused", "/refused", 404), ("/fails", "/fails", 500), ("/none", "other", 404)],
)
def test_answers_are_counted(path: str, counted: str, status: int) -> None:
    metrics, app = Metrics(Workers()), FastAPI()
    app.add_middleware(Measured, metrics=metrics)

    @app.get("/fine")
    async def fine() -> str:
        return "yes"

    @app.get("/refused")
    async def refused() -> str:
        raise HTTPException(404)

    @app.get("/fails")
    async def fails() -> str:
        raise ZeroDivisionError

    assert TestClient(app, raise_server_exceptions=False).get(path).status_code == status
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("weitiao_requests_total{")]
    assert lines == [f'weitiao_requests_total{{path="{counted}",status="{status}"}} 1.0']
