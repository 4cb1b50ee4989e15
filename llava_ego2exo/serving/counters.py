"""What `/metrics` shows, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from .engine import Engine, Job


class Counters:
    """Metrics of one server."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter("ego2exo_requests", "requests answered", ["model", "end"], registry=own)
        self._tokens = Counter("ego2exo_tokens", "tokens generated", ["model"], registry=own)
        self._batch = Histogram("ego2exo_batch_seconds", "seconds of a batch", registry=own)
        self._size = Histogram("ego2exo_batch_size", "requests in a batch", buckets=(1, 2, 4, 8, 16, 32), registry=own)
        self._waiting = Gauge("ego2exo_waiting", "requests in the queue", registry=own)

    def watch(self, engine: Engine) -> None:
        """Read the queue's length from this engine."""
        self._waiting.set_function(lambda: len(engine.waiting))

    def batch(self, jobs: Sequence[Job], seconds: float) -> None:
        """Count a batch that has gone through a model."""
        self._batch.observe(seconds)
        self._size.observe(len(jobs))
        for job in jobs:
            self._requests.labels(job.model, job.row.reason or "stop").inc()
            self._tokens.labels(job.model).inc(len(job.row.tokens))

    def text(self) -> bytes:
        """All of them in Prometheus' format."""
        return generate_latest(self._registry)
