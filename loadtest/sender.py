"""Our speaker with a table of prefixes, for a race against another sender: `python -m loadtest.sender ROUTER COUNT`.

It connects, and then obeys the words that it reads from build/lab/sender-ours.fifo: `open` announces, `shut` withdraws.
"""

import asyncio
import os
import sys
import time

import uvloop

from porter_ha.bgp.speaker import Speaker
from porter_ha.bgp.transport import dial
from porter_ha.model.effects import Announce
from porter_ha.model.net import V4, parse_range, to_text
from porter_ha.model.plan import Listening, Path, PathSet, PeerSettings
from tests.lab.shell import STATE
from tests.lab.topology import OUR_AS, ROUTER_AS, lan


async def main(router: str, count: int) -> None:
    first = parse_range("10.128.0.0").first
    peer = PeerSettings(
        name="router",
        address=router,
        port=179,
        peer_as=ROUTER_AS,
        local_as=OUR_AS,
        router_id=lan("node1")[0],
        hold_time_s=30,
        keepalive_s=10,
        connect_retry_s=1,
        families=(V4,),
        restart_time_s=0,
        ttl=1,
        password="",
        group="all",
    )
    speaker = Speaker(lambda: None, dial, time.monotonic, lambda _: None)
    paths = PathSet(1, 1000, (Path(1, lan("node3")[0]),))
    speaker.apply([Announce("all", (paths,), {to_text(V4, first + i): 1 for i in range(count)})], True)
    speaker.set_announce(1000, [], True)
    speaker.set_peers([peer], Listening())
    speaker.set_dial(True)
    fifo = STATE / "sender-ours.fifo"
    os.mkfifo(fifo)
    while True:
        words = await asyncio.to_thread(fifo.read_text)
        speaker.set_announce(1000, None if words.split()[-1] == "open" else [], True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
