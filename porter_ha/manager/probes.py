"""Probes of the nodes: an ICMP echo every PERIOD_S, and from the second miss a TCP connection to the kubelet's port.

An answer of any kind is life: an echo reply, a SYN-ACK, a reset. What follows from silence is core/liveness.py's.
Thousands of nodes are asked in turns, evenly over the period, so that no reply finds the socket full.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple
from zlib import crc32

from porter_ha.core.liveness import Liveness
from porter_ha.manager.echo import TOGETHER
from porter_ha.manager.host import Host

PERIOD_S = 0.15
KUBELET_PORT = 10250
CONNECTIONS = 64  # at once: when all nodes fall silent it is we who are cut off, and a storm would help nobody


class _Turn(NamedTuple):
    """The nodes that are asked at one moment of the period."""

    addresses: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()


class Prober:
    """Probes the nodes of `liveness`; `on_round` is called after every round, and when a node misses a probe."""

    def __init__(self, host: Host, liveness: Liveness, on_round: Callable[[], None]) -> None:
        self._host, self._liveness, self._on_round = host, liveness, on_round
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._turns = [_Turn()]
        self._waiting: set[str] = set()  # asked, and not answered yet
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._echoes = host.echoes(self._replied)

    def set_nodes(self, addresses: Mapping[str, str]) -> None:
        """Node name -> the address to probe."""
        if addresses == self._addresses:
            return
        self._addresses = dict(addresses)
        self._names = {address: name for name, address in addresses.items()}
        self._liveness.set_nodes(addresses)
        count = -(-len(addresses) * 5 // (TOGETHER * 4)) or 1  # hashing fills turns unevenly: leave some room
        parts: list[list[str]] = [[] for _ in range(count)]
        for name in addresses:
            parts[crc32(name.encode()) % count].append(name)
        self._turns = [_Turn(tuple(addresses[name] for name in part), frozenset(part)) for part in parts]
        self._waiting &= addresses.keys()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            due, place = loop.time(), 0
            while True:
                place = (place + 1) % len(self._turns)
                self._ask(self._turns[place], last=not place)
                # after a pause of ours: no burst of rounds, no false misses
                due = max(due + PERIOD_S / len(self._turns), loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            for task in self._connecting.values():
                task.cancel()
            self._echoes.close()

    def _ask(self, turn: _Turn, last: bool) -> None:
        self._echoes.collect()  # what waits in the socket after a pause of ours is an answer too
        missed = turn.names & self._waiting
        self._liveness.missed(missed)
        self._waiting |= turn.names
        others = self._echoes.ask(turn.addresses)
        for name in missed.union(self._names[address] for address in others):
            self._connect(name)
        if missed or last:
            self._on_round()

    def _replied(self, addresses: set[str]) -> None:
        self._alive({self._names[address] for address in self._names.keys() & addresses})

    def _connect(self, name: str) -> None:
        if name not in self._connecting:
            task = self._connecting[name] = asyncio.create_task(self._try_tcp(name))
            task.add_done_callback(lambda _: self._connecting.pop(name, None))

    async def _try_tcp(self, name: str) -> None:
        async with self._slots:
            try:
                async with asyncio.timeout(PERIOD_S):
                    _, writer = await self._host.connect(self._addresses[name], KUBELET_PORT)
                writer.close()
            except ConnectionRefusedError:
                pass  # a reset is life
            except (TimeoutError, OSError, KeyError):
                return
        self._alive({name})

    def _alive(self, names: set[str]) -> None:
        self._waiting -= names
        self._liveness.answered(names, self._host.now())
