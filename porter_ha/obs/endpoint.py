"""The endpoint of a pod's process: /metrics, /healthz (restart me if not) and /readyz (details as JSON)."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import orjson

from porter_ha.http.server import Page, listen
from porter_ha.obs.metrics import Sample, exposition

Details = Mapping[str, object]
TEXT = "text/plain; charset=utf-8"


async def serve(
    address: str,
    port: int,
    samples: Callable[[], Iterable[Sample]],
    healthy: Callable[[], bool],
    ready: Callable[[], tuple[bool, Details]],
) -> asyncio.Server:
    """Listen, in the running loop. The caller closes the server. Raises OSError when the port is taken."""
    metrics = exposition(samples)

    def health() -> Page:
        return Page(200, TEXT, b"ok\n") if healthy() else Page(503, TEXT, b"a worker is silent\n")

    def readiness() -> Page:
        good, details = ready()
        body = orjson.dumps({"ready": good, **details}, option=orjson.OPT_APPEND_NEWLINE)
        return Page(200 if good else 503, "application/json", body)

    pages = {"/metrics": lambda: Page(200, TEXT, metrics()), "/healthz": health, "/readyz": readiness}
    return await listen(address, port, {**pages, "/ready": readiness})
