"""Nodes that were dead and answer again: not next hops before they can serve (I5).

A node comes back when its agent says that the kernel holds what the cluster wants, and kube-proxy that it has its rules
(after a boot it starts with none). Where kube-proxy's health endpoint never answered us, but other nodes' did, the node
may have none: that is waited for so long, and no longer.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from porter_ha.manager.host import Host
from porter_ha.obs.log import log

AGENT_PORT = 7473
PROXY_PORT = 10256
PERIOD_S = 0.25
PROXY_PATIENCE_S = 30.0


class Rejoin:
    """`waiting` are the nodes that must stay out; `on_change` is called when one may come in."""

    def __init__(self, host: Host, on_change: Callable[[], None]) -> None:
        self.waiting: set[str] = set()
        self._host = host
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
        async with asyncio.TaskGroup() as group:
            while True:
                name = await self._queue.get()
                group.create_task(self._admit(name) if name in self.waiting else self._learn(name))

    async def _learn(self, name: str) -> None:
        """Remember whether this node has a kube-proxy whose health can be asked."""
        if await self._healthy(name, PROXY_PORT, "/healthz"):
            self._proxied.add(name)

    async def _admit(self, name: str) -> None:
        patient_until = self._host.now() + PROXY_PATIENCE_S
        while name in self.waiting:
            if name not in self._addresses:
                self.waiting.discard(name)  # the API says NotReady by now; it is judged anew when it is Ready
                return
            good = await self._healthy(name, AGENT_PORT, "/ready")
            if good and (name in self._proxied or (self._proxied and self._host.now() < patient_until)):
                good = await self._healthy(name, PROXY_PORT, "/healthz")
            if good:
                log("node can serve again", node_name=name)
                self.waiting.discard(name)
                self._on_change()
                return
            await asyncio.sleep(PERIOD_S)

    async def _healthy(self, name: str, port: int, path: str) -> bool:
        address = self._addresses.get(name)
        return address is not None and await self._host.healthy(address, port, path)
