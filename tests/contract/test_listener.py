"""Routers that dial in, over real sockets on loopback: who is answered, with which key, and what a taken port does."""

import asyncio
import contextlib
import functools
import socket
import time

import pytest
import uvloop

from porter_ha.bgp.codec import ExaWire
from porter_ha.bgp.speaker import Speaker
from porter_ha.bgp.transport import dial
from porter_ha.core.session import KEEPALIVE
from porter_ha.model.plan import Listening
from tests.unit.builders import peer

ME = "127.0.0.1"
PASSIVE = peer(address="127.0.0.2", passive=True, ttl=64)


def free_port():
    with socket.socket() as sock:
        sock.bind((ME, 0))
        return sock.getsockname()[1]


def on_uvloop(test):
    """The loop that the speaker runs on."""

    @functools.wraps(test)
    def run(*arguments, **named):
        uvloop.run(test(*arguments, **named))

    return run


class Speaking:
    """A speaker that listens on loopback, and what it reports."""

    def __init__(self, *peers, may_dial=True):
        self._news = asyncio.Event()
        self.speaker = Speaker(self._news.set, dial, time.monotonic, lambda _: None)
        self.speaker.set_dial(may_dial)
        self.speaker.apply([], complete=True)
        self.port, self._peers = free_port(), peers

    async def __aenter__(self):
        await self.listen_at(self.port)
        return self

    async def __aexit__(self, *error):
        self.speaker.set_peers([], Listening())
        await turns()

    async def listen_at(self, port):
        self.port = port
        self.speaker.set_peers(self._peers, Listening(port, (ME,)))
        await turns()

    @property
    def report(self):
        return self.speaker.reports()[0]

    async def become(self, what):
        """Until `what` holds of what is reported."""
        async with asyncio.timeout(5.0):
            while not what(self.report):
                self._news.clear()
                await self._news.wait()

    async def established(self, **more):
        await self.become(lambda r: r.state == "Established" and all(getattr(r, k) == v for k, v in more.items()))


async def turns():
    """A few turns of the loop, in which whatever was begun without waiting is done."""
    for _ in range(3):
        await asyncio.sleep(0)


async def listens(port):
    try:
        reader, writer = await call(port, "127.0.0.9")
    except ConnectionRefusedError:
        return False
    async with asyncio.timeout(10.0):
        assert await reader.read() == b""
    writer.close()
    return True


async def call(port, source="127.0.0.2"):
    return await asyncio.open_connection(ME, port, local_addr=(source, 0))


async def greet(reader, writer):
    """What a router does until the session is up."""
    await reader.readexactly(19)
    other = peer(peer_as=65001, local_as=65010, router_id="10.9.0.1", families=(4,))
    writer.write(ExaWire().open(other, restarting=False) + KEEPALIVE)


@on_uvloop
async def test_the_routers_call_is_answered_and_strangers_are_not():
    async with Speaking(PASSIVE) as found:
        await found.become(lambda r: (r.state, r.last_error) == ("Active", "waiting for the router to dial in"))
        reader, writer = await call(found.port, "127.0.0.3")
        assert await reader.read() == b"", "not even an OPEN"
        writer.close()
        await greet(*(router := await call(found.port)))
        await found.established()
        router[1].close()
        await found.become(lambda r: r.state == "Active")


@on_uvloop
async def test_the_newest_call_counts():
    """A router that restarted knows before we do that its old connection is dead."""
    async with Speaking(PASSIVE) as found:
        await greet(*(first := await call(found.port)))
        await found.established()
        await greet(*(second := await call(found.port)))
        await found.established(flaps=1)
        first[1].close()
        second[1].close()


@on_uvloop
async def test_nobody_is_answered_while_this_replica_stays_away():
    async with Speaking(PASSIVE, may_dial=False) as found:
        with pytest.raises(ConnectionRefusedError):
            await call(found.port)
        found.speaker.set_dial(True)
        await found.become(lambda r: r.state == "Active")
        await greet(*(router := await call(found.port)))
        await found.established()
        router[1].close()


@on_uvloop
async def test_a_taken_port_is_told_and_taken_over_once_it_is_free():
    with socket.create_server((ME, 0)) as other:
        found = Speaking(PASSIVE)
        await found.listen_at(other.getsockname()[1])
        await found.become(lambda r: f"cannot listen on {ME} port {found.port}: Address already in use" in r.last_error)
    await found.become(lambda r: r.last_error == "waiting for the router to dial in")
    assert await listens(found.port)
    await found.__aexit__()
    assert not await listens(found.port)


@on_uvloop
async def test_another_port_leaves_sessions_alone():
    async with Speaking(PASSIVE) as found:
        await greet(*(router := await call(found.port)))
        await found.established()
        before = found.port
        await found.listen_at(free_port())
        assert (await listens(before), await listens(found.port)) == (False, True)
        assert (found.report.state, found.report.flaps) == ("Established", 0)
        router[1].close()


@on_uvloop
async def test_a_flood_of_calls_does_not_touch_a_session():
    """Strangers, and the router's own address with nothing to say: dropped, or replaced; the port stays open."""
    async with Speaking(PASSIVE) as found:
        silent = [await call(found.port) for _ in range(20)]
        await greet(*(router := await call(found.port)))
        await found.established()
        for _ in range(10):  # as many at once as the kernel queues for us
            assert all(await asyncio.gather(*(listens(found.port) for _ in range(40))))
        assert found.report.state == "Established"
        for _, writer in [*silent, router]:
            writer.close()


@pytest.mark.parametrize(("key", "hears"), [("sesame", True), ("other", False)])
@on_uvloop
async def test_the_listener_has_the_peers_key(key, hears):
    """TCP MD5 (RFC 2385) on a listening socket: with another key the router's SYN is never answered."""
    async with Speaking(peer(address="127.0.0.2", passive=True, ttl=64, password="sesame")) as found:
        router = peer(address=ME, port=found.port, password=key, sources=("127.0.0.2",), ttl=64)
        made = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await dial(router, lambda: made.append(1) or asyncio.Protocol())
        assert bool(made) is hears
        if hears:
            await found.become(lambda r: r.state == "OpenSent")


@on_uvloop
async def test_a_source_that_this_node_does_not_have_is_told():
    with pytest.raises(ValueError, match=r"this node has none of 192\.0\.2\.1"):
        await dial(peer(address=ME, sources=("192.0.2.1",)), asyncio.Protocol)
