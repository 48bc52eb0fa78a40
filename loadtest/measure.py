"""What is measured of a controller: how soon, how many, and at what cost. Times in seconds unless a name says ms."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

import msgspec

from loadtest import place
from loadtest.place import in_parallel
from loadtest.world import Seen, create, delete, post, service
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, Client
from porter_ha.kube.watch import Watch
from porter_ha.model.names import OPT_IN_ANNOTATION, OPT_IN_VALUES

BETWEEN_S = 0.02
PATIENCE_S = 120.0
SETTLE_S = 1.0
AT_ONCE = 64  # requests of those who create Services as fast as they go, as in shared/bench/assign_bench.py


def percentile(values: Iterable[float], p: float) -> float:
    """The p-th percentile, in milliseconds, of durations in seconds."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] * 1e3, 2)


class Single(msgspec.Struct):
    """One Service after another: from the request to its EIP in status, and to the router's kernel."""

    count: int
    assign_p50_ms: float
    fib_p50_ms: float
    fib_p99_ms: float


class Assignment(msgspec.Struct):
    """Many Services without endpoints: EIPs only. `rate` is Services a second, first request to last EIP."""

    count: int
    assigned: int
    unique: int
    rate: float
    p50_ms: float
    p99_ms: float
    after_last_create_s: float
    cpu_ms_per_service: float
    apiserver_ms_per_service: float

    def added_ms(self, idle_percent: float) -> float:
        """Processor time that each Service added to what the controller uses of a core while nothing happens."""
        return round(self.cpu_ms_per_service - idle_percent / 100 * 1e3 / self.rate, 3)


def rate_ratio(ours: Iterable[Assignment], others: Iterable[Assignment]) -> float:
    """Of the rates over all rounds together. Rounds differ by more than this does from 1, and pairs of rounds by more
    still: their median would tell what else the machine was doing."""
    return round(sum(1 / one.rate for one in others) / sum(1 / one.rate for one in ours), 3)


def mean_added_ms(rounds: Collection[Assignment], idle_percent: float) -> float:
    """`added_ms` over all rounds together, of equally many Services each."""
    return round(sum(one.added_ms(idle_percent) for one in rounds) / len(rounds), 3)


def share_of_server(rounds: Collection[Assignment], idle_percent: float) -> float:
    """The same, divided by what the API server used for them: how fast the machine was then is in both."""
    return mean_added_ms(rounds, idle_percent) * len(rounds) / sum(one.apiserver_ms_per_service for one in rounds)


class Burst(msgspec.Struct):
    """Many Services at once. `after_last_create_s` is from when the last request was answered to the last route."""

    count: int
    create_s: float
    assigned: int
    unique: int
    routed: int
    assign_rate: float
    assign_p50_ms: float
    assign_p99_ms: float
    after_last_create_s: float
    fib_p99_ms: float
    cpu_ms_per_service: float


async def single(client: Client, count: int, hops: int, *, routed: bool = True) -> Single:
    """Without `routed`, of a controller that only assigns: the FIB's figures are 0."""
    names = [f"one-{i:04}" for i in range(count)]
    asked: dict[str, float] = {}
    async with Seen(client, hops) as seen:
        for name in names:
            asked[name] = await create(client, name)
            await (seen.until_routed([name], 20) if routed else seen.until_assigned([name], 20))
            await asyncio.sleep(BETWEEN_S)
        assigned = [seen.assigned[n] - asked[n] for n in names]
        in_fib = [seen.routed[seen.eip[n]] - asked[n] for n in names if seen.eip[n] in seen.routed] or [0.0]
        await _clear(client, seen, names)
    return Single(count, percentile(assigned, 50), percentile(in_fib, 50), percentile(in_fib, 99))


async def assignment(
    client: Client, count: int, processes: Iterable[str], per_s: float = 0.0, *, stay: bool = False
) -> Assignment:
    """New Services, as fast as they go, or so many a second. With `stay` they are left for `again` and `clear`."""
    names = _assignment_names(count)
    async with Seen(client, 1) as seen:
        found = await _assignment(
            seen, names, lambda name: post(client, paths.services(place.NAMESPACE), service(name)), processes, per_s
        )
    if not stay:
        await clear(client, count)
    return found


async def again(client: Client, among: int, count: int, processes: Iterable[str]) -> Assignment:
    """So many of the Services that `assignment` left opt out, and then in again: they are assigned anew, and are no new
    objects, which cost the API server the more the more there are."""
    names = _assignment_names(among)[:: among // count][:count]

    async def opt(name: str, value: str | None) -> None:
        meta = {"metadata": {"annotations": {OPT_IN_ANNOTATION: value}}}
        await client.request("PATCH", f"{paths.services(place.NAMESPACE)}/{name}", meta, content_type=MERGE)

    async with Seen(client, 1) as seen:
        await in_parallel((opt(name, None) for name in names), AT_ONCE)
        await seen.until_released(names, PATIENCE_S)
        await asyncio.sleep(SETTLE_S)
        return await _assignment(seen, names, lambda name: opt(name, OPT_IN_VALUES[0]), processes)


async def clear(client: Client, count: int) -> None:
    """Remove what `assignment` left."""
    await in_parallel(delete(client, name) for name in _assignment_names(count))


def _assignment_names(count: int) -> list[str]:
    return [f"assign-{i:05}" for i in range(count)]


async def _assignment(
    seen: Seen,
    names: list[str],
    ask: Callable[[str], Coroutine[Any, Any, None]],
    processes: Iterable[str],
    per_s: float = 0.0,
) -> Assignment:
    asked: dict[str, float] = {}
    daemons = list(processes)

    async def one(number: int, name: str) -> None:
        if per_s:
            await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
        asked[name] = time.perf_counter()
        await ask(name)

    before, server = place.cpu_of(daemons), place.cpu_s("kube-apiserver")
    began = time.perf_counter()
    await in_parallel((one(number, name) for number, name in enumerate(names)), AT_ONCE)
    asked_all = time.perf_counter()
    await seen.until_assigned(names, PATIENCE_S)
    cpu, server = place.cpu_of(daemons) - before, place.cpu_s("kube-apiserver") - server
    done = [n for n in names if n in seen.eip]
    last = max((seen.assigned[n] for n in done), default=asked_all)
    waits = [seen.assigned[n] - asked[n] for n in done] or [0.0]
    return Assignment(
        count=len(names),
        assigned=len(done),
        unique=len({seen.eip[n] for n in done}),
        rate=round(len(done) / (last - began), 1),
        p50_ms=percentile(waits, 50),
        p99_ms=percentile(waits, 99),
        after_last_create_s=round(last - asked_all, 3),
        cpu_ms_per_service=round(cpu / len(names) * 1e3, 3),
        apiserver_ms_per_service=round(server / len(names) * 1e3, 3),
    )


async def burst(client: Client, count: int, hops: int, processes: Iterable[str], *, routed: bool = True) -> Burst:
    """`processes` are the controller's, whose processor time is taken; without `routed` only EIPs are waited for."""
    names = [f"burst-{i:05}" for i in range(count)]
    asked: dict[str, float] = {}
    daemons = list(processes)

    async def one(name: str) -> None:
        asked[name] = await create(client, name)

    async with Seen(client, hops) as seen:
        before = place.cpu_of(daemons)
        began = time.perf_counter()
        await in_parallel(one(name) for name in names)
        created = time.perf_counter()
        await seen.until_assigned(names, PATIENCE_S)
        if routed:
            await seen.until_routed(names, PATIENCE_S)
        await asyncio.sleep(SETTLE_S)  # what a controller still does for them is part of their cost
        cpu = place.cpu_of(daemons) - before
        done = [n for n in names if n in seen.eip]
        in_fib = [n for n in done if seen.eip[n] in seen.routed]
        last = max((seen.assigned[n] for n in done), default=created)
        last_route = max((seen.routed[seen.eip[n]] for n in in_fib), default=created)
        waits = [seen.assigned[n] - asked[n] for n in done] or [0.0]
        found = Burst(
            count=count,
            create_s=round(created - began, 3),
            assigned=len(done),
            unique=len({seen.eip[n] for n in done}),
            routed=len(in_fib),
            assign_rate=round(len(done) / (last - began), 1),
            assign_p50_ms=percentile(waits, 50),
            assign_p99_ms=percentile(waits, 99),
            after_last_create_s=round(last_route - created, 3),
            fib_p99_ms=percentile([seen.routed[seen.eip[n]] - asked[n] for n in in_fib] or [0.0], 99),
            cpu_ms_per_service=round(cpu / count * 1e3, 3),
        )
        await _clear(client, seen, names)
    return found


async def _clear(client: Client, seen: Seen, names: list[str]) -> None:
    held = [seen.eip[n] for n in names if n in seen.eip and seen.eip[n] in seen.routed]
    await in_parallel(delete(client, name) for name in names)
    await seen.until_gone(held, PATIENCE_S)


async def apiserver_cpu_ms(client: Client, changes: int, agents: int) -> float:
    """Processor time of the API server for one change of a LoadBalancer Service, while so many agents watch."""
    clients = [client.sibling(client.host) for _ in range(agents)]  # a connection each, as agents have
    watches = [
        Watch(own, paths.SERVICES, lambda _: None, {"fieldSelector": "spec.type=LoadBalancer"}) for own in clients
    ]
    names = [f"watched-{i:03}" for i in range(20)]
    await in_parallel(create(client, name) for name in names)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch.run()) for watch in watches]
        for watch in watches:
            await watch.synced.wait()
        await asyncio.sleep(SETTLE_S)
        before = place.cpu_s("kube-apiserver")
        for i in range(changes):
            meta = {"metadata": {"annotations": {"bench": str(i)}}}
            path = f"{paths.services(place.NAMESPACE)}/{names[i % len(names)]}"
            await client.request("PATCH", path, meta, content_type=MERGE)
            await asyncio.sleep(BETWEEN_S)
        used = place.cpu_s("kube-apiserver") - before
        for task in tasks:
            task.cancel()
    await in_parallel(own.close() for own in clients)
    await in_parallel(delete(client, name) for name in names)
    return used / changes * 1e3
