"""ICMP echo over a raw socket: requests out and replies in by the hundred (RFC 792). IPv4 only.

Five thousand nodes are 33,000 requests and as many replies a second: one sendmmsg(2) or recvmmsg(2) carries 256 of
them, because a call of Python's each would take most of a core. All requests of a round are the same bytes, so they
share one buffer. Replies wait in the socket until somebody collects.

Needs CAP_NET_RAW. Without it `ask` says no, and the caller probes another way.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache

from porter_ha.model.net import V4, family_of
from porter_ha.obs.log import log

TOGETHER = 256
BATCHES = 64
_ECHO = struct.Struct("!BBHHH")
_REQUEST, _REPLY = 8, 0
_WAITING = 1 << 20  # bytes of replies that may wait: those to one `ask` need 200 KB
_ROOM = 64  # an IPv4 header with all its options, and the first 4 bytes of ICMP
_SOCKADDR = struct.Struct("=HH4s8x")  # struct sockaddr_in


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of sendmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2)."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _messages(
    names: "ctypes.Array[ctypes.c_char]", content: "ctypes.Array[ctypes.c_char]", step: int, count: int
) -> "ctypes.Array[_Message]":
    """One message for each name; `step` is from one's content to the next one's, 0 when they share it."""
    messages, pieces = (_Message * count)(), (_IoVec * count)()
    for i, message in enumerate(messages):
        pieces[i].base = ctypes.addressof(content) + i * step
        pieces[i].length = step or len(content)
        message.header.name = ctypes.addressof(names) + i * _SOCKADDR.size
        message.header.name_length = _SOCKADDR.size
        message.header.iov = ctypes.pointer(pieces[i])
        message.header.iov_length = 1
    messages._kept = (names, content, pieces)  # type: ignore[attr-defined]  # must live as long as what points to them
    return messages


class Echo:
    """`answered` is called with the addresses of which replies to requests of ours were collected."""

    def __init__(self, answered: Callable[[set[str]], None]) -> None:
        self._answered = answered
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._content = ctypes.create_string_buffer(_ECHO.size)
        self._targets = lru_cache(maxsize=BATCHES)(self._make_targets)
        self._raw: socket.socket | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._texts: dict[bytes, str] = {}
        self._room = ctypes.create_string_buffer(_ROOM * TOGETHER)
        self._senders = ctypes.create_string_buffer(_SOCKADDR.size * TOGETHER)
        self._incoming = _messages(self._senders, self._room, _ROOM, TOGETHER)
        try:
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        except PermissionError:
            log("no CAP_NET_RAW: nodes are probed by TCP only")
        else:
            self._raw.setblocking(False)
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WAITING)  # the kernel gives what it allows

    def ask(self, addresses: tuple[str, ...]) -> list[str]:
        """Ask each once; at most TOGETHER. Returns those that cannot be asked this way. The same addresses again and
        again cost least."""
        if self._raw is None:
            return list(addresses)
        targets, others = self._targets(addresses)
        self._sequence = (self._sequence + 1) & 0xFFFF
        packet = _ECHO.pack(_REQUEST, 0, 0, self._identifier, self._sequence)
        self._content.raw = _ECHO.pack(_REQUEST, 0, _checksum(packet), self._identifier, self._sequence)
        first, count = 0, len(addresses) - len(others)
        while first < count:
            start = ctypes.byref(targets, first * ctypes.sizeof(_Message))
            sent = self._libc.sendmmsg(self._raw.fileno(), start, count - first, 0)
            first += max(1, sent)  # one that cannot be sent (no route) is a miss like any other
        return others

    def _make_targets(self, addresses: tuple[str, ...]) -> tuple["ctypes.Array[_Message]", list[str]]:
        packed = {address: socket.inet_aton(address) for address in addresses if family_of(address) == V4}
        self._texts.update((raw, address) for address, raw in packed.items())
        names = b"".join(_SOCKADDR.pack(socket.AF_INET, 0, raw) for raw in packed.values())
        senders = ctypes.create_string_buffer(names, max(1, len(names)))
        return _messages(senders, self._content, 0, len(packed)), [a for a in addresses if a not in packed]

    def collect(self) -> None:
        """Take what waits in the socket."""
        found: set[str] = set()
        while self._raw is not None:
            for message in self._incoming:
                message.header.name_length = _SOCKADDR.size
            count = self._libc.recvmmsg(self._raw.fileno(), self._incoming, TOGETHER, socket.MSG_DONTWAIT, None)
            if count <= 0:
                break
            found.update(self._replies(count))
            if count < TOGETHER:
                break
        if found:
            self._answered(found)

    def _replies(self, count: int) -> Iterable[str]:
        room, senders = self._room.raw, self._senders.raw
        for i in range(count):
            start = i * _ROOM
            icmp = start + (room[start] & 0xF) * 4
            if room[icmp] == _REPLY and int.from_bytes(room[icmp + 4 : icmp + 6], "big") == self._identifier:
                address = self._texts.get(senders[i * _SOCKADDR.size + 4 : i * _SOCKADDR.size + 8])
                if address is not None:
                    yield address

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None
