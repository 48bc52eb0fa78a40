"""Probes of the nodes: an ICMP echo every PERIOD_S, and from the second miss a TCP connection to the kubelet's port.

An answer of any kind is life: an echo reply, a SYN-ACK, a reset. What follows from silence is core/liveness.py's.
"""

import asyncio
from collections.abc import Callable, Mapping

from porter_ha.core.liveness import Liveness
from porter_ha.manager.host import Echoes, Host

PERIOD_S = 0.15
KUBELET_PORT = 10250


class Prober:
    """Probes the nodes of `liveness`; `on_round` is called after every round."""

    def __init__(self, host: Host, liveness: Liveness, on_round: Callable[[], None]) -> None:
        self._host, self._liveness, self._on_round = host, liveness, on_round
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def set_nodes(self, addresses: Mapping[str, str]) -> None:
        """Node name -> the address to probe."""
        self._addresses = dict(addresses)
        self._names = {address: name for name, address in addresses.items()}
        self._liveness.set_nodes(addresses)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        echoes = self._host.echoes(self._answered)
        try:
            due = loop.time()
            while True:
                self._round(echoes)
                due = max(due + PERIOD_S, loop.time())  # after a pause of ours: no burst of rounds, no false misses
                await asyncio.sleep(due - loop.time())
        finally:
            for task in self._connecting:
                task.cancel()
            echoes.close()

    def _round(self, echoes: Echoes) -> None:
        echoes.collect()  # what waits in the socket after a pause of ours is an answer too
        for name in self._waiting & self._addresses.keys():
            if self._liveness.missed(name) >= 1:
                self._connect(name)
        self._waiting = set(self._addresses)
        for name, address in self._addresses.items():
            if not echoes.send(address):
                self._connect(name)
        self._on_round()

    def _answered(self, address: str) -> None:
        if address in self._names:
            self._alive(self._names[address])

    def _connect(self, name: str) -> None:
        task = asyncio.create_task(self._try_tcp(name))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _try_tcp(self, name: str) -> None:
        try:
            async with asyncio.timeout(PERIOD_S):
                _, writer = await self._host.connect(self._addresses[name], KUBELET_PORT)
            writer.close()
        except ConnectionRefusedError:
            pass  # a reset is life
        except (TimeoutError, OSError, KeyError):
            return
        self._alive(name)

    def _alive(self, name: str) -> None:
        self._waiting.discard(name)
        self._liveness.answered(name, self._host.now())
