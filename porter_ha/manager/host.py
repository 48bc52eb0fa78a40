"""What a manager replica needs of the machine under it, and Linux, which gives it.

A replica touches the world through its API client and its Host, and in no other way. A simulation that replaces these
two runs the very code that serves (porter_ha/testing).
"""

import asyncio
import contextlib
import importlib
import multiprocessing
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from porter_ha.http.client import Broken, Pool
from porter_ha.manager.echo import Echo
from porter_ha.model.plan import Redirect
from porter_ha.netlink import redirect
from porter_ha.netlink.nft import NftFailed
from porter_ha.protocol import Channel, FromWorker

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEALTH_TIMEOUT_S = 1.0
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


class Echoes(Protocol):
    """See echo.Echo."""

    def ask(self, addresses: tuple[str, ...]) -> list[str]: ...
    def collect(self) -> None: ...
    def close(self) -> None: ...


class Listening(Protocol):
    def close(self) -> None: ...


class Process(Protocol):
    """A worker process: frames to and from it, and its end."""

    channel: Channel
    pid: int

    def kill(self) -> None: ...
    async def ended(self) -> int | None:
        """Its exit status, once it is gone."""


class Host(Protocol):
    def now(self) -> float:
        """Monotonic seconds: never set back, never compared with another machine's."""

    def cores(self) -> int:
        """How many the replica may use now; at least one."""

    async def spawn(self, module: str, name: str) -> Process:
        """Run `module`.main in a process of its own."""

    async def connect(self, address: str, port: int) -> Streams:
        """TCP. Raises ConnectionRefusedError when the machine lives and nobody listens, another OSError, or waits."""

    async def listen(self, address: str, port: int, serve: Serve) -> Listening: ...

    def echoes(self, answered: Callable[[set[str]], None]) -> Echoes: ...

    async def healthy(self, address: str, port: int, path: str) -> bool:
        """Whether an HTTP GET answers 200 within HEALTH_TIMEOUT_S."""

    async def redirect(self, redirects: Collection[Redirect]) -> None:
        """Let exactly these redirections be. Raises OSError where the machine does not let us."""


def enter(module: str, sock: socket.socket) -> None:
    """The first code of a worker process. The module is named, not imported: workers are above this package."""
    importlib.import_module(module).main(sock)


class _LinuxProcess:
    def __init__(self, process: SpawnProcess, channel: Channel) -> None:
        self._process, self.channel, self.pid = process, channel, process.pid or 0

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> int | None:
        await asyncio.to_thread(self._process.join)
        return self._process.exitcode


class Linux:
    """The machine that this process runs on."""

    def now(self) -> float:
        return time.monotonic()

    def cores(self) -> int:
        """By affinity and by the container's limit, rounded up (cgroup-v2, cpu.max)."""
        cores = len(os.sched_getaffinity(0))
        with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or the word "max"
            quota, period = (int(word) for word in CPU_MAX.read_text(encoding="ascii").split())
            cores = min(cores, -(-quota // period))
        return max(1, cores)

    async def spawn(self, module: str, name: str) -> Process:
        """Plain multiprocessing, spawn."""
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=enter, args=(module, theirs), name=name, daemon=True
        )
        await asyncio.to_thread(process.start)
        theirs.close()
        channel = Channel(FromWorker)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        return _LinuxProcess(process, channel)

    async def connect(self, address: str, port: int) -> Streams:
        return await asyncio.open_connection(address, port)

    async def listen(self, address: str, port: int, serve: Serve) -> Listening:
        return await asyncio.start_server(serve, address or None, port)

    def echoes(self, answered: Callable[[set[str]], None]) -> Echoes:
        return Echo(answered)

    async def healthy(self, address: str, port: int, path: str) -> bool:
        host = f"[{address}]" if ":" in address else address
        pool = Pool(f"http://{host}:{port}", limit=1, timeout_s=HEALTH_TIMEOUT_S)  # asked seldom: one each time
        try:
            return (await pool.exchange("GET", path)).status == 200
        except Broken:
            return False
        finally:
            await pool.close()

    async def redirect(self, redirects: Collection[Redirect]) -> None:
        try:
            await redirect.apply(redirects)
        except NftFailed as error:
            raise OSError(str(error)) from error
