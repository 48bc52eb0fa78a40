"""A manager process from its settings: credentials, endpoint, reporter and replica, until SIGTERM."""

import asyncio
import signal
from collections.abc import Iterator

from porter_ha.config import ManagerSettings
from porter_ha.kube import credentials
from porter_ha.kube.client import Client
from porter_ha.manager.host import Linux
from porter_ha.manager.replica import Replica
from porter_ha.manager.reporter import Reporter
from porter_ha.model.reasons import Reason
from porter_ha.obs.endpoint import Details, serve
from porter_ha.obs.log import bind, log
from porter_ha.obs.metrics import TABLE, Sample
from porter_ha.obs.timings import is_timing, timings


async def run(settings: ManagerSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    bind(process="manager", node=settings.node)
    access = await credentials.read(settings.kubeconfig)
    async with Client(access) as client:
        replica = Replica(settings, Linux(), client, access)
        endpoint = await serve(
            settings.metrics_address,
            settings.metrics_port,
            lambda: samples(replica),
            lambda: all(worker.healthy for worker in replica.workers),
            lambda: readiness(replica),
        )
        log("manager started", identity=settings.identity, shards=len(replica.shards))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        serving = asyncio.create_task(replica.run(stop), name="replica")
        helpers = [
            asyncio.create_task(Reporter(replica, client).run(), name="reporter"),
            asyncio.create_task(credentials.follow(settings.kubeconfig, access, replica.renew), name="credentials"),
        ]
        await asyncio.wait([serving, *helpers], return_when=asyncio.FIRST_COMPLETED)
        for task in (*helpers, serving):
            task.cancel()
        results = await asyncio.gather(*helpers, serving, return_exceptions=True)
        endpoint.close()
        for result in results:
            if isinstance(result, Exception):
                raise result


def readiness(replica: Replica) -> tuple[bool, Details]:
    """Ready: warm, and the workers answer. A standby is ready: it can take over."""
    election = replica.leadership.elector.election
    details = {
        "leading": bool(replica.leadership.acting_epoch),
        "epoch": max(election.epoch, election.seen_epoch),
        "holder": election.holder,
        "announcing": bool(replica.leadership.bgp.epoch),
        "sessions": {name: report.state for name, report in replica.leadership.bgp.sessions.items()},
        "pids": {worker.name: worker.pid for worker in replica.workers},
    }
    return replica.leadership.warm and all(worker.healthy for worker in replica.workers), details


def samples(replica: Replica) -> Iterator[Sample]:
    """The manager's part of obs.metrics.TABLE."""
    election, reconciler = replica.leadership.elector.election, replica.reconciler
    yield Sample("leader", bool(replica.leadership.acting_epoch))
    yield Sample("epoch", max(election.epoch, election.seen_epoch))
    yield Sample("fenced", bool(replica.leadership.acting_epoch) and replica.leadership.fenced)
    yield Sample("takeover_seconds", replica.leadership.takeover_s)
    yield Sample("replicas_heard", len(replica.leadership.link.living()))
    yield Sample("stale_path_possible", len(replica.leadership.left_behind()))
    yield Sample("announcing", bool(replica.leadership.bgp.epoch))
    yield Sample("warm", replica.leadership.warm)
    for (state, reason), count in service_states(replica).items():
        yield Sample("services", count, (state, reason))
    for name, pool in reconciler.allocator.pools.items():
        yield Sample("pool_addresses", pool.capacity, (name,))
        yield Sample("pool_addresses_used", len(pool.used), (name,))
    for (kind, reason), count in refused(replica).items():
        yield Sample("objects_refused", count, (kind, reason))
    nodes: dict[tuple[str, str], int] = {}
    for view in reconciler.planner.nodes.values():
        key = ("eligible", "") if view.refusal is None else ("excluded", str(view.refusal))
        nodes[key] = nodes.get(key, 0) + 1
    for labels, count in nodes.items():
        yield Sample("nodes", count, labels)
    yield Sample("nodes_silent", len(replica.liveness.silent()))
    yield Sample("nodes_held", replica.liveness.holding)
    for name, report in replica.leadership.bgp.sessions.items():
        yield Sample("bgp_session_up", report.state == "Established", (name,))
        yield Sample("bgp_session_flaps_total", report.flaps, (name,))
        yield Sample("bgp_prefixes", report.prefixes, (name,))
    for worker in replica.workers:
        yield Sample("worker_up", worker.healthy, (worker.name,))
        yield Sample("worker_restarts_total", worker.restarts, (worker.name,))
        for name, buckets, total in timings(worker.counters):
            yield Sample(name, total, (worker.name,), buckets)
        for name, number in worker.counters.items():
            if name in TABLE:
                yield Sample(name, number, (worker.name,))
            elif not is_timing(name):
                yield Sample("worker_events_total", number, (worker.name, name))
    for watch in replica.inputs.watches:
        yield Sample("watch_failures_total", watch.failures, (watch.path,))


def refused(replica: Replica) -> dict[tuple[str, str], int]:
    """How many objects are refused, by kind and Reason."""
    peers = replica.peers
    verdicts = (("Eip", replica.pools.refused), ("BgpConf", peers.conf_refusals), ("BgpPeer", peers.refused))
    counts: dict[tuple[str, str], int] = {}
    for kind, refusals in verdicts:
        for refusal in refusals.values():
            counts[kind, str(refusal.reason)] = counts.get((kind, str(refusal.reason)), 0) + 1
    return counts


def service_states(replica: Replica) -> dict[tuple[str, str], int]:
    """How many Services are in which state, by Reason."""
    reconciler = replica.reconciler
    wanting = sum(claim.wants for claim in reconciler.claims.values())
    counts = {("assigned", str(Reason.ASSIGNED)): wanting - len(reconciler.waiting)}
    for state, refusals in (("waiting", reconciler.waiting), ("unannounced", reconciler.unannounced)):
        for refusal in refusals.values():
            key = (state, str(refusal.reason))
            counts[key] = counts.get(key, 0) + 1
    return counts
