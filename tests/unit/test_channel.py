"""A channel: few frames leave at once, many together, doors never wait, and order is kept."""

import asyncio

from porter_ha.protocol import GATHER_S, SPARE_S, STEADY_S, Channel, FromWorker, Moderation, Sync, Synced, Term, encode


def waits(moderation, times):
    return [moderation.wait_s(now) for now in times]


def test_few_frames_never_wait():
    moderation = Moderation()
    assert not any(waits(moderation, [n * STEADY_S for n in range(1000)]))


def test_some_in_a_row_do_not_wait_and_more_are_gathered():
    moderation = Moderation()
    spare = round(SPARE_S / STEADY_S) + 1
    assert waits(moderation, [1.0] * (spare + 1)) == [0.0] * spare + [GATHER_S]


def test_after_a_pause_they_leave_at_once_again():
    moderation = Moderation()
    waits(moderation, [1.0] * 100)
    assert moderation.wait_s(3.0) == 0.0


def test_however_many_come_those_of_one_time_leave_together():
    moderation, now, left = Moderation(), 0.0, []
    while now < 2.0:
        now += moderation.wait_s(now) + 1e-5  # the next frame comes right after the last ones left
        left.append(now)
    late = [moment for moment in left if moment > 1.0]
    assert len(late) <= 1.1 / GATHER_S


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


def test_many_frames_arrive_in_order_in_few_writes():
    async def story():
        one, writes = channel()
        for token in range(200):
            one.send(Sync(token))
        await asyncio.sleep(2 * GATHER_S)
        return writes

    writes = asyncio.run(story())
    assert b"".join(writes) == b"".join(encode(Sync(token)) for token in range(200))
    assert len(writes) == round(SPARE_S / STEADY_S) + 2


def test_a_door_does_not_wait_and_passes_nobody():
    async def story():
        one, writes = channel()
        for token in range(100):
            one.send(Sync(token))
        before = len(writes)
        one.send(Term(7, 0.0))
        return writes, before

    writes, before = asyncio.run(story())
    assert len(writes) == before + 1
    assert writes[-1].endswith(encode(Term(7, 0.0)))
    assert b"".join(writes) == b"".join(encode(Sync(token)) for token in range(100)) + encode(Term(7, 0.0))


def test_what_waits_leaves_before_the_end():
    async def story():
        one, writes = channel()
        for token in range(100):
            one.send(Synced(token))
        one.close()
        return writes

    writes = asyncio.run(story())
    assert b"".join(writes) == b"".join(encode(Synced(token)) for token in range(100)) + b"closed"
