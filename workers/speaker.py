"""The speaker process: frames from the manager to porter_ha.bgp.speaker, session reports back."""

import socket

from porter_ha.bgp.speaker import Speaker
from porter_ha.protocol import Channel, Door, FromManager, Hello, Routes, Sessions, SetPeers
from workers.runtime import Counters, Handler, run


async def start(channel: Channel, hello: Hello, counters: Counters) -> Handler:
    def report() -> None:
        channel.send(Sessions(speaker.reports()))

    speaker = Speaker(report)

    async def handle(frame: FromManager) -> None:
        if isinstance(frame, SetPeers):
            speaker.set_peers(frame.peers)
            speaker.set_dial(frame.dial)
        elif isinstance(frame, Door):
            speaker.set_announce(frame.announce, frame.med)
        elif isinstance(frame, Routes):
            counters["route_changes"] = counters.get("route_changes", 0) + sum(len(a.changes) for a in frame.announces)
            speaker.apply(frame.announces, frame.complete)

    return handle


def main(sock: socket.socket) -> None:
    run(sock, start)
