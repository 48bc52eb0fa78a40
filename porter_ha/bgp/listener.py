"""Where routers of passive peers dial in: listening sockets, and who may come through them.

Listens only while some peer is passive, so that nothing of ours is open otherwise. Only a passive peer's own address is
answered; anybody else's connection is closed at once, before a byte of it is read. A port that is taken (Calico's BIRD
has 179) is tried again and again, and the peers' status says so.

Must never: touch a session that is up because the listening sockets change.
"""

import asyncio
import random
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from porter_ha.bgp import transport
from porter_ha.core.backoff import Backoff
from porter_ha.model.plan import Listening, PeerSettings
from porter_ha.obs.log import log

ACCEPT_PAUSE_S = 0.1
EVERYWHERE = ("0.0.0.0", "::")


class Callee(Protocol):
    """A passive peer."""

    settings: PeerSettings

    def answer(self) -> asyncio.Protocol:
        """What talks to the router from now on."""


class Listener:
    """`find` gives the passive peer at a router's address; `on_change` is called when `error` became another."""

    def __init__(self, find: Callable[[str], Callee | None], on_change: Callable[[], None]) -> None:
        self.error = ""
        self._find, self._on_change = find, on_change
        self._wanted, self._open_for = Listening(), Listening()
        self._keys: Mapping[str, str] = {}
        self._set_keys: dict[str, str] = {}
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def set(self, wanted: Listening, keys: Mapping[str, str]) -> None:
        """Listen here and nowhere else, with these TCP MD5 keys by router."""
        self._wanted, self._keys = wanted, keys
        self._news.set()
        if self._task is None and wanted.port:
            self._task = asyncio.create_task(self._run(), name="listener")

    async def _run(self) -> None:
        backoff = Backoff(0.5, 10.0, random.random)
        while True:
            self._news.clear()
            error = self._adjust()
            if error != self.error:
                self.error = error
                log("cannot listen" if error else "listening", port=self._wanted.port, error=error)
                self._on_change()
            if not error:
                backoff.reset()
                await self._news.wait()
                continue
            try:
                async with asyncio.timeout(backoff.next()):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _adjust(self) -> str:
        """Listen as is wanted; returns why that is impossible."""
        if self._open_for != self._wanted:
            self._close()
            error = self._open()
            if error:
                self._close()
                return error
            self._open_for = self._wanted
        return self._change_keys()

    def _open(self) -> str:
        port = self._wanted.port
        for address in self._wanted.addresses or EVERYWHERE:
            if not port:
                break
            try:
                self._sockets.append(transport.listen(address, port))
            except OSError as error:
                if address == "::" and self._sockets:
                    continue  # a machine without IPv6
                taken = "; set BgpConf's spec.listenPort to another" if port == 179 else ""
                return f"cannot listen on {address} port {port}: {error.strerror}{taken}"
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._sockets]
        return ""

    def _close(self) -> None:
        for task in self._accepting:
            task.cancel()
        for sock in self._sockets:
            sock.close()
        self._accepting, self._sockets = [], []
        self._set_keys.clear()
        self._open_for = Listening()

    def _change_keys(self) -> str:
        wanted = {**dict.fromkeys(self._set_keys, ""), **self._keys}
        for address, key in wanted.items():
            if self._set_keys.get(address, "") == key:
                continue
            for sock in self._sockets:
                if (sock.family == socket.AF_INET6) == (":" in address):
                    try:
                        transport.set_key(sock, address, key)
                    except (OSError, ValueError) as error:
                        return f"no TCP MD5 key for {address}: {error}"
            self._set_keys[address] = key
        self._set_keys = {address: key for address, key in self._set_keys.items() if key}
        return ""

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, remote = await loop.sock_accept(sock)
            except OSError as error:  # the caller is gone already, or there is no file descriptor left
                log("call not taken", error=str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            peer = self._find(remote[0].partition("%")[0])
            if peer is None:
                connection.close()
                continue
            try:
                transport.dress(connection, peer.settings)
                protocol = peer.answer()
                await loop.connect_accepted_socket(lambda answer=protocol: answer, connection)  # type: ignore[misc]
            except OSError as error:
                log("call lost", router=remote[0], error=str(error))
                connection.close()
