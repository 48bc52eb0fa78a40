"""Starts the worker processes, watches over them, and starts them again (plain multiprocessing, spawn).

A worker that exits, closes its channel, or sends no heartbeat for SILENCE_S is killed and started anew, later and
later while it keeps failing. The manager is told of every start and hands the new process all it needs.

Must never: leave a worker behind, or block the loop while one starts or dies.
"""

import asyncio
import importlib
import multiprocessing
import random
import socket
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess

from porter_ha.core.backoff import Backoff
from porter_ha.obs.log import log
from porter_ha.protocol import Channel, Frame, FromWorker, Heartbeat, Hello

SILENCE_S = 10.0
START_S = 30.0
STEADY_S = 30.0


def enter(module: str, sock: socket.socket) -> None:
    """The first code of a worker process. The module is named, not imported: workers are above this package."""
    importlib.import_module(module).main(sock)


class Worker:
    """One worker process and its successors. `send` drops frames while there is none: a start re-sends everything."""

    def __init__(
        self,
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
        self._module, self._on_start, self._on_frame = module, on_start, on_frame
        self._channel: Channel | None = None
        self._heard = 0.0

    @property
    def healthy(self) -> bool:
        return self._channel is not None and time.monotonic() - self._heard < SILENCE_S

    def send(self, frame: Frame) -> None:
        if self._channel is not None:
            self._channel.send(frame)

    async def run(self) -> None:
        """Keep one process alive for ever. Cancellation kills it."""
        backoff = Backoff(0.1, 10.0, random.random)
        while True:
            started = time.monotonic()
            await self._live()
            self.restarts += 1
            if time.monotonic() - started > STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _live(self) -> None:
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=enter, args=(self._module, theirs), name=self.name, daemon=True
        )
        await asyncio.to_thread(process.start)
        theirs.close()
        self.pid = process.pid or 0
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        self._channel = Channel(reader, writer, FromWorker)
        self._heard = time.monotonic() + START_S - SILENCE_S  # a start may take longer than a heartbeat
        self._channel.send(self.hello())
        self._on_start(self)
        self.started.set()
        watchdog = asyncio.create_task(self._watch(process), name=f"watchdog {self.name}")
        try:
            while (frame := await self._channel.receive()) is not None:
                self._heard = max(self._heard, time.monotonic())
                if isinstance(frame, Heartbeat):
                    self.counters = frame.counters
                else:
                    self._on_frame(self, frame)
        finally:
            watchdog.cancel()
            self._channel.close()
            self._channel = None
            process.kill()
            await asyncio.shield(asyncio.to_thread(process.join))
            log("worker ended", worker=self.name, pid=self.pid, exit=process.exitcode)

    async def _watch(self, process: SpawnProcess) -> None:
        while True:
            await asyncio.sleep(max(0.5, self._heard + SILENCE_S - time.monotonic()))
            if time.monotonic() - self._heard >= SILENCE_S:
                log("worker is silent, killing it", worker=self.name, pid=process.pid, silence_s=SILENCE_S)
                process.kill()
