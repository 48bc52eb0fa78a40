"""The machine under a simulated manager: manager.host.Host on the simulated network, and its worker processes.

Workers run their real code (workers/shard, workers/speaker); only the process around them is simulated.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Collection

from porter_ha.kube.client import Client
from porter_ha.manager.host import Echoes, Listening, Serve, Streams
from porter_ha.model.plan import PeerSettings, Redirect
from porter_ha.protocol import Channel, FromManager, FromWorker, Hello
from porter_ha.testing.loop import Phase, Process
from porter_ha.testing.network import Machine, Network, pair

Healthy = Callable[[str, int, str], bool]
KUBELET_PORT = 10250


class _Child:
    """manager.host.Process."""

    def __init__(self, process: Process, channel: Channel, pid: int) -> None:
        self._process, self.channel, self.pid = process, channel, pid
        self._gone = asyncio.Event()
        process.on_exit.append(self._gone.set)

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> int | None:
        if self._process.phase is not Phase.DEAD:
            await self._gone.wait()
        return 0


class _Echoes:
    def __init__(self, host: "SimulatedHost", answered: Callable[[set[str]], None]) -> None:
        self._host, self._answered = host, answered

    def ask(self, addresses: tuple[str, ...]) -> list[str]:
        network, machine = self._host.network, self._host.machine
        loop = asyncio.get_running_loop()
        for address in addresses:
            target = network.machines[address]
            if network.open(machine, target):  # an echo that finds no way is lost: nobody retransmits it
                way = 2 * network.latency(machine, target)
                loop.call_later(way, self._answered, {address}, context=self._host.process.context)
        return []

    def collect(self) -> None:
        """Answers come by themselves."""

    def close(self) -> None:
        """Nothing is held."""


class _Listening:
    def __init__(self, machine: Machine, port: int) -> None:
        self._machine, self._port = machine, port

    def close(self) -> None:
        self._machine.listeners.pop(self._port, None)


class SimulatedHost:
    """`clock` is (offset in seconds, rate): monotonic clocks of two machines agree in neither."""

    def __init__(
        self,
        network: Network,
        machine: Machine,
        process: Process,
        *,
        client: Callable[[Process], Client],
        healthy: Healthy,
        clock: tuple[float, float],
        children: dict[str, Process],
        cores: Callable[[], int],
    ) -> None:
        self.network, self.machine, self.process = network, machine, process
        self._client, self._healthy, self._clock, self.children = client, healthy, clock, children
        self._pids = 100
        self.cores = cores

    def now(self) -> float:
        offset, rate = self._clock
        return offset + rate * asyncio.get_running_loop().time()

    async def spawn(self, module: str, name: str) -> _Child:
        await asyncio.sleep(self.network.random.uniform(0.02, 0.3))
        child = Process(f"{name} {self.machine.name}")
        self.children[name] = child
        self.process.on_exit.append(child.kill)
        ours, theirs = pair(self.network, (self.machine, self.process), (self.machine, child))
        there, here = Channel(FromManager), Channel(FromWorker)
        theirs.attach(there)
        ours.attach(here)
        await asyncio.sleep(0)  # until both ends know their connections
        child.start(self._work(module, child, there))
        self._pids += 1
        return _Child(child, here, self._pids)

    async def _work(self, module: str, child: Process, channel: Channel) -> None:
        code = importlib.import_module(module)  # by name: workers are above this package
        runtime = importlib.import_module("workers.runtime")

        async def start(channel: Channel, hello: Hello, counters: dict[str, float]) -> Callable[..., None]:
            if hello.role == "shard":
                shard = code.Shard(channel, self._client(child), hello, counters, self.now)
                handle: Callable[..., None] = shard.handle
                return handle
            served: Callable[..., None] = code.serve(channel, counters, self._dialler(child), self.now)
            return served

        await runtime.converse(channel, start, lambda hello: None)
        child.kill()

    def _dialler(self, child: Process) -> Callable[[PeerSettings, Callable[[], asyncio.Protocol]], Awaitable[None]]:
        async def dial(settings: PeerSettings, protocol: Callable[[], asyncio.Protocol]) -> None:
            await self.network.connect(self.machine, child, settings.address, settings.port, protocol())

        return dial

    async def connect(self, address: str, port: int) -> Streams:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = await self.network.connect(self.machine, self.process, address, port, protocol)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def listen(self, address: str, port: int, serve: Serve) -> Listening:
        loop = asyncio.get_running_loop()

        def accept() -> asyncio.Protocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), serve, loop=loop)

        self.network.listen(self.machine, port, self.process, accept)
        return _Listening(self.machine, port)

    def echoes(self, answered: Callable[[set[str]], None]) -> Echoes:
        return _Echoes(self, answered)

    async def healthy(self, address: str, port: int, path: str) -> bool:
        await asyncio.sleep(0.001)
        target = self.network.machines[address]
        return self.network.open(self.machine, target) and self._healthy(address, port, path)

    async def redirect(self, redirects: Collection[Redirect]) -> None:
        """Simulated routers dial nobody."""
