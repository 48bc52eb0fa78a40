"""A BGP session as a state machine: bytes and timers in, bytes and facts out (RFC 4271, 4724, 6608).

No I/O and no clock: the caller passes `now` (monotonic seconds), sends what it is told to send, and calls `tick` at
`deadline`. Which message may arrive in which state is a table; anything else ends the session with the NOTIFICATION
that RFC 6608 names. What routers announce to us is counted and dropped: we never route by it, so a router that talks
nonsense in UPDATEs hurts nobody.

Must never: let a peer's bytes raise anything but the session's own end, or send a NOTIFICATION where graceful
restart is meant to keep our routes (the caller closes silently then).
"""

import struct
from enum import Enum, IntEnum
from typing import Protocol

from porter_ha.model.plan import PeerSettings
from porter_ha.model.value import Value

HEADER = struct.Struct("!16sHB")
MARKER = b"\xff" * 16
COLLISION = bytes([6, 7])  # the Cease of RFC 4271 6.8: the router prefers another connection with this node
HARD_RESET = (6, 9)
OPEN_WAIT_S = 60.0  # RFC 4271 8.2.2 suggests 4 minutes; a router that takes a minute to say OPEN is not well


class Kind(IntEnum):
    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


class State(Enum):
    """RFC 4271 8.2.2. Connect: we dial; Active: the router does."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


class Negotiated(Value, frozen=True):
    """What both OPENs agree on. `add_path` lists the families in which we may send several paths; where
    `notification_kept`, the router keeps our routes after a NOTIFICATION, too (RFC 8538)."""

    hold_time_s: int
    families: tuple[int, ...]
    add_path: tuple[int, ...]
    asn4: bool
    message_size: int
    graceful: bool
    router_id: str
    notification_kept: bool = False


class WireError(Exception):
    """The peer's message is wrong: the NOTIFICATION to answer with (code, subcode, data), and why in words."""

    def __init__(self, code: int, subcode: int, text: str, data: bytes = b"") -> None:
        super().__init__(text)
        self.code, self.subcode, self.data = code, subcode, data


class Wire(Protocol):
    """The encoding of messages whose contents matter; bgp/codec.py implements it."""

    def open(self, settings: PeerSettings, restarting: bool) -> bytes:
        """A whole OPEN message."""

    def negotiate(self, settings: PeerSettings, body: bytes) -> Negotiated:
        """Compare the peer's OPEN with ours. Raises WireError."""

    def notification(self, code: int, subcode: int, data: bytes) -> bytes:
        """A whole NOTIFICATION message."""

    def describe(self, body: bytes) -> str:
        """A received NOTIFICATION in words."""

    def refreshed_family(self, body: bytes) -> int:
        """The family that a ROUTE-REFRESH asks for; 0 for one that we do not send."""


class Send(Value, frozen=True, tag=True):
    data: bytes


class Up(Value, frozen=True, tag=True):
    negotiated: Negotiated


class Refresh(Value, frozen=True, tag=True):
    """The router wants everything of this family again (RFC 2918)."""

    family: int


class Close(Value, frozen=True, tag=True):
    """Close the connection, after whatever was sent; `error` is for people."""

    error: str


Output = Send | Up | Refresh | Close

# Which messages may arrive when; a NOTIFICATION may always. The value is the subcode of the error otherwise (RFC 6608).
_EXPECTED: dict[State, tuple[frozenset[Kind], int]] = {
    State.OPEN_SENT: (frozenset({Kind.OPEN}), 1),
    State.OPEN_CONFIRM: (frozenset({Kind.KEEPALIVE}), 2),
    State.ESTABLISHED: (frozenset({Kind.KEEPALIVE, Kind.UPDATE, Kind.ROUTE_REFRESH}), 3),
}
_LENGTHS = {Kind.OPEN: (29, 4096), Kind.UPDATE: (23, 65535), Kind.NOTIFICATION: (21, 65535), Kind.KEEPALIVE: (19, 19),
            Kind.ROUTE_REFRESH: (23, 23)}  # fmt: skip


def message(kind: Kind, body: bytes = b"") -> bytes:
    return HEADER.pack(MARKER, HEADER.size + len(body), kind) + body


KEEPALIVE = message(Kind.KEEPALIVE)


class Session:
    def __init__(self, settings: PeerSettings, wire: Wire) -> None:
        self.settings = settings
        self.state = State.IDLE
        self.negotiated: Negotiated | None = None
        self.received_updates = 0
        self._wire = wire
        self._buffer = bytearray()
        self._limit = 4096
        self._hold_at = float("inf")
        self._keepalive_at = float("inf")
        self._hold_s = 0.0
        self._keepalive_s = 0.0
        self.quiet = False
        self.collided = False

    @property
    def deadline(self) -> float:
        """When `tick` must be called."""
        return min(self._hold_at, self._keepalive_at, self._quiet_at)

    @property
    def _quiet_at(self) -> float:
        """A router that misses a keepalive may be cut off from us; it will drop our routes when its hold time ends, at
        about the time that ours does. Who can act on that must hear of it before."""
        established = self.state is State.ESTABLISHED and self._hold_s and not self.quiet
        return self._hold_at - self._hold_s / 2 if established else float("inf")

    def connecting(self) -> None:
        self.state = State.CONNECT

    def waiting(self) -> None:
        self.state = State.ACTIVE

    def connected(self, now: float, restarting: bool) -> list[Output]:
        """TCP is up: say OPEN."""
        self.state = State.OPEN_SENT
        self._hold_at = now + OPEN_WAIT_S
        return [Send(self._wire.open(self.settings, restarting))]

    def lost(self) -> None:
        """TCP is gone."""
        self.state, self.quiet = State.IDLE, False
        self._buffer.clear()
        self._hold_at = self._keepalive_at = float("inf")

    def tick(self, now: float) -> list[Output]:
        """Timers. The hold timer's end says so to the router; a keepalive is sent when due; `quiet` becomes true when
        nothing was heard for half of the hold time."""
        if now >= self._quiet_at:
            self.quiet = True
        if now >= self._hold_at:
            return self._fail(4, 0, b"", f"hold timer expired: nothing heard for {self._hold_s or OPEN_WAIT_S:.0f} s")
        if now >= self._keepalive_at:
            self._keepalive_at = now + self._keepalive_s
            return [Send(KEEPALIVE)]
        return []

    def received(self, data: bytes, now: float) -> list[Output]:
        """Bytes from the router, in any pieces."""
        self._buffer += data
        self.quiet = False
        out: list[Output] = []
        while self.state in _EXPECTED and len(self._buffer) >= HEADER.size:
            marker, length, number = HEADER.unpack_from(self._buffer)
            problem = self._check_header(marker, length, number)
            if problem is not None:
                return out + problem
            if len(self._buffer) < length:
                break
            body = bytes(self._buffer[HEADER.size : length])
            del self._buffer[:length]
            out += self._handle(Kind(number), body, now)
        return out

    def stop(self, code: int, subcode: int, why: str) -> list[Output]:
        """End the session on purpose and make the router forget our routes at once: with a NOTIFICATION (RFC 4486 lists
        Cease's subcodes), inside a hard reset where the router would keep them after any other (RFC 8538 section 3)."""
        if self.negotiated is not None and self.negotiated.notification_kept:
            return self._fail(*HARD_RESET, bytes([code, subcode]), why)
        return self._fail(code, subcode, b"", why)

    # -- within

    def _check_header(self, marker: bytes, length: int, number: int) -> list[Output] | None:
        if marker != MARKER:
            return self._fail(1, 1, b"", "the message header has no marker: this is not BGP")
        if number not in Kind._value2member_map_:
            return self._fail(1, 3, bytes([number]), f"unknown message type {number}")
        low, high = _LENGTHS[Kind(number)]
        if not low <= length <= min(high, self._limit):
            return self._fail(1, 2, struct.pack("!H", length), f"{Kind(number).name} message of {length} bytes")
        return None

    def _handle(self, kind: Kind, body: bytes, now: float) -> list[Output]:
        if self._hold_s:
            self._hold_at = now + self._hold_s
        if kind is Kind.NOTIFICATION:
            self.lost()
            self.collided = body[:2] == COLLISION  # the other speaker was the quicker one
            return [Close(f"the router closed the session: {self._wire.describe(body)}")]
        allowed, subcode = _EXPECTED[self.state]
        if kind not in allowed:
            return self._fail(5, subcode, b"", f"{kind.name} in state {self.state.value}")
        if kind is Kind.OPEN:
            return self._opened(body, now)
        assert self.negotiated is not None
        if self.state is State.OPEN_CONFIRM:
            self.state, self.collided = State.ESTABLISHED, False
            return [Up(self.negotiated)]
        if kind is Kind.UPDATE:
            self.received_updates += 1
        elif kind is Kind.ROUTE_REFRESH:
            family = self._wire.refreshed_family(body)
            return [Refresh(family)] if family in self.negotiated.families else []
        return []

    def _opened(self, body: bytes, now: float) -> list[Output]:
        try:
            negotiated = self._wire.negotiate(self.settings, body)
        except WireError as error:
            return self._fail(error.code, error.subcode, error.data, str(error))
        self.negotiated = negotiated
        self._limit = negotiated.message_size
        self._hold_s = float(negotiated.hold_time_s)
        self._hold_at = now + self._hold_s if self._hold_s else float("inf")
        self._keepalive_s = min(float(self.settings.keepalive_s), self._hold_s / 3)
        self._keepalive_at = now + self._keepalive_s if self._hold_s else float("inf")
        self.state = State.OPEN_CONFIRM
        return [Send(KEEPALIVE)]

    def _fail(self, code: int, subcode: int, data: bytes, why: str) -> list[Output]:
        self.lost()
        return [Send(self._wire.notification(code, subcode, data)), Close(why)]
