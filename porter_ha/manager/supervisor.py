"""Starts the worker processes, watches over them, and starts them again.

A worker that exits, closes its channel, or sends no heartbeat for SILENCE_S is killed and started anew, later and
later while it keeps failing. The manager is told of every start and hands the new process all it needs.

Must never: leave a worker behind, or block the loop while one starts or dies.
"""

import asyncio
import random
from collections.abc import Callable

from porter_ha.core.backoff import Backoff
from porter_ha.manager.host import Host, Process
from porter_ha.obs.log import log
from porter_ha.protocol import Channel, Frame, FromWorker, Heartbeat, Hello

SILENCE_S = 10.0
START_S = 30.0
STEADY_S = 30.0


class Worker:
    """One worker process and its successors. `send` drops frames while there is none: a start re-sends everything."""

    def __init__(
        self,
        host: Host,
        module: str,
        hello: Callable[[], Hello],
        on_start: Callable[["Worker"], None],
        on_frame: Callable[["Worker", FromWorker], None],
    ) -> None:
        self.hello = hello
        self.name = hello().role if hello().role == "speaker" else f"{hello().role}-{hello().index}"
        self.index = hello().index
        self.counters: dict[str, float] = {}
        self.restarts = 0
        self.pid = 0
        self.started = asyncio.Event()
        self._host, self._module, self._on_start, self._on_frame = host, module, on_start, on_frame
        self._channel: Channel | None = None
        self._heard = 0.0

    @property
    def healthy(self) -> bool:
        return self._channel is not None and self._host.now() - self._heard < SILENCE_S

    def send(self, frame: Frame) -> None:
        if self._channel is not None:
            self._channel.send(frame)

    async def run(self) -> None:
        """Keep one process alive for ever. Cancellation kills it."""
        backoff = Backoff(0.1, 10.0, random.random)
        while True:
            started = self._host.now()
            await self._live()
            self.restarts += 1
            if self._host.now() - started > STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _live(self) -> None:
        process = await self._host.spawn(self._module, self.name)
        self.pid, self._channel = process.pid, process.channel
        self._heard = self._host.now() + START_S - SILENCE_S  # a start may take longer than a heartbeat
        self._channel.send(self.hello())
        self._on_start(self)
        self.started.set()
        watchdog = asyncio.create_task(self._watch(process), name=f"watchdog {self.name}")
        try:
            await self._channel.listen(self._take)
        finally:
            watchdog.cancel()
            self._channel.close()
            self._channel = None
            process.kill()
            status = await asyncio.shield(process.ended())
            log("worker ended", worker=self.name, pid=self.pid, exit=status)

    def _take(self, frame: FromWorker) -> None:
        self._heard = max(self._heard, self._host.now())
        if isinstance(frame, Heartbeat):
            self.counters = frame.counters
        else:
            self._on_frame(self, frame)

    async def _watch(self, process: Process) -> None:
        while True:
            await asyncio.sleep(max(0.5, self._heard + SILENCE_S - self._host.now()))
            if self._host.now() - self._heard >= SILENCE_S:
                log("worker is silent, killing it", worker=self.name, pid=process.pid, silence_s=SILENCE_S)
                process.kill()
