"""`python -m loadtest.bench`: how fast, at what cost, and how that grows; each against the limit of this machine.

Brings its own cluster up (place.py) and takes it down. Writes build/bench.json, build/bench-*.png and .svg, and with
--write docs/performance.md. `--controller NAME --command CMD` measures any other controller the same way: it is run in
a node's namespace with KUBECONFIG set.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop

from loadtest import measure, parts, place, plots, profiles, report
from porter_ha.kube.client import Client
from tests.lab.shell import ROOT

BUILD = ROOT / "build"
HOPS = 3
REST_S = 2.0
AGAIN = 3


class Service(msgspec.Struct):
    """The same Services given to the bare client and to the controller, in turns."""

    bare_single_p50_ms: float
    bare: list[measure.Assignment]
    bare_fenced: list[measure.Assignment]
    ours: list[measure.Assignment]
    single: measure.Single
    burst: list[measure.Burst]
    rate_ratio: float
    fenced_ratio: float
    single_ratio: float


class Watching(msgspec.Struct):
    """What agents cost the API server: each watches LoadBalancer Services only."""

    agents: int
    changes: int
    apiserver_us_per_agent_and_change: float


class Results(msgspec.Struct):
    controller: str
    service: Service | None = None
    scale: list[measure.Assignment] = []
    scale_idle_percent: float = 0.0
    again: dict[int, list[measure.Assignment]] = {}  # by how many Services there are: some of them, assigned anew
    paced: measure.Assignment | None = None  # as many as the fewest of `scale`, at the rate that the most came to
    bare_paces: list[measure.Assignment] = []  # the bare client's: as fast as they go, and at that rate
    nodes: dict[int, measure.Single] = {}
    allocator_s: dict[int, float] = {}
    plan: list[parts.PlanCost] = []
    plan_local: parts.PlanCost | None = None
    table: parts.TableCost | None = None
    agent: parts.AgentCost | None = None
    memory: parts.ReplicaCost | None = None
    probes: dict[int, parts.ReplicaCost] = {}
    watching: Watching | None = None
    profile: list[profiles.Profile] = []


class Bench:
    def __init__(self, client: Client, name: str, command: str, quick: bool, done: Callable[[Results], None]) -> None:
        self._client, self._name, self._command, self._quick, self._done = client, name, command, quick, done
        self.results = Results(name)

    async def run(self, only: tuple[str, ...]) -> None:
        steps: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "parts": self.parts,
            "service": self.service,
            "scale": self.scale,
            "nodes": self.nodes,
            "profile": self.profile,
            "table": self.table,
            "watching": self.watching,
            "probes": self.probes,
            "agent": self.agent,
            "memory": self.memory,  # last: its Services stay
        }
        for step in only or steps:
            if step not in steps:
                raise click.BadParameter(f"there is no step {step!r}; there are: {', '.join(steps)}")
            click.echo(step)
            await steps[step]()
            self._done(self.results)

    async def parts(self) -> None:
        gc.freeze()  # the plotting library's objects, which the collector would look through, are in no manager
        sizes = (1000, 4000, 16000) if self._quick else (1000, 4000, 16000, 65536)
        self.results.allocator_s = {size: parts.allocator(size) for size in sizes}
        shapes = ((100, 100), (1000, 100), (10_000, 100), (50_000, 100), (10_000, 10), (10_000, 1000), (10_000, 5000))
        self.results.plan = [parts.plan(services, nodes) for services, nodes in shapes]
        self.results.plan_local = parts.plan(10_000, 500, local=True)
        click.echo(f"  a pool of 16,000 is filled in {self.results.allocator_s[16000]} s")

    async def service(self) -> None:
        await place.set_nodes(self._client, HOPS)
        rounds, count = (1, 300) if self._quick else (7, 1000)
        bare, fenced, ours, burst, singles, bare_singles = [], [], [], [], [], []
        for _ in range(rounds):
            with place.controller("bare") as processes:
                await asyncio.sleep(REST_S)
                bare_singles.append(await measure.single(self._client, 40, HOPS, routed=False))
                bare.append(await measure.assignment(self._client, count, processes))
            with place.controller("bare-fenced") as processes:
                await asyncio.sleep(REST_S)
                fenced.append(await measure.assignment(self._client, count, processes))
            with place.controller(self._name, self._command) as processes:
                await asyncio.sleep(REST_S)
                singles.append(await measure.single(self._client, 40, HOPS))
                ours.append(await measure.assignment(self._client, count, processes))
                burst.append(await measure.burst(self._client, count, HOPS, processes))
            rates = f"{ours[-1].rate} EIPs/s, the bare client {bare[-1].rate}, within the fence {fenced[-1].rate}"
            waits = f"{singles[-1].fib_p50_ms} ms to the FIB, its EIP alone {bare_singles[-1].assign_p50_ms} ms"
            click.echo(f"  {rates}; {waits}")
        single = min(singles, key=lambda one: one.fib_p50_ms)
        bare_single = min(one.assign_p50_ms for one in bare_singles)
        self.results.service = Service(
            bare_single_p50_ms=bare_single,
            bare=bare,
            bare_fenced=fenced,
            ours=ours,
            single=single,
            burst=burst,
            rate_ratio=measure.rate_ratio(ours, bare),
            fenced_ratio=measure.rate_ratio(ours, fenced),
            single_ratio=round(single.assign_p50_ms / bare_single, 3),
        )

    async def scale(self) -> None:
        await place.set_nodes(self._client, HOPS)
        self.results.scale, self.results.again = [], {}
        with place.controller(self._name, self._command) as processes:
            await asyncio.sleep(REST_S)
            idle = self.results.scale_idle_percent = (await place.idle_percent(processes, 5 * REST_S))[0]
            for count in (300, 1000) if self._quick else (1000, 4000, 16_000):
                found = await measure.assignment(self._client, count, processes, stay=True)
                self.results.scale.append(found)
                cost = f"{found.cpu_ms_per_service} ms of processor, {found.added_ms(idle)} without what it uses anyway"
                click.echo(f"  {count}: {found.rate} EIPs/s, each {cost}; p99 {found.p99_ms} ms")
                some = self.results.scale[0].count
                anew = [await measure.again(self._client, count, some, processes) for _ in range(AGAIN)]
                self.results.again[count] = anew
                click.echo(f"  {some} of {count} anew: each {measure.mean_added_ms(anew, idle)} ms")
                await measure.clear(self._client, count)
            fewest, most = self.results.scale[0], self.results.scale[-1]
            paced = self.results.paced = await measure.assignment(
                self._client, fewest.count, processes, per_s=most.rate
            )
            click.echo(f"  {paced.count} at {paced.rate} a second: each {paced.added_ms(idle)} ms")
        with place.controller("bare") as processes:
            await asyncio.sleep(REST_S)
            self.results.bare_paces = [
                await measure.assignment(self._client, fewest.count, processes, per_s=rate) for rate in (0.0, most.rate)
            ]
        costs = " and ".join(f"{one.cpu_ms_per_service} ms at {one.rate} a second" for one in self.results.bare_paces)
        click.echo(f"  the bare client: {costs}")

    async def nodes(self) -> None:
        for count in (10, 100) if self._quick else (10, 100, 1000):
            await place.set_nodes(self._client, count)
            with place.controller(self._name, self._command):
                await asyncio.sleep(REST_S)
                self.results.nodes[count] = await measure.single(self._client, 30, min(count, 64))
            click.echo(f"  {count} nodes: p50 {self.results.nodes[count].fib_p50_ms} ms to all next hops")

    async def profile(self) -> None:
        await place.set_nodes(self._client, HOPS)
        self.results.profile = []
        for count in (300,) if self._quick else (1000, 4000):
            with profiles.profiled(), place.controller("porter"):
                self.results.profile += await profiles.take(self._client, count)
        for found in self.results.profile:
            click.echo(f"  {found.services}: {found.process} {found.ms_per_service} ms: {found.rooms}")

    async def table(self) -> None:
        self.results.table = await asyncio.to_thread(parts.table, 5000 if self._quick else 50_000)
        click.echo(f"  {self.results.table}")

    async def watching(self) -> None:
        await place.set_nodes(self._client, HOPS)
        agents, changes = 50 if self._quick else 200, 200
        alone = await measure.apiserver_cpu_ms(self._client, changes, 0)
        watched = await measure.apiserver_cpu_ms(self._client, changes, agents)
        each = (watched - alone) / agents * 1e3
        self.results.watching = Watching(agents, changes, round(each, 2))
        click.echo(f"  {each:.1f} us of the API server for each agent and change")

    async def probes(self) -> None:
        for count in (3, 500) if self._quick else (3, 1000, 5000):
            await place.set_nodes(self._client, count)
            with place.controller("porter"):
                await asyncio.sleep(3 * REST_S)
                self.results.probes[count] = await parts.replica(0, count)
            click.echo(f"  {count} nodes: {self.results.probes[count].idle_cpu_percent} % of a core")
        await place.set_nodes(self._client, HOPS)

    async def agent(self) -> None:
        self.results.agent = await parts.agent(self._client, 1000 if self._quick else 10_000)
        click.echo(f"  {self.results.agent}")

    async def memory(self) -> None:
        """5,000 Services, 500 nodes, 4 routers. The agent's Services are there already when it was measured."""
        services = 500 if self._quick else 5000
        if self.results.agent is None:
            await asyncio.to_thread(parts.ballast, services)
        else:
            services = self.results.agent.eips
        node_count = 50 if self._quick else 500
        await place.set_nodes(self._client, node_count)
        await asyncio.to_thread(place.add_routers, 3)
        with place.controller("porter"):
            await asyncio.to_thread(place.until_sessions, 4)
            await asyncio.sleep(5 * REST_S)
            self.results.memory = await parts.replica(services, node_count)
        click.echo(f"  {self.results.memory}")


async def _measure(name: str, command: str, quick: bool, write: bool, only: tuple[str, ...]) -> Results:
    def done(results: Results) -> None:  # after each step: a later one may fail
        BUILD.mkdir(exist_ok=True)
        (BUILD / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
        if write and not quick:
            Path(ROOT / "docs" / "performance.md").write_text(report.page(results), encoding="utf-8")

    async with Client(place.access(), timeout_s=60) as client:
        bench = Bench(client, name, command, quick, done)
        if only and (found := BUILD / "bench.json").exists():  # steps that are asked for alone complete the last run
            known = msgspec.json.decode(found.read_bytes(), type=Results)
            bench.results = known if known.controller == name else bench.results
        await bench.run(only)
        return bench.results


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("steps", nargs=-1)
@click.option("--quick", is_flag=True, help="Small numbers, to see that it works.")
@click.option("--controller", default="porter", show_default=True)
@click.option("--command", default="", help="How to start another controller.")
@click.option("--write", is_flag=True, help="Write docs/performance.md.")
def main(steps: tuple[str, ...], quick: bool, controller: str, command: str, write: bool) -> None:
    """Run the STEPS, or all of them."""
    place.up()
    try:
        results = uvloop.run(_measure(controller, command, quick, write, steps))
    finally:
        place.down()
    plots.draw(results, BUILD)
    missed = [goal for goal in report.goals(results) if not goal.met]
    click.echo(report.table(results))
    sys.exit(1 if missed and not quick else 0)


if __name__ == "__main__":
    main()
