"""The speaker process: frames from the manager to porter_ha.bgp.speaker, session reports back."""

import socket
import time
from collections.abc import Callable

from porter_ha.bgp.speaker import Dial, Speaker
from porter_ha.bgp.transport import dial
from porter_ha.obs.timings import observe
from porter_ha.protocol import Channel, Door, FromManager, Hello, Routes, Sessions, SetPeers
from workers.runtime import Counters, Handler, run


def serve(channel: Channel, counters: Counters, dialling: Dial, now: Callable[[], float]) -> Handler:
    """A speaker that reaches routers by `dialling`."""

    def report() -> None:
        channel.send(Sessions(speaker.reports()))

    speaker = Speaker(report, dialling, now, lambda seconds: observe(counters, "announce_seconds", seconds))

    def handle(frame: FromManager) -> None:
        if isinstance(frame, SetPeers):
            speaker.set_peers(frame.peers, frame.listening)
            speaker.set_dial(frame.dial)
        elif isinstance(frame, Door):
            speaker.set_announce(frame.med, frame.peers, frame.new)
        elif isinstance(frame, Routes):
            counters["route_changes"] = counters.get("route_changes", 0) + sum(len(a.changes) for a in frame.announces)
            speaker.apply(frame.announces, frame.complete)

    return handle


async def start(channel: Channel, hello: Hello, counters: Counters) -> Handler:
    return serve(channel, counters, dial, time.monotonic)


def main(sock: socket.socket) -> None:
    run(sock, start)
