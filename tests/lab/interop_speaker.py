"""Our speaker with a session for every way of tests/lab/interop.py. SIGUSR1: withdraw everything."""

import asyncio
import signal
import time

import uvloop

from porter_ha.bgp.speaker import Speaker
from porter_ha.bgp.transport import dial
from porter_ha.model.effects import Announce
from porter_ha.model.plan import Listening, Path, PathSet
from tests.lab.interop import HOPS, HOPS6, WAYS


async def main() -> None:
    speaker = Speaker(lambda: None, dial, time.monotonic, lambda _: None)
    sets = tuple(
        PathSet(number, 1000, tuple(Path(i + 1, hop) for i, hop in enumerate(hops)))
        for number, hops in ((1, HOPS), (2, HOPS6))
    )
    speaker.apply([Announce(f"way{w.number}", sets, {w.eips[0]: 1, w.eips[1]: 2}) for w in WAYS], complete=True)
    speaker.set_announce(1000, None, True)
    speaker.set_peers([way.settings() for way in WAYS], Listening(179))
    speaker.set_dial(True)

    def withdraw() -> None:
        speaker.apply([Announce(f"way{w.number}", (), dict.fromkeys(w.eips)) for w in WAYS], complete=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, withdraw)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
