"""Frames between a manager and its workers: msgpack of tagged structs, length first, over a socketpair.

Both ends are of one build, so there is no version in it. Every frame that causes a write carries the epoch, and
Term carries until when (CLOCK_MONOTONIC, the same for all processes of a machine) the API door is open.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec

from porter_ha.core.moderation import Moderation
from porter_ha.model.access import Access
from porter_ha.model.effects import Announce, ServiceEffect
from porter_ha.model.plan import Claim, Listening, PeerSettings

MAX_FRAME = 64 << 20


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all frames."""


# --- manager to any worker


class Hello(Frame, frozen=True):
    """First frame: what the worker is and what it needs to know for good. `in_flight` is how many requests to the API
    server it may have at once."""

    role: str
    index: int
    node: str
    classless: bool
    in_flight: int
    access: Access | None


class Term(Frame, frozen=True):
    """The epoch, and until when the API door is open (monotonic seconds); 0 means closed."""

    epoch: int
    open_until: float


class Renew(Frame, frozen=True):
    """Rotated credentials."""

    access: Access


# --- manager to shard


class Raw(Frame, frozen=True):
    """Objects as the API server sent them; `raw` is empty for a deletion."""

    kind: str
    service_key: str
    name: str
    raw: bytes


class Raws(Frame, frozen=True):
    items: list[Raw]


class Filled(Frame, frozen=True):
    """Everything that exists has been sent. Before this a claim could lack its EndpointSlices, and must not be made."""


class Sync(Frame, frozen=True):
    """Answer with Synced once everything before this is digested and its claims are sent."""

    token: int


class Finish(Frame, frozen=True):
    """Begin no write any more; answer with Synced once none is on its way."""

    token: int


class Do(Frame, frozen=True):
    """Carry out these effects in this term."""

    epoch: int
    effects: list[ServiceEffect]


# --- shard to manager


class Claims(Frame, frozen=True):
    changed: list[Claim]
    gone: list[str]


class Synced(Frame, frozen=True):
    """The answer to Sync and to Finish."""

    token: int


class Written(Frame, frozen=True):
    """The effect with this serial number is carried out, and so is all that went before it to that Service."""

    key: str
    serial: int


class Undone(Frame, frozen=True):
    """These Services' effects were given up (door closed, or the Service changed): decide again when leading."""

    keys: list[str]


# --- manager to speaker


class SetPeers(Frame, frozen=True):
    """Exactly these sessions, and nothing else, with everything that shapes them. `dial` may be false: stay away, and
    take no router's call."""

    peers: list[PeerSettings]
    listening: Listening
    dial: bool


class Door(Frame, frozen=True):
    """The BGP door: the MED of our paths, the peers that hear them (None: all of them, also later ones), and whether
    EIPs that they have not heard of from us yet are among them."""

    med: int
    peers: list[str] | None
    new: bool


class Routes(Frame, frozen=True):
    """Changes of a group's Adj-RIB-Out."""

    announces: list[Announce]
    complete: bool


# --- speaker to manager


class SessionReport(Frame, frozen=True):
    """A session as it is now. `synced_med` names the term of which everything, End-of-RIB included, has been sent;
    `quiet`: nothing was heard for half of the hold time; `collided`: the router prefers another of this node."""

    peer: str
    state: str
    since: float
    last_error: str
    hold_time_s: int
    families: list[int]
    add_path: list[int]
    graceful: bool
    prefixes: int
    synced_med: int
    flaps: int
    quiet: bool
    collided: bool


class Sessions(Frame, frozen=True):
    reports: list[SessionReport]


# --- any worker to manager


class Heartbeat(Frame, frozen=True):
    """I live. Counters are totals since the worker began, by metric name and label values."""

    counters: dict[str, float]


FromManager = Hello | Term | Renew | Raws | Filled | Sync | Finish | Do | SetPeers | Door | Routes
FromWorker = Claims | Synced | Written | Undone | Sessions | Heartbeat

_encoder = msgspec.msgpack.Encoder()
_LENGTH = struct.Struct("!I")


def encode(frame: Frame) -> bytes:
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class Channel(asyncio.Protocol):
    """One end of a connection that carries frames. What arrives goes to whoever listens in the very turn of the loop in
    which it arrives: a task that waits for it would come a turn later, at each of a Service's five hops."""

    def __init__(self, incoming: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._transport: asyncio.Transport | None = None
        self._listener: Callable[[Any], None] | None = None
        self._early: deque[Any] = deque()
        self._moderation = Moderation()
        self._waiting: list[bytes] = []
        self._rest = bytearray()  # of data: the beginning of a frame
        self._wanted = _LENGTH.size  # so many bytes it must have before looking at it again makes sense
        self._failure: Exception | None = None
        self._news, self._gone = asyncio.Event(), asyncio.Event()

    async def first(self) -> Any:
        """The first frame; None when the other end is gone without one."""
        await self._news.wait()
        return self._early.popleft() if self._early else None

    async def listen(self, listener: Callable[[Any], None]) -> None:
        """Give every frame to `listener`, until the other end is gone. Raises what the listener raises."""
        while self._early:
            listener(self._early.popleft())
        self._listener = listener
        await self._gone.wait()
        if self._failure is not None:
            raise self._failure

    def send(self, frame: Frame) -> None:
        """At once, after all that waits."""
        self._waiting.append(encode(frame))
        self._flush()

    def send_soon(self, frame: Frame) -> None:
        """For what comes one by one and may come in masses: then it waits a little for others (core/moderation.py)."""
        loop = asyncio.get_running_loop()
        wait_s = self._moderation.wait_s(loop.time())
        self._waiting.append(encode(frame))
        if not wait_s:
            self._flush()
        elif len(self._waiting) == 1:
            loop.call_later(wait_s, self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()
        self._end()

    def _end(self) -> None:
        self._gone.set()
        self._news.set()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        try:
            self._rest += data[self._deliver(memoryview(data)) :]
        except Exception as error:  # a defect of ours: whoever listens lets it be seen
            self._failure = error
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _deliver(self, data: memoryview) -> int:
        """Take the whole frames from the beginning of `data`; returns how many bytes they are."""
        at = 0
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME} are possible")
            begin, end = at + _LENGTH.size, at + _LENGTH.size + length
            if end > len(data):
                self._wanted = end - at
                return at
            frame = self._decoder.decode(data[begin:end])
            at = end
            if self._listener is not None:
                self._listener(frame)
            else:
                self._early.append(frame)
                self._news.set()
        self._wanted = _LENGTH.size
        return at
