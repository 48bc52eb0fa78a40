"""A simulated network: machines, TCP between them, echoes; with latency, partitions and power cuts.

TCP keeps its promises: bytes of one connection arrive in order or not at all. While a path is cut, or a machine is
off, what was sent waits as it would for a retransmission; a process that ends has its connections closed by its
kernel; a machine that was off answers old connections with a reset.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, TypeVar

from porter_ha.testing.loop import Phase, Process, running

T = TypeVar("T")
_END = object()
_RESET = object()
_NOBODY = contextvars.Context()  # what the network does, no process does


class Machine:
    """A host with one address. What listens on it is given per port."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.on = True
        self.listeners: dict[int, tuple[Process, Callable[[], asyncio.Protocol]]] = {}


class Network:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.machines: dict[str, Machine] = {}
        self._cuts: set[frozenset[str]] = set()
        self._waiting: dict[int, Callable[[], None]] = {}
        self._tickets = 0
        self.transports: list[Transport] = []
        running().at_end.append(self._shut)

    def _shut(self) -> None:
        for transport in self.transports:
            transport.forget()

    def machine(self, name: str, address: str) -> Machine:
        made = self.machines[address] = Machine(name, address)
        return made

    # -- faults

    def cut(self, one: Machine, other: Machine) -> None:
        self._cuts.add(frozenset((one.address, other.address)))

    def mend(self, one: Machine, other: Machine) -> None:
        self._cuts.discard(frozenset((one.address, other.address)))
        self.changed()

    def mend_all(self) -> None:
        self._cuts.clear()
        self.changed()

    def changed(self) -> None:
        """A path or a machine came back: what waits may go."""
        waiting, self._waiting = self._waiting, {}
        for again in waiting.values():
            again()

    def open(self, one: Machine, other: Machine) -> bool:
        if one is other:
            return one.on
        return one.on and other.on and frozenset((one.address, other.address)) not in self._cuts

    # -- packets

    def latency(self, one: Machine, other: Machine) -> float:
        return 0.00005 if one is other else self.random.uniform(0.0002, 0.002)

    def wait(self, again: Callable[[], None]) -> None:
        self._tickets += 1
        self._waiting[self._tickets] = again

    def send(self, one: Machine, other: Machine, arrive: Callable[[], object]) -> None:
        """`arrive` is called once the path is open, after the latency; in no process's name."""

        def attempt() -> None:
            if self.open(one, other):
                arrive()
            else:
                self.wait(attempt)

        asyncio.get_running_loop().call_later(self.latency(one, other), attempt, context=_NOBODY)

    # -- TCP

    def listen(self, machine: Machine, port: int, process: Process, serve: Callable[[], asyncio.Protocol]) -> None:
        machine.listeners[port] = (process, serve)
        process.on_exit.append(partial(machine.listeners.pop, port, None))

    async def connect(
        self, machine: Machine, process: Process, address: str, port: int, protocol: asyncio.Protocol
    ) -> "Transport":
        """As create_connection. Raises ConnectionRefusedError; waits while the path is cut (callers have timeouts)."""
        answered: asyncio.Future[Transport | None] = asyncio.get_running_loop().create_future()
        target = self.machines.get(address)

        def reached() -> None:
            assert target is not None
            listener = target.listeners.get(port)
            if answered.done():
                return  # whoever asked has given up
            if listener is None:
                self.send(target, machine, partial(resolve, answered, None))
                return
            owner, serve = listener
            ours, theirs = pair(self, (machine, process), (target, owner))
            theirs.attach(serve())
            self.send(target, machine, partial(resolve, answered, ours))

        if target is not None:
            self.send(machine, target, reached)
        transport = await answered
        if transport is None:
            raise ConnectionRefusedError(f"{address} port {port}: connection refused")
        transport.attach(protocol)
        return transport


def resolve(future: "asyncio.Future[T]", result: T) -> None:
    """An answer, if anybody still waits for it."""
    if not future.done():
        future.set_result(result)


class Transport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, machine: Machine, process: Process) -> None:
        super().__init__()
        self.network, self.machine, self.process = network, machine, process
        self.other: Transport = self
        self._protocol: asyncio.Protocol | None = None
        self._out: deque[object] = deque()
        self._moving = False
        self._closing = self._lost = False
        self._early: list[object] = []
        process.on_exit.append(self._process_ended)
        network.transports.append(self)

    def attach(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._call(protocol.connection_made, self)
        for chunk in self._early:
            self._receive(chunk)
        self._early.clear()

    # -- asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:  # type: ignore[type-arg, unused-ignore]
        if not self._closing and data:
            self._put(bytes(data))

    def writelines(self, chunks: Any) -> None:
        self.write(b"".join(chunks))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._put(_END)
            self._lose(None)

    def abort(self) -> None:
        self.close()

    def forget(self) -> None:
        """The simulation is over."""
        self._closing = self._lost = True

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return sum(len(chunk) for chunk in self._out if isinstance(chunk, bytes))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Memory is endless here."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.other.machine.address if name == "peername" else default

    # -- within

    def _put(self, chunk: object) -> None:
        self._out.append(chunk)
        if not self._moving:
            self._moving = True
            self.network.send(self.machine, self.other.machine, self._arrive)

    def _arrive(self) -> None:
        self._moving = False
        chunks, self._out = self._out, deque()
        data = b"".join(c for c in chunks if isinstance(c, bytes))
        if data:
            self.other._receive(data)
        if chunks and not isinstance(chunks[-1], bytes):
            self.other._receive(chunks[-1])

    def _receive(self, chunk: object) -> None:
        if self._lost:
            return
        if self.process.phase is Phase.DEAD:
            if isinstance(chunk, bytes):
                self._put(_RESET)  # nobody has this connection any more
            return
        if self._protocol is None:
            self._early.append(chunk)
        elif isinstance(chunk, bytes):
            self._call(self._protocol.data_received, chunk)
        else:
            self._closing = True
            self._lose(ConnectionResetError("reset by peer") if chunk is _RESET else None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost and self._protocol is not None:
            self._lost = True
            if error is None:
                self._call(self._protocol.eof_received)
            self._call(self._protocol.connection_lost, error)

    def _process_ended(self) -> None:
        if self.machine.on and not self._closing:
            self._closing = True
            self._put(_END)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        asyncio.get_running_loop().call_soon(function, *args, context=self.process.context)


def pair(network: Network, one: tuple[Machine, Process], other: tuple[Machine, Process]) -> tuple[Transport, Transport]:
    """The two ends of an established connection."""
    first, second = Transport(network, *one), Transport(network, *other)
    first.other, second.other = second, first
    return first, second
