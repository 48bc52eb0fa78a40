"""Few things are acted on at once; many are gathered, on channels between processes and from a watch."""

import asyncio

import msgspec
import pytest

from porter_ha.core.moderation import GATHER_S, SPARE_S, STEADY_S, Moderation
from porter_ha.kube.client import Reach
from porter_ha.kube.watch import Watch
from porter_ha.protocol import Channel, FromWorker, Sync, Synced, Term, encode
from porter_ha.testing.loop import SimulatedLoop

SPARE = round(SPARE_S / STEADY_S) + 1  # so many at one moment are acted on at once


def waits(moderation, times):
    return [moderation.wait_s(now) for now in times]


def test_few_never_wait():
    assert not any(waits(Moderation(), [n * STEADY_S for n in range(1000)]))


def test_some_in_a_row_do_not_wait_and_more_are_gathered():
    assert waits(Moderation(), [1.0] * (SPARE + 1)) == [0.0] * SPARE + [GATHER_S]


def test_after_a_pause_they_are_acted_on_at_once_again():
    moderation = Moderation()
    waits(moderation, [1.0] * 100)
    assert moderation.wait_s(5.0) == 0.0


def acted(times):
    """When things that come then are acted on, as a channel and a watch do."""
    moderation, moments = Moderation(), []
    for now in times:
        wait_s = moderation.wait_s(now)
        if not moments or moments[-1] <= now:
            moments.append(now + wait_s)
    return moments


def test_however_many_come_those_of_one_time_are_gathered():
    late = [moment for moment in acted([n / 1000 for n in range(2000)]) if moment > 1.0]
    assert len(late) <= 1.1 / GATHER_S


def test_after_a_flood_few_are_acted_on_at_once_again():
    flood = [n / 1000 for n in range(2000)]
    few = [2.0 + n / 150 for n in range(300)]
    assert set(few[50:]) <= set(acted(flood + few)), "each when it comes"


# -- channels


class Transport:
    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(data)

    def is_closing(self):
        return False

    def close(self):
        self.writes.append(b"closed")


def channel():
    made, transport = Channel(FromWorker), Transport()
    made.connection_made(transport)
    return made, transport.writes


def simulated(story):
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(story())
    finally:
        loop.finish()


def test_many_frames_that_may_wait_arrive_in_order_in_few_writes():
    async def story():
        one, writes = channel()
        for token in range(200):
            one.send_soon(Sync(token))
        at_once = len(writes)
        await asyncio.sleep(GATHER_S)
        return at_once, writes

    at_once, writes = simulated(story)
    assert (SPARE - 1 <= at_once <= SPARE, len(writes)) == (True, at_once + 1)
    assert b"".join(writes) == b"".join(encode(Sync(token)) for token in range(200))


def test_a_frame_that_may_not_wait_takes_along_what_does():
    async def story():
        one, writes = channel()
        for token in range(100):
            one.send_soon(Sync(token))
        before = len(writes)
        one.send(Term(7, 0.0))
        at_once = list(writes)
        await asyncio.sleep(GATHER_S)
        return before, at_once, writes

    before, at_once, writes = simulated(story)
    assert len(at_once) == before + 1
    assert at_once == writes, "nothing is sent twice"
    assert b"".join(writes) == b"".join(encode(Sync(token)) for token in range(100)) + encode(Term(7, 0.0))


def test_what_waits_leaves_before_the_end():
    async def story():
        one, writes = channel()
        for token in range(100):
            one.send_soon(Synced(token))
        one.close()
        return writes

    assert b"".join(simulated(story)) == b"".join(encode(Synced(token)) for token in range(100)) + b"closed"


# -- watches


class Server:
    """A watch's other end: it has `count` changes, one each millisecond, and gives all that there are when asked."""

    def __init__(self, count, initial):
        self.reach, self.initial, self.count = Reach(), initial, count

    def line(self, number):
        name = {"name": f"s-{number}", "namespace": "default", "resourceVersion": str(number + 2)}
        return msgspec.json.encode({"type": "ADDED", "object": {"metadata": name}})

    async def stream(self, path, params, *, idle_timeout_s):
        loop = asyncio.get_running_loop()
        end = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
        yield []
        for number in range(self.initial):
            yield [self.line(-number - 1)]
        yield [msgspec.json.encode({"type": "BOOKMARK", "object": {"metadata": end}})]
        began, given = loop.time(), 0
        while given < self.count:
            if (there := min(self.count, int((loop.time() - began) * 1000))) == given:
                await asyncio.sleep(0.001)
            else:
                yield [self.line(number) for number in range(given, there)]
                given = there
        await asyncio.Event().wait()


def followed(gather, count=1000, initial=0):
    """(names in the order in which they were delivered, how many deliveries, when everything there was was known)."""

    async def story():
        loop, batches = asyncio.get_running_loop(), []
        names = [f"s-{number}" for number in range(count)]
        watch = Watch(Server(count, initial), "/api/v1/services", batches.append, gather=gather)
        task = loop.create_task(watch.run())
        await watch.synced.wait()
        synced_s = loop.time()
        await asyncio.sleep(2.0)
        task.cancel()
        later = [[c.name for c in changes if c.name in names] for changes in batches]
        return [name for batch in later for name in batch], sum(map(bool, later)), synced_s

    return simulated(story)


@pytest.mark.parametrize("gather", [True, False])
def test_a_watch_that_gathers_delivers_all_in_order_in_few_batches(gather):
    names, batches, _ = followed(gather)
    assert names == [f"s-{number}" for number in range(1000)]
    if gather:
        assert batches <= SPARE + 1.2 / GATHER_S
    else:
        assert batches == 1000


def test_a_watch_does_not_gather_before_it_knows_what_there_is():
    assert followed(True, initial=5000)[2] == 0.0, "the server gives it without pause"
