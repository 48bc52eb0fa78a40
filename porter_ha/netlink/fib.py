"""The agent's routes in the kernel: an AF_NETLINK socket of our own on the running loop.

Mark and sweep of our own table and protocol only. A batch is one datagram after another with one acknowledgement at
the end; refusals of single routes come back by themselves. Notifications about our table tell of drift at once;
when the socket overflows (ENOBUFS) everything may have changed, and the owner is told to resync.
"""

import asyncio
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable

from porter_ha.model.names import ROUTE_PROTOCOL, ROUTE_TABLE
from porter_ha.netlink import wire

_SOL_NETLINK, _STRICT_CHECK, _ATTACH_FILTER = 270, 12, 26
_GROUPS = 0x40 | 0x400 | 0x1  # IPv4 routes, IPv6 routes, links
_BUFFER = 4 << 20
_DATAGRAM = 32 << 10
TIMEOUT_S = 10.0


class KernelRefused(Exception):
    """The kernel refused a route: which, and why."""


def attach(sock: socket.socket, program: bytes) -> None:
    """Let a socket receive only what this filter passes (socket(7), SO_ATTACH_FILTER). Raises OSError."""
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HP", len(program) // 8, ctypes.addressof(kept))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)


def _open(groups: int, program: bytes = b"") -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    if program:
        attach(sock, program)
    sock.bind((0, groups))
    sock.setblocking(False)
    return sock


class Fib:
    """`on_drift` is called when somebody else changed our table or notices were lost, `on_link` when links changed."""

    def __init__(self, on_drift: Callable[[], None], on_link: Callable[[], None]) -> None:
        self._requests = _open(0)
        self._notices = _open(_GROUPS, wire.notices_filter(self._requests.getsockname()[0]))
        self._on_drift, self._on_link = on_drift, on_link
        self._sequence = 0
        asyncio.get_running_loop().add_reader(self._notices.fileno(), self._noticed)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._notices.fileno())
        self._requests.close()
        self._notices.close()

    async def read(self) -> list[wire.Route]:
        """Our routes as the kernel has them. Raises OSError."""
        found: list[wire.Route] = []
        for family in (4, 6):
            self._sequence += 1
            await self._send(wire.dump(family, self._sequence))
            done = False
            while not done:
                for reply in await self._receive():
                    if reply.sequence != self._sequence:
                        continue
                    if reply.route is not None and reply.route.table == ROUTE_TABLE:
                        found.append(reply.route)
                    elif reply.error:
                        if reply.error == errno.ENOENT:  # the table does not exist before its first route
                            done = True
                            break
                        raise OSError(reply.error, f"dump of table {ROUTE_TABLE}: {os.strerror(reply.error)}")
                    done = done or reply.kind in (wire.NLMSG_DONE, wire.NLMSG_ERROR)
        return [route for route in found if route.protocol == ROUTE_PROTOCOL]

    async def program(self, routes: Iterable[wire.Route]) -> None:
        """Add or replace these. Raises KernelRefused."""
        await self._batch(wire.RTM_NEWROUTE, wire.REQUEST | wire.CREATE | wire.REPLACE, list(routes))

    async def unprogram(self, routes: Iterable[wire.Route]) -> None:
        """Remove these; those that are gone already are fine. Raises KernelRefused."""
        await self._batch(wire.RTM_DELROUTE, wire.REQUEST, list(routes), ignore=errno.ESRCH)

    async def _batch(self, kind: int, flags: int, routes: list[wire.Route], ignore: int = 0) -> None:
        if not routes:
            return
        first = self._sequence + 1
        datagram = bytearray()
        for route in routes:
            self._sequence += 1
            last = route is routes[-1]
            datagram += wire.route(kind, flags | (wire.ACK if last else 0), self._sequence, route)
            if len(datagram) > _DATAGRAM or last:
                await self._send(bytes(datagram))
                datagram.clear()
        refused: list[str] = []
        while True:
            for reply in await self._receive():
                if reply.sequence < first or reply.error is None:
                    continue
                if reply.error not in (0, ignore):
                    refused.append(f"{routes[reply.sequence - first].eip}: {os.strerror(reply.error)}")
                if reply.sequence == self._sequence:
                    if refused:
                        raise KernelRefused(f"{len(refused)} of {len(routes)} routes, first {refused[0]}")
                    return

    async def _send(self, data: bytes) -> None:
        try:
            self._requests.send(data)
        except BlockingIOError:
            await asyncio.get_running_loop().sock_sendall(self._requests, data)

    async def _receive(self) -> list[wire.Reply]:
        try:
            data = self._requests.recv(1 << 18)  # rtnetlink has answered by the time that the request is sent
        except BlockingIOError:
            async with asyncio.timeout(TIMEOUT_S):
                data = await asyncio.get_running_loop().sock_recv(self._requests, 1 << 18)
        return list(wire.replies(data))

    def _noticed(self) -> None:
        drifted = linked = False
        while True:
            try:
                data = self._notices.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                drifted = True
                continue
            for reply in wire.replies(data):
                if reply.route is None:
                    linked = True
                elif reply.route.table == ROUTE_TABLE:
                    drifted = True
        if drifted:
            self._on_drift()
        elif linked:
            self._on_link()
