"""What all workers of a manager share: a loop, a channel to the manager, a heartbeat, and a quick end.

A worker lives exactly as long as its manager: when the channel closes it exits at once, without farewells. For the
speaker this is what keeps routes: TCP ends without a NOTIFICATION, and routers wait (graceful restart).
"""

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Awaitable, Callable

import uvloop

from porter_ha.obs.log import bind, log
from porter_ha.protocol import Channel, FromManager, Heartbeat, Hello

HEARTBEAT_S = 1.0
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class Counters(dict[str, float]):
    """What a worker counts. `look` is called before each heartbeat, for values that are only known by looking."""

    look: Callable[[], None] = staticmethod(lambda: None)


Handler = Callable[[FromManager], None]
Start = Callable[[Channel, Hello, Counters], Awaitable[Handler]]


def _name_process(name: str) -> None:
    """For `ps` and `top`; and die with the manager even if it is killed between fork and connect."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run(sock: socket.socket, start: Start) -> None:
    """Serve the manager at the other end of `sock` until it is gone. Does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvloop.run(_serve(sock, start))
    os._exit(0)


async def _serve(sock: socket.socket, start: Start) -> None:
    channel = Channel(FromManager)
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=sock)

    def greeted(hello: Hello) -> None:
        name = hello.role if hello.role == "speaker" else f"{hello.role}-{hello.index}"
        _name_process(f"porter-{name}")
        bind(process=name, node=hello.node)

    await converse(channel, start, greeted)
    log("manager gone, exiting")
    os._exit(0)


async def converse(channel: Channel, start: Start, greeted: Callable[[Hello], None]) -> None:
    """Do as the manager says, until it is gone."""
    hello = await channel.first()
    if not isinstance(hello, Hello):
        return
    greeted(hello)
    counters = Counters()
    handle = await start(channel, hello, counters)
    beat = asyncio.create_task(_beat(channel, counters), name="heartbeat")
    await channel.listen(handle)
    beat.cancel()


async def _beat(channel: Channel, counters: Counters) -> None:
    while True:
        counters.look()
        channel.send(Heartbeat(dict(counters)))
        await asyncio.sleep(HEARTBEAT_S)
