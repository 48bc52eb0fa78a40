"""Probes of the nodes: an ICMP echo every PERIOD_S, and from the second miss a TCP connection to the kubelet's port.

An answer of any kind is life: an echo reply, a SYN-ACK, a reset. What follows from silence is core/liveness.py's.
Needs CAP_NET_RAW; without it only TCP is used, and a log line says so.
"""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping

from porter_ha.core.liveness import Liveness
from porter_ha.model.net import V4, family_of
from porter_ha.obs.log import log

PERIOD_S = 0.15
KUBELET_PORT = 10250
_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Prober:
    """Probes the nodes of `liveness`; `on_round` is called after every round."""

    def __init__(self, liveness: Liveness, on_round: Callable[[], None]) -> None:
        self._liveness, self._on_round = liveness, on_round
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._raw: socket.socket | None = None

    def set_nodes(self, addresses: Mapping[str, str]) -> None:
        """Node name -> the address to probe."""
        self._addresses = dict(addresses)
        self._names = {address: name for name, address in addresses.items()}
        self._liveness.set_nodes(addresses)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self._raw.setblocking(False)
            loop.add_reader(self._raw.fileno(), self._received)
        except PermissionError:
            log("no CAP_NET_RAW: nodes are probed by TCP only")
        try:
            due = loop.time()
            while True:
                self._round()
                due = max(due + PERIOD_S, loop.time())  # after a pause of ours: no burst of rounds, no false misses
                await asyncio.sleep(due - loop.time())
        finally:
            for task in self._connecting:
                task.cancel()
            if self._raw is not None:
                loop.remove_reader(self._raw.fileno())
                self._raw.close()

    def _round(self) -> None:
        if self._raw is not None:
            self._received()  # what waits in the socket after a pause of ours is an answer too
        for name in self._waiting & self._addresses.keys():
            if self._liveness.missed(name) >= 1:
                self._connect(name)
        self._waiting = set(self._addresses)
        self._sequence = (self._sequence + 1) & 0xFFFF
        for name, address in self._addresses.items():
            if self._raw is None or family_of(address) != V4:
                self._connect(name)
                continue
            packet = _ECHO.pack(_ECHO_REQUEST, 0, 0, self._identifier, self._sequence)
            packet = _ECHO.pack(_ECHO_REQUEST, 0, _checksum(packet), self._identifier, self._sequence)
            with contextlib.suppress(OSError):  # unreachable by our own routes: a miss like any other
                self._raw.sendto(packet, (address, 0))
        self._on_round()

    def _received(self) -> None:
        assert self._raw is not None
        while True:
            try:
                data, (address, _) = self._raw.recvfrom(2048)
            except BlockingIOError:
                return
            header = (data[0] & 0xF) * 4
            if len(data) < header + _ECHO.size:
                continue
            kind, _, _, identifier, _ = _ECHO.unpack_from(data, header)
            if kind == _ECHO_REPLY and identifier == self._identifier and address in self._names:
                self._alive(self._names[address])

    def _connect(self, name: str) -> None:
        task = asyncio.create_task(self._try_tcp(name))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _try_tcp(self, name: str) -> None:
        try:
            async with asyncio.timeout(PERIOD_S):
                _, writer = await asyncio.open_connection(self._addresses[name], KUBELET_PORT)
            writer.close()
        except ConnectionRefusedError:
            pass  # a reset is life
        except (TimeoutError, OSError, KeyError):
            return
        self._alive(name)

    def _alive(self, name: str) -> None:
        self._waiting.discard(name)
        self._liveness.answered(name, time.monotonic())
