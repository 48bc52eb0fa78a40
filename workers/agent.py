"""The agent of a node: makes the EIPs of our Services local here, and guards them. One per node, beside kube-proxy.

Watches LoadBalancer Services only, and its own Node. The kernel is read once at start and after drift; otherwise only
differences are programmed. Stopping leaves everything in place, so an upgrade loses no packet; `--remove` takes away
what is ours and nothing else.

Must never: touch another table, rule or nftables table; leave an EIP local without its guard.
"""

import asyncio
import ctypes
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

from porter_ha.config import AgentSettings
from porter_ha.core import routes
from porter_ha.core.backoff import Backoff
from porter_ha.core.eligibility import node_view
from porter_ha.core.routes import EMPTY, Desired, KernelState, Served
from porter_ha.kube import credentials, paths
from porter_ha.kube.client import Client
from porter_ha.kube.watch import Change, Watch
from porter_ha.model.net import family_of
from porter_ha.model.objects import Node, Service
from porter_ha.netlink import guard, links, nft
from porter_ha.netlink.fib import Fib, KernelRefused
from porter_ha.netlink.nft import NftFailed
from porter_ha.netlink.wire import Route
from porter_ha.obs.endpoint import Details, serve
from porter_ha.obs.log import bind, log
from porter_ha.obs.metrics import Sample

TOGETHER_S = 0.1


class Agent:
    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._desired = Desired()
        self._sources: dict[int, str] = {}
        self._known = False  # whether the next two say what the kernel holds
        self._programmed: dict[str, Route] = {}
        self._served: set[Served] = set()
        self._dirty = asyncio.Event()
        self._drifted = False
        self._ready = False
        self._ipvs = False
        self._loopback = links.loopback()
        self.counts = {"full": 0, "diff": 0, "drift": 0}
        self.seconds = {"full": 0.0, "diff": 0.0}
        self._service_decoder = msgspec.json.Decoder(Service)
        self._node_decoder = msgspec.json.Decoder(Node)

    # -- inputs

    def services_changed(self, changes: list[Change]) -> None:
        for change in changes:
            state = EMPTY
            if change.raw is not None:
                try:
                    service = self._service_decoder.decode(change.raw)
                    state = routes.of_service(service, self._settings.classless)
                except msgspec.DecodeError as error:
                    log("cannot read Service", service=change.key, error=str(error))
                    continue
            if self._desired.set(change.key, state):
                self._dirty.set()  # and not for a Service without its EIP yet: the EIP would wait for TOGETHER_S

    def node_changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.raw is not None:
                view = node_view(self._node_decoder.decode(change.raw))
                sources = {family_of(address): address for address in reversed(view.addresses)}
                if sources != self._sources:
                    self._sources = sources
                    self._drifted = True
                    self._dirty.set()

    def drift(self) -> None:
        self._drifted = True
        self._dirty.set()

    def look(self) -> None:
        """A link came or went: kube-proxy may have changed to IPVS or back."""
        if links.ipvs() != self._ipvs:
            self.drift()

    # -- the loop

    async def run(self, fib: Fib, watches: list[Watch]) -> None:
        """Keep the kernel equal to what the cluster wants. Does not end by itself."""
        for watch in watches:
            await watch.synced.wait()
        backoff = Backoff(0.2, 10.0, random.random)
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._sync(fib)
                self._ready = True
                backoff.reset()
                await asyncio.sleep(TOGETHER_S)  # what changes meanwhile is programmed together
            except (OSError, TimeoutError, KernelRefused, NftFailed) as error:
                self._ready = self._known = False
                log("programming failed", error=str(error))
                await asyncio.sleep(backoff.next())
                self._dirty.set()

    async def _sync(self, fib: Fib) -> None:
        if self._drifted or not self._known:
            self._ipvs = links.ipvs()
            await self._sync_all(fib, EMPTY if self._ipvs else self._desired.whole(self._sources))
            return
        began = time.perf_counter()
        steps = self._desired.steps(self._programmed.keys(), self._served, () if self._ipvs else self._sources)
        if steps.empty:
            return
        self._known = False  # until all of it is done
        guard.add(steps.guard_add)
        await fib.program(self._route(e) for e in steps.route_add)
        await fib.unprogram(self._programmed[e] for e in steps.route_del)
        guard.drop(steps.guard_del)
        for eip in steps.route_del:
            del self._programmed[eip]
        self._programmed.update((e, self._route(e)) for e in steps.route_add)
        self._served |= steps.guard_add.served
        self._served -= steps.guard_del.served
        self._known = True
        self.counts["diff"] += 1
        self.seconds["diff"] += time.perf_counter() - began

    async def _sync_all(self, fib: Fib, desired: KernelState) -> None:
        """Mark and sweep: read what is ours in the kernel, and make it what is wanted."""
        first, self._drifted, self._known = not self.counts["full"], False, False
        rules = asyncio.create_task(links.ensure_rules())  # beside the rest: it runs a process
        began = time.perf_counter()
        actual = await fib.read()
        wanted = {self._route(eip) for eip in desired.eips}
        missing = sorted(wanted - set(actual), key=lambda r: r.eip)
        stale = sorted(set(actual) - wanted, key=lambda r: r.eip)
        leaving = {r.eip for r in stale if r.eip} - desired.eips
        await nft.apply(guard.whole(KernelState(desired.eips | leaving, desired.served)))
        await fib.program(missing)
        await fib.unprogram(r for r in stale if r.eip in leaving)
        guard.drop(KernelState(frozenset(leaving)))
        self.seconds["full"] += time.perf_counter() - began
        missing_rules = await rules
        self._programmed, self._served = {r.eip: r for r in wanted}, set(desired.served)
        self._known = True
        self.counts["full"] += 1
        if not first and (missing or stale or missing_rules):
            self.counts["drift"] += len(missing) + len(stale) + missing_rules
            log("drift mended", missing=len(missing), stale=len(stale), rules=missing_rules)
        elif first:
            log("kernel synced", routes=len(wanted), added=len(missing), swept=len(stale))
        ctypes.CDLL(None).malloc_trim(0)  # listing and programming everything took what nothing needs any more

    def _route(self, eip: str) -> Route:
        return Route(eip, self._sources[family_of(eip)], self._loopback)

    # -- outside views

    def readiness(self) -> tuple[bool, Details]:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return self._ready, {"bootID": boot, "routes": len(self._programmed), "ipvs": self._ipvs}

    def samples(self) -> Iterator[Sample]:
        yield Sample("agent_ready", self._ready)
        yield Sample("agent_routes", len(self._programmed))
        yield Sample("agent_served_ports", len(self._served))
        yield Sample("agent_syncs_total", self.counts["full"], ("full",))
        yield Sample("agent_syncs_total", self.counts["diff"], ("diff",))
        for kind, spent in self.seconds.items():
            yield Sample("agent_sync_seconds_total", spent, (kind,))
        yield Sample("agent_drift_total", self.counts["drift"])


async def _serve(settings: AgentSettings) -> None:
    bind(process="agent", node=settings.node)
    access = await credentials.read(settings.kubeconfig)
    async with Client(access) as client:
        agent = Agent(settings)
        fib = Fib(agent.drift, agent.look)
        watches = [
            Watch(
                client, paths.SERVICES, agent.services_changed, {"fieldSelector": "spec.type=LoadBalancer"}, gather=True
            ),
            Watch(client, paths.NODES, agent.node_changed, {"fieldSelector": f"metadata.name={settings.node}"}),
        ]
        endpoint = await serve(
            settings.metrics_address, settings.metrics_port, agent.samples, lambda: True, agent.readiness
        )
        stop = await _end()
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        tasks += [
            asyncio.create_task(agent.run(fib, watches)),
            asyncio.create_task(credentials.follow(settings.kubeconfig, access, client.renew)),
        ]
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
        endpoint.close()
        fib.close()
        for task in done - {stopping}:
            task.result()


async def _end() -> asyncio.Event:
    """Set when this process is told to end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _remove() -> None:
    fib = Fib(lambda: None, lambda: None)
    await fib.unprogram(r for r in await fib.read() if r.eip)
    fib.close()
    await links.remove_rules()
    await guard.remove()


def main(settings: AgentSettings) -> None:
    """Serve until SIGTERM."""
    uvloop.run(_serve(settings))


def remove() -> None:
    """Take every route, rule and table of ours off this node."""
    uvloop.run(_remove())


async def _retire(settings: AgentSettings) -> None:
    stop = await _end()
    await _remove()
    log("everything of ours is off this node", node=settings.node)
    where = settings.metrics_address, settings.metrics_port
    endpoint = await serve(*where, lambda: iter(()), lambda: True, lambda: (True, {"retired": True}))
    await stop.wait()
    endpoint.close()


def retire(settings: AgentSettings) -> None:
    """`remove`, and then be a pod that is ready, until SIGTERM: how an uninstallation sees that the node is clean."""
    uvloop.run(_retire(settings))
