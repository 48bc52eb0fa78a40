"""The endpoint of a pod's process: /metrics, /healthz (restart me if not) and /readyz (details as JSON)."""

from collections.abc import Callable, Iterable, Mapping

import orjson
from aiohttp import web

from porter_ha.obs.metrics import Sample, exposition

Details = Mapping[str, object]


async def serve(
    address: str,
    port: int,
    samples: Callable[[], Iterable[Sample]],
    healthy: Callable[[], bool],
    ready: Callable[[], tuple[bool, Details]],
) -> web.AppRunner:
    """Listen, in the running loop. The caller cleans the runner up. Raises OSError when the port is taken."""
    metrics = exposition(samples)

    async def get_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), content_type="text/plain", charset="utf-8")

    async def get_health(_: web.Request) -> web.Response:
        good = healthy()
        return web.Response(status=200 if good else 503, text="ok\n" if good else "a worker is silent\n")

    async def get_ready(_: web.Request) -> web.Response:
        good, details = ready()
        body = orjson.dumps({"ready": good, **details}, option=orjson.OPT_APPEND_NEWLINE)
        return web.Response(status=200 if good else 503, body=body, content_type="application/json")

    app = web.Application()
    app.add_routes([
        web.get("/metrics", get_metrics),
        web.get("/healthz", get_health),
        web.get("/readyz", get_ready),
        web.get("/ready", get_ready),
    ])  # fmt: skip
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, address or None, port).start()
    return runner
