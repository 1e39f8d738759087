"""What an operator's Prometheus scrapes: names and units by its conventions, labels all bounded.

Owns the numbers of one server; what a turn is, is the service's. Labels hold names of backends,
routes, codes and outcomes that clinvk itself makes, never what a client wrote.
"""

from collections.abc import Iterable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from clinvk import __version__
from clinvk.service import Service
from clinvk.telling import Ask

MOST_TOKENS = 2**53  # of one turn: some count as nobody can
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counts what happens; `observe_turn` and `observe_request` are to be called for each."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(service))
        self._requests = Counter(
            "clinvk_http_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._turns = Counter(
            "clinvk_turns",
            "Turns by how they came about and how they ended: a finish reason, an error code, "
            "or cancelled.",
            ("backend", "course", "outcome"),
            registry=self._registry,
        )
        self._tokens = Counter(
            "clinvk_tokens",
            "Tokens by kind; cached ones are input too, reasoning ones output.",
            ("backend", "kind"),
            registry=self._registry,
        )
        self._queue = self._seconds("clinvk_queue_seconds", "Time a turn waited for its place.")
        self._first = self._seconds(
            "clinvk_first_token_seconds", "Time from the request to the first of the answer."
        )
        self._total = self._seconds("clinvk_turn_seconds", "Time from the request to its end.")
        service.observers.append(self.observe_turn)

    def observe_turn(self, backend: str, ask: Ask) -> None:
        """Count a turn that has ended."""
        record = ask.record
        self._turns.labels(backend, ask.course.value, record.outcome).inc()
        for histogram, moment in (
            (self._queue, record.admitted),
            (self._first, record.first),
            (self._total, record.ended),
        ):
            if (seconds := record.since(moment)) is not None:
                histogram.labels(backend).observe(seconds)
        if (usage := record.usage) is not None:
            kinds = {
                "input": usage.input_tokens,
                "output": usage.output_tokens,
                "cached": usage.cached_tokens,
                "reasoning": usage.reasoning_tokens,
            }
            for kind, count in kinds.items():
                self._tokens.labels(backend, kind).inc(min(max(count, 0), MOST_TOKENS))

    def observe_request(self, request: web.Request, status: int) -> None:
        """Count a request that has been answered."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()

    def expose(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("backend",), buckets=_SECONDS, registry=self._registry)


METRICS = web.AppKey("clinvk.metrics", Metrics)
_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})


class _Now(Collector):
    """What is so at the moment it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        yield _gauge("clinvk_info", "The version that runs.", "version", [(__version__, 1)])
        loads = self._service.load()
        for field, text in (
            ("running", "Turns that run."),
            ("waiting", "Turns that wait for a place."),
            ("parked", "Turns that wait for the results of their tool calls."),
            ("idle", "Conversations kept for what is said next."),
        ):
            rows = [(name, getattr(load, field)) for name, load in loads.items()]
            kind = "conversations" if field == "idle" else "turns"
            yield _gauge(f"clinvk_{kind}_{field}", text, "backend", rows)
        backends = self._service.registry.backends.items()
        for field, text in (
            ("running", "Processes of the CLI that run."),
            ("spares", "Those of them that wait for their first turn."),
            ("starts", "Processes that were started, ever."),
            ("failures", "Starts that failed since the last that did not."),
        ):
            rows = [(name, getattr(backend.processes, field)) for name, backend in backends]
            yield _gauge(f"clinvk_processes_{field}", text, "backend", rows)


def _gauge(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


async def expose(request: web.Request) -> web.Response:
    """Answer `GET /metrics`."""
    body = request.app[METRICS].expose()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
