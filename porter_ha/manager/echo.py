"""ICMP echo over a raw socket: requests out, the addresses that answered back (RFC 792). IPv4 only.

Needs CAP_NET_RAW. Without it `send` says no, and the caller probes another way.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

from porter_ha.model.net import V4, family_of
from porter_ha.obs.log import log

_ECHO = struct.Struct("!BBHHH")
_REQUEST, _REPLY = 8, 0


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Echo:
    """`answered` is called with the address of every reply to a request of ours."""

    def __init__(self, answered: Callable[[str], None]) -> None:
        self._answered = answered
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._raw: socket.socket | None = None
        try:
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        except PermissionError:
            log("no CAP_NET_RAW: nodes are probed by TCP only")
        else:
            self._raw.setblocking(False)
            asyncio.get_running_loop().add_reader(self._raw.fileno(), self.collect)

    def send(self, address: str) -> bool:
        """Ask once. False when this way of asking is not to be had."""
        if self._raw is None or family_of(address) != V4:
            return False
        self._sequence = (self._sequence + 1) & 0xFFFF
        packet = _ECHO.pack(_REQUEST, 0, 0, self._identifier, self._sequence)
        packet = _ECHO.pack(_REQUEST, 0, _checksum(packet), self._identifier, self._sequence)
        with contextlib.suppress(OSError):  # unreachable by our own routes: a miss like any other
            self._raw.sendto(packet, (address, 0))
        return True

    def collect(self) -> None:
        """Take what waits in the socket."""
        while self._raw is not None:
            try:
                data, (address, _) = self._raw.recvfrom(2048)
            except BlockingIOError:
                return
            header = (data[0] & 0xF) * 4
            if len(data) < header + _ECHO.size:
                continue
            kind, _, _, identifier, _ = _ECHO.unpack_from(data, header)
            if kind == _REPLY and identifier == self._identifier:
                self._answered(address)

    def close(self) -> None:
        if self._raw is not None:
            asyncio.get_running_loop().remove_reader(self._raw.fileno())
            self._raw.close()
            self._raw = None
