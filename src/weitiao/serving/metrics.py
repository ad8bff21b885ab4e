"""Figures for Prometheus. Texts, keys and names of models are in none of them."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from weitiao.serving.engine import Engine
from weitiao.serving.writer import Writer

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


class _OfEngine:
    """What the engine counts, read when it is asked for."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self.engine, self.writer = engine, writer

    def collect(self) -> Iterator[Any]:
        """prometheus_client's collector."""
        engine, writer = self.engine, self.writer
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


class Metrics:
    """All figures of one server."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfEngine(engine, writer))  # type: ignore[arg-type]
        self.requests = Counter(
            "weitiao_requests", "Requests by path and status.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "weitiao_request_seconds", "From a request's head to its answer.", ("path",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip

    def answered(self, request: Any, status: int, seconds: float) -> None:
        """A request has been answered. Paths that are none of ours share a name."""
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
