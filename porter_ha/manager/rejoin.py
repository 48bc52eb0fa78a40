"""Nodes that were dead and answer again: not next hops before they can serve (I5).

A node comes back when its agent says that the kernel holds what the cluster wants, and, on a node where kube-proxy's
health endpoint ever answered, when that says so too (after a boot kube-proxy starts with empty rules).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import aiohttp

from porter_ha.obs.log import log

AGENT_PORT = 7473
PROXY_PORT = 10256
PERIOD_S = 0.25
TIMEOUT_S = 1.0


class Rejoin:
    """`waiting` are the nodes that must stay out; `on_change` is called when one may come in."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.waiting: set[str] = set()
        self._on_change = on_change
        self._addresses: Mapping[str, str] = {}
        self._proxied: set[str] = set()
        self._asked: set[str] = set()
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def set_nodes(self, addresses: Mapping[str, str]) -> None:
        """Node name -> address, of the nodes that are Ready."""
        self._addresses = addresses
        for name in addresses.keys() - self._asked:
            self._asked.add(name)
            self._queue.put_nowait(name)

    def returned(self, names: Iterable[str]) -> None:
        """These answer probes again."""
        for name in names:
            self.waiting.add(name)
            self._queue.put_nowait(name)

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            while True:
                name = await self._queue.get()
                group.create_task(self._admit(session, name) if name in self.waiting else self._learn(session, name))

    async def _learn(self, session: aiohttp.ClientSession, name: str) -> None:
        """Remember whether this node has a kube-proxy whose health can be asked."""
        if await self._healthy(session, name, PROXY_PORT, "/healthz"):
            self._proxied.add(name)

    async def _admit(self, session: aiohttp.ClientSession, name: str) -> None:
        while name in self.waiting:
            if name not in self._addresses:
                self.waiting.discard(name)  # the API says NotReady by now; it is judged anew when it is Ready
                return
            good = await self._healthy(session, name, AGENT_PORT, "/ready")
            if good and name in self._proxied:
                good = await self._healthy(session, name, PROXY_PORT, "/healthz")
            if good:
                log("node can serve again", node_name=name)
                self.waiting.discard(name)
                self._on_change()
                return
            await asyncio.sleep(PERIOD_S)

    async def _healthy(self, session: aiohttp.ClientSession, name: str, port: int, path: str) -> bool:
        address = self._addresses.get(name, "")
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{port}{path}") as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False
