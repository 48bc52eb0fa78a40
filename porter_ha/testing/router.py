"""A simulated BGP router: add-path, graceful restart as a helper, best paths by MED, ECMP over equal ones.

Written against the RFCs and bgp.md's measurements of FRR and BIRD, not against our speaker, so the two can disagree.
What it forgives nothing: a NOTIFICATION or an expired hold timer drops a session's paths at once (unless RFC 8538's N
bit is agreed), a second loss before End-of-RIB drops what was stale, an End-of-RIB drops what was not repeated.
"""

import asyncio
import struct
from collections.abc import Callable
from random import Random

from porter_ha.model.net import V4, V6, to_text
from porter_ha.testing.loop import Process
from porter_ha.testing.network import Machine, Network, Transport

PORT = 179
HOLD_S = 30
_HEADER = struct.Struct("!16sHB")
_MARKER = b"\xff" * 16
_FAMILIES = {1: V4, 2: V6}
PathKey = tuple[str, int]


class Path:
    """A path as heard: from which neighbour, with which id."""

    __slots__ = ("med", "next_hop", "stale")

    def __init__(self, next_hop: str, med: int) -> None:
        self.next_hop, self.med, self.stale = next_hop, med, False


class Neighbour:
    """What the router remembers of a peer between its sessions."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.restart_s = 0
        self.notification_bit = False
        self.stale = False
        self.timer: asyncio.TimerHandle | None = None


class Router:
    """`on_fib` hears of every change of a prefix's next hops. `fib_s` is the longest time from RIB to FIB."""

    def __init__(
        self, network: Network, machine: Machine, as_: int, random: Random, *, notification_bit: bool, fib_s: float
    ) -> None:
        self.machine, self.as_, self.fib_s = machine, as_, fib_s
        self.process = Process(machine.name)
        self.rib: dict[str, dict[PathKey, Path]] = {}
        self.fib: dict[str, frozenset[str]] = {}
        self.on_fib: list[Callable[[str, frozenset[str], frozenset[str]], None]] = []
        self.notification_bit = notification_bit
        self.barred: set[str] = set()
        self.neighbours: dict[str, Neighbour] = {}
        self._random = random
        self._changed: set[str] = set()
        network.listen(machine, PORT, self.process, lambda: Session(self))

    def best_med(self, prefix: str) -> int | None:
        return min((path.med for path in self.rib.get(prefix, {}).values()), default=None)

    # -- sessions

    def bar(self, peer: str) -> None:
        """Take no session from this neighbour, as after a wrong access list."""
        self.barred.add(peer)
        neighbour = self.neighbours.get(peer)
        if neighbour is not None and neighbour.session is not None:
            neighbour.session.reset()

    def up(self, session: "Session") -> None:
        neighbour = self.neighbours[session.peer]
        if neighbour.session is not None and neighbour.session is not session:
            neighbour.session.drop()  # a new connection says that the old one is gone (RFC 4724, 4.2)
            self._mark(session.peer, neighbour)
        neighbour.session = session
        if neighbour.timer is not None:
            neighbour.timer.cancel()  # the peer is back: stale paths now wait for its End-of-RIB
            neighbour.timer = None
        if not session.restart_s:
            self._sweep(session.peer, neighbour)
        neighbour.restart_s = session.restart_s
        neighbour.notification_bit = session.notification_bit and self.notification_bit

    def lost(self, session: "Session", *, graceful: bool) -> None:
        neighbour = self.neighbours.get(session.peer)
        if neighbour is None or neighbour.session is not session:
            return
        neighbour.session = None
        if graceful and neighbour.restart_s:
            self._mark(session.peer, neighbour)
            neighbour.timer = asyncio.get_running_loop().call_later(
                neighbour.restart_s, self._expired, session.peer, neighbour, context=self.process.context
            )
        else:
            self._drop(session.peer, lambda path: True)
            neighbour.stale = False

    def end_of_rib(self, peer: str) -> None:
        self._sweep(peer, self.neighbours[peer])

    def _mark(self, peer: str, neighbour: Neighbour) -> None:
        if neighbour.stale:
            self._sweep(peer, neighbour)  # lost again before it had repeated everything
        neighbour.stale = True
        for paths in self.rib.values():
            for (source, _), path in paths.items():
                path.stale = path.stale or source == peer

    def _sweep(self, peer: str, neighbour: Neighbour) -> None:
        neighbour.stale = False
        self._drop(peer, lambda path: path.stale)

    def _expired(self, peer: str, neighbour: Neighbour) -> None:
        neighbour.timer = None
        self._sweep(peer, neighbour)

    def _drop(self, peer: str, which: Callable[[Path], bool]) -> None:
        for prefix, paths in list(self.rib.items()):
            for key in [k for k, path in paths.items() if k[0] == peer and which(path)]:
                self.set(prefix, key, None)

    # -- routes

    def set(self, prefix: str, key: PathKey, path: Path | None) -> None:
        paths = self.rib.setdefault(prefix, {})
        if path is None:
            paths.pop(key, None)
        else:
            paths[key] = path
        if not paths:
            del self.rib[prefix]
        if prefix not in self._changed:
            self._changed.add(prefix)
            delay = self._random.uniform(0.0, self.fib_s)
            asyncio.get_running_loop().call_later(delay, self._install, prefix, context=self.process.context)

    def _install(self, prefix: str) -> None:
        self._changed.discard(prefix)
        paths = self.rib.get(prefix, {}).values()
        best = self.best_med(prefix)
        new = frozenset(path.next_hop for path in paths if path.med == best)
        old = self.fib.get(prefix, frozenset())
        if new == old:
            return
        if new:
            self.fib[prefix] = new
        else:
            del self.fib[prefix]
        for hear in self.on_fib:
            hear(prefix, old, new)


class Session(asyncio.Protocol):
    """The router's end of one connection."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._transport: Transport | None = None
        self._buffer = b""
        self._open = self._established = False
        self._hold_s = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._hold: asyncio.TimerHandle | None = None
        self._add_path: set[int] = set()
        self.peer = ""
        self.restart_s = 0
        self.notification_bit = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Transport)
        self._transport = transport
        self.peer = transport.other.machine.address
        self._router.neighbours.setdefault(self.peer, Neighbour())
        if self.peer in self._router.barred:
            self.drop()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _HEADER.size and self._transport is not None:
            _, length, kind = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < length:
                return
            body, self._buffer = self._buffer[_HEADER.size : length], self._buffer[length:]
            self._message(kind, body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self.drop()
            self._router.lost(self, graceful=self._established)

    # -- within

    def drop(self) -> None:
        """Close without a word."""
        transport, self._transport = self._transport, None
        for timer in (self._hold, *self._timers):
            if timer is not None:
                timer.cancel()
        if transport is not None:
            transport.close()

    def reset(self) -> None:
        """As an administrator's `clear`: TCP ends, nothing is said."""
        self.drop()
        self._router.lost(self, graceful=True)

    def _message(self, kind: int, body: bytes) -> None:
        if kind == 1:
            self._read_open(body)
            self._send(1, self._our_open())
            self._send(4, b"")
        elif kind == 3:
            self.drop()
            agreed = self._router.neighbours[self.peer].notification_bit
            hard = body[:2] == b"\x06\x09"
            self._router.lost(self, graceful=agreed and not hard)
            return
        elif kind == 4 and not self._established:
            self._established = True
            self._router.up(self)
            self._keep_alive()
        elif kind == 2:
            self._read_update(body)
        self._heard()

    def _heard(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
        if self._hold_s and self._transport is not None:
            self._hold = self._later(self._hold_s, self._silent)

    def _silent(self) -> None:
        self._send(3, b"\x04\x00")
        self.drop()
        self._router.lost(self, graceful=self._router.neighbours[self.peer].notification_bit)

    def _keep_alive(self) -> None:
        self._send(4, b"")
        self._timers = [self._later(self._hold_s / 3, self._keep_alive)]

    def _later(self, delay: float, do: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, do, context=self._router.process.context)

    def _send(self, kind: int, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(_HEADER.pack(_MARKER, _HEADER.size + len(body), kind) + body)

    def _our_open(self) -> bytes:
        def capability(code: int, value: bytes) -> bytes:
            return bytes([code, len(value)]) + value

        helper = 0x4000 if self._router.notification_bit else 0
        offered = b"".join(
            [
                capability(1, b"\x00\x01\x00\x01"),
                capability(1, b"\x00\x02\x00\x01"),
                capability(2, b""),
                capability(64, struct.pack("!HHBBHBB", helper | 120, 1, 1, 0, 2, 1, 0)),
                capability(65, struct.pack("!I", self._router.as_)),
                capability(69, b"\x00\x01\x01\x01\x00\x02\x01\x01"),
            ]
        )
        options = bytes([2, len(offered)]) + offered
        identifier = bytes(map(int, self._router.machine.address.split(".")))
        return struct.pack("!BHH4sB", 4, self._router.as_ & 0xFFFF, HOLD_S, identifier, len(options)) + options

    def _read_open(self, body: bytes) -> None:
        _, _, hold, _, length = struct.unpack_from("!BHH4sB", body)
        self._hold_s = float(min(hold, HOLD_S))
        rest = body[10 : 10 + length]
        while rest:
            kind, size = rest[0], rest[1]
            value, rest = rest[2 : 2 + size], rest[2 + size :]
            while kind == 2 and value:
                code, width = value[0], value[1]
                self._capability(code, value[2 : 2 + width])
                value = value[2 + width :]

    def _capability(self, code: int, value: bytes) -> None:
        if code == 64:
            (flags,) = struct.unpack_from("!H", value)
            self.restart_s = flags & 0x0FFF
            self.notification_bit = bool(flags & 0x4000)
        elif code == 69:
            for at in range(0, len(value), 4):
                if value[at + 3] & 2:
                    self._add_path.add(_FAMILIES[value[at + 1]])

    def _read_update(self, body: bytes) -> None:
        (gone,) = struct.unpack_from("!H", body)
        withdrawn, rest = body[2 : 2 + gone], body[2 + gone :]
        (size,) = struct.unpack_from("!H", rest)
        attributes, announced = rest[2 : 2 + size], rest[2 + size :]
        if not withdrawn and not attributes and not announced:
            self._router.end_of_rib(self.peer)
            return
        med, next_hop = 0, ""
        for code, value in _attributes(attributes):
            if code == 3:
                next_hop = to_text(V4, int.from_bytes(value, "big"))
            elif code == 4:
                med = int.from_bytes(value, "big")
        for code, value in _attributes(attributes):
            if code == 14:
                family, width = _FAMILIES[value[1]], value[3]
                hop = to_text(V6 if width == 16 else V4, int.from_bytes(value[4 : 4 + width], "big"))
                self._routes(family, value[5 + width :], hop, med)
            elif code == 15 and len(value) > 3:
                self._routes(_FAMILIES[value[1]], value[3:], None, 0)
        self._routes(V4, withdrawn, None, 0)
        self._routes(V4, announced, next_hop, med)

    def _routes(self, family: int, data: bytes, next_hop: str | None, med: int) -> None:
        while data:
            path_id = 0
            if family in self._add_path:
                path_id, data = int.from_bytes(data[:4], "big"), data[4:]
            width = (data[0] + 7) // 8
            prefix = to_text(family, int.from_bytes(data[1 : 1 + width], "big"))
            data = data[1 + width :]
            self._router.set(prefix, (self.peer, path_id), Path(next_hop, med) if next_hop else None)


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    out = []
    while data:
        flags, code = data[0], data[1]
        width, at = (int.from_bytes(data[2:4], "big"), 4) if flags & 0x10 else (data[2], 3)
        out.append((code, data[at : at + width]))
        data = data[at + width :]
    return out
