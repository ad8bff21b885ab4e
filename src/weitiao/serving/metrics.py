"""Figures for Prometheus, and for the page. Texts, keys and names of models are in none of them."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from weitiao.serving.workers import Workers

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_RECENT, _MINUTE = 20_000, 60.0
_ASKS = ("/classify", "/predict", "/tokens", "/v1/chat/completions", "/v1/completions", "/try")


@dataclass(frozen=True)
class Load:
    """What the last minute was like: requests a second, and the seconds below which 95 % of them were answered."""

    requests: int
    per_second: float
    p95: float | None


class _OfEngines:
    """What the engines count, read when it is asked for."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def collect(self) -> Iterator[Any]:
        """prometheus_client's collector. Engines that nobody has asked yet have nothing to say."""
        if not self.workers.started:
            return
        engine, writer = self.workers.start()
        both = (engine.residents, writer.residents)
        yield GaugeMetricFamily("weitiao_queue_size", "Parts of requests that no batch has taken.", engine.waiting)
        yield GaugeMetricFamily("weitiao_adapters_resident", "Adapters in memory.", sum(len(r.recent) for r in both))
        yield CounterMetricFamily("weitiao_adapters_loaded", "Adapters that were read.", sum(r.loaded for r in both))
        yield CounterMetricFamily(
            "weitiao_adapters_evicted", "Adapters that were let go.", sum(r.evicted for r in both)
        )
        yield CounterMetricFamily("weitiao_batches", "Batches that were computed.", engine.batches)
        yield CounterMetricFamily("weitiao_rows", "Rows that were computed.", engine.rows)
        yield CounterMetricFamily("weitiao_tokens", "Tokens that were computed, padding not counted.", engine.tokens)
        yield GaugeMetricFamily("weitiao_answers_waiting", "Answers that are not begun.", writer.waiting)
        yield GaugeMetricFamily("weitiao_answers_running", "Answers that are being written.", len(writer.running))
        yield CounterMetricFamily("weitiao_answer_steps", "Steps of all answers together.", writer.steps)
        yield CounterMetricFamily(
            "weitiao_answer_tokens", "Tokens of prompts and answers that were read.", writer.tokens
        )
        yield CounterMetricFamily("weitiao_prompt_tokens_known", "Tokens of prompts that were known.", writer.reused)


class Measured:
    """ASGI: how long it takes until an answer begins, and its status."""

    def __init__(self, app: Any, *, metrics: "Metrics") -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, counted = time.perf_counter(), False

        async def noted(message: Any) -> None:
            nonlocal counted
            if message["type"] == "http.response.start":
                counted = True
                self.metrics.answered(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            if not counted:  # the server makes it a 500
                self.metrics.answered(scope, 500, time.perf_counter() - began)
            raise


class Metrics:
    """All figures of one server."""

    def __init__(self, workers: Workers) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfEngines(workers))  # type: ignore[arg-type]
        self.recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # when, and how many seconds it took
        self.requests = Counter(
            "weitiao_requests", "Requests by path and status.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "weitiao_request_seconds", "From a request's head to its answer.", ("path",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip

    def answered(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """A request has been answered. Paths that are none of ours share a name."""
        route = scope.get("route")
        self.count(getattr(route, "path", "other"), status, seconds)

    def count(self, path: str, status: int, seconds: float) -> None:
        """One answer more."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)
        if path in _ASKS:
            self.recent.append((time.monotonic(), seconds))

    def load(self) -> Load:
        """Of requests that asked a model."""
        now = time.monotonic()
        recent = list(self.recent)
        took = sorted(seconds for when, seconds in recent if now - when <= _MINUTE)
        span = min(_MINUTE, now - recent[0][0]) if len(recent) == _RECENT else _MINUTE
        p95 = took[min(len(took) - 1, int(0.95 * len(took)))] if took else None
        return Load(len(took), len(took) / span, p95)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
