"""What single parts cost, each on real parts: allocator, plan, BGP table, agent, probes, memory.

`in_place` ones need the bench's cluster (place.up).
"""

import asyncio
import statistics
import time

import msgspec

from loadtest import place
from loadtest.place import in_parallel
from loadtest.world import create, delete
from porter_ha.core.allocate import Allocator
from porter_ha.core.pool import PoolSettings
from porter_ha.core.reconciler import Reconciler
from porter_ha.kube import paths, status
from porter_ha.kube.client import MERGE, STRATEGIC, Client
from porter_ha.model.net import V4, parse_range, parse_ranges, to_text
from porter_ha.model.plan import Claim, NodeView, Scope, Serving
from porter_ha.model.reasons import Reason
from tests.lab import nodes
from tests.lab.controlplane import apply
from tests.lab.shell import PREFIX, PYTHON, STATE, run, start, stop, until
from tests.lab.topology import OUR_AS, ROUTER_AS, lan

FIRST = "10.128.0.0"
STARTS = 5


def _claim(number: int, local: bool = False, **more: object) -> Claim:
    key = f"bench/s{number}"
    base: dict[str, object] = {"families": (4,), "serving": (Serving(4, ("n1", "n2", "n3")),), "local": local}
    return Claim(key, f"uid-{number}", f"2026-01-01T00:00:{number:09}Z", True, **{**base, **more})  # type: ignore[arg-type]


def _views(count: int) -> dict[str, NodeView]:
    return {f"n{i}": NodeView(f"n{i}", (place.node_address(i),)) for i in range(1, count + 1)}


def allocator(count: int) -> float:
    """Seconds to fill a pool of this many addresses."""
    made = Allocator()
    made.set_pools([PoolSettings("pool", parse_ranges(f"{FIRST}-{to_text(V4, parse_range(FIRST).first + count - 1)}"))])
    claims = [_claim(i) for i in range(count)]
    began = time.perf_counter()
    for claim in claims:
        made.assign(claim, {}, 0.0, {})
    took = time.perf_counter() - began
    assert len(made.pools["pool"].used) == count
    return round(took, 4)


class PlanCost(msgspec.Struct):
    """Microseconds of processor time for one Service's change, and milliseconds for a node's death over all EIPs."""

    services: int
    nodes: int
    service_us: float
    node_ms: float
    node_eips: int


def plan(services: int, node_count: int, local: bool = False) -> PlanCost:
    made = Reconciler()
    made.change_nodes(_views(node_count))
    made.set_scopes({"all": Scope()})
    first = parse_range(FIRST).first
    for i in range(services):
        made.set_claim(_claim(i, local, held=(to_text(V4, first + i),), recorded=True), 0.0)
    made.planner.drain()
    changes = 2000
    began = time.process_time()
    for i in range(changes):
        serving = (Serving(4, ("n1", "n2") if i % 2 else ("n1", "n2", "n3")),)
        held = (to_text(V4, first + i % 100),)
        made.set_claim(_claim(i % 100, True, held=held, recorded=True, serving=serving), 0.0)
        made.planner.drain()
    service_us = (time.process_time() - began) / changes * 1e6
    began = time.process_time()
    made.change_nodes({"n1": NodeView("n1", (place.node_address(1),), refusal=Reason.NODE_SILENT)})
    told = made.planner.drain()
    node_ms = (time.process_time() - began) * 1e3
    return PlanCost(services, node_count, round(service_us, 1), round(node_ms, 2), sum(len(a.changes) for a in told))


# --- BGP: a table into BIRD ------------------------------------------------------------------------------------

_RECEIVER = """router id 10.79.0.1;
log stderr all;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; interface "eth0"; }}
template bgp sender {{ local {me} as {router_as}; passive on; ipv4 {{ import all; export none; add paths rx; }}; }}
protocol bgp ours from sender {{ neighbor {ours} as {our_as}; }}
protocol bgp theirs from sender {{ neighbor {theirs} as {our_as}; }}
"""
_SENDER = """router id 10.79.0.22;
log stderr all;
protocol device {{ }}
protocol direct {{ ipv4; interface "eth0"; }}
protocol static all_routes {{ disabled; ipv4; {routes} }}
protocol bgp up {{ local {me} as {our_as}; neighbor {router} as {router_as}; connect delay time 1;
  ipv4 {{ import none; export where source = RTS_STATIC; next hop keep; add paths tx; }}; }}
"""


class TableCost(msgspec.Struct):
    """Seconds from the first word to the last prefix in the receiving router's table."""

    prefixes: int
    ours_s: list[float]
    bird_s: list[float]
    ratio: float


def table(prefixes: int, rounds: int = 3) -> TableCost:
    """The same table from our speaker and from BIRD into another BIRD, in turns. In place."""
    control = STATE / "receiver.ctl"
    values = {"router_as": ROUTER_AS, "our_as": OUR_AS, "ours": lan("node1")[0], "theirs": lan("node2")[0]}
    (STATE / "receiver.conf").write_text(_RECEIVER.format(me=lan("router1")[0], **values))
    first = parse_range(FIRST).first
    lines = " ".join(f"route {to_text(V4, first + i)}/32 via {lan('node3')[0]};" for i in range(prefixes))
    (STATE / "sender.conf").write_text(
        _SENDER.format(me=lan("node2")[0], router=lan("router1")[0], routes=lines, **values)
    )

    def bird(name: str, where: str) -> None:
        start(f"bird-{name}", [place.BIRD, "-f", "-c", f"{STATE}/{name}.conf", "-s", f"{STATE}/{name}.ctl"], where)
        until(name, lambda: "ready" in run("birdc", "-s", str(STATE / f"{name}.ctl"), "show status"))

    def count() -> int:
        return int(run("birdc", "-s", str(control), "show route count").split(" of ")[1].split()[0])

    def timed(begin: object, empty: object) -> float:
        until("an empty table", lambda: count() < prefixes / 100, 30)
        began = time.perf_counter()
        begin()  # type: ignore[operator]
        until("the whole table", lambda: count() >= prefixes, 60, 0.005)
        took = time.perf_counter() - began
        empty()  # type: ignore[operator]
        return round(took, 3)

    bird("receiver", "router1")
    bird("sender", "node2")
    start("sender-ours", [str(PYTHON), "-m", "loadtest.sender", lan("router1")[0], str(prefixes)], "node1")
    fifo = STATE / "sender-ours.fifo"
    until("our sender", fifo.exists)
    said = "show protocols"
    until("both sessions", lambda: run("birdc", "-s", str(control), said).count("Established") == 2, 60)
    ours, theirs = [], []
    sender = ("birdc", "-s", str(STATE / "sender.ctl"))
    for _ in range(rounds):
        ours.append(timed(lambda: fifo.write_text("open\n"), lambda: fifo.write_text("shut\n")))
        theirs.append(
            timed(lambda: run(*sender, "enable", "all_routes"), lambda: run(*sender, "disable", "all_routes"))
        )
    for name in ("sender-ours", "bird-sender", "bird-receiver"):
        stop(name)
    return TableCost(prefixes, ours, theirs, round(statistics.median(ours) / statistics.median(theirs), 2))


# --- the agent -------------------------------------------------------------------------------------------------


class AgentCost(msgspec.Struct):
    """Memory with the EIPs on the node; programming everything from nothing, and the kernel's part of it (system time
    of a start with the EIPs, less that of one without: medians of STARTS, for it is counted in ticks of 10 ms);
    processor time of one EIP's change, which is two events: a Service, and then its EIP."""

    eips: int
    rss_mb: float
    empty_rss_mb: float
    cold_sync_ms: float
    cold_kernel_ms: float
    change_cpu_ms: float
    change_sync_ms: float


def _agent_metric(name: str) -> float:
    lines = nodes.endpoint("node3", "/metrics", nodes.AGENT_PORT).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"porter_ha_{name}"))


async def agent(client: Client, eips: int, changes: int = 100) -> AgentCost:
    """The real agent on a node, with as many EIPs in the API server. In place, without a controller."""

    def started() -> int:
        nodes.start_agent("node3")
        until("the agent", lambda: nodes.ready("node3", nodes.AGENT_PORT).get("ready"), 60)
        return place.pids("node3-agent")[0]

    node = {"metadata": {"name": "node3"}}
    await client.request("POST", "/api/v1/nodes", node)
    addresses = [{"type": "InternalIP", "address": lan("node3")[0]}]
    await client.request(
        "PATCH", "/api/v1/nodes/node3/status", {"status": {"addresses": addresses}}, content_type=MERGE
    )

    def system_s() -> float:
        return place.cpu_s("node3-agent") - place.cpu_s("node3-agent", user=True)

    async def starts() -> tuple[float, ...]:
        """(resident MB, s of system time, s of programming) of starts on a node with nothing of ours; one is left."""
        found = []
        for left in reversed(range(STARTS)):
            pid = await asyncio.to_thread(started)
            found.append((place.memory_mb(pid)[1], system_s(), _agent_metric('agent_sync_seconds_total{kind="full"}')))
            if left:
                await asyncio.to_thread(nodes.remove_agent, "node3")
        return tuple(statistics.median(column) for column in zip(*found, strict=True))

    empty, empty_system_s, _ = await starts()
    await asyncio.to_thread(nodes.remove_agent, "node3")
    await asyncio.to_thread(ballast, eips)
    rss, with_system_s, cold_s = await starts()
    cold, kernel = cold_s * 1e3, (with_system_s - empty_system_s) * 1e3
    spent, done = (
        _agent_metric('agent_sync_seconds_total{kind="diff"}'),
        _agent_metric('agent_syncs_total{kind="diff"}'),
    )
    cpu = place.exact_cpu_s("node3-agent")
    for i in range(changes):  # one at a time: what changes within 0.1 s is programmed together
        await _record(client, f"change-{i}", to_text(V4, parse_range("10.220.0.0").first + i))
        await asyncio.sleep(0.15)
    used = (place.exact_cpu_s("node3-agent") - cpu) / changes * 1e3
    until("all changes", lambda: _agent_metric('agent_syncs_total{kind="diff"}') >= done + changes, 10)
    took = (_agent_metric('agent_sync_seconds_total{kind="diff"}') - spent) / changes * 1e3
    await in_parallel(delete(client, f"change-{i}") for i in range(changes))
    nodes.remove_agent("node3")
    memory, whole, own = (round(rss, 1), round(empty, 1)), round(cold, 1), round(kernel, 1)
    return AgentCost(eips, *memory, whole, own, round(used, 2), round(took, 3))


async def _record(client: Client, name: str, eip: str) -> None:
    """A Service with an EIP, as a controller makes it: two events for the agent."""
    await create(client, name)
    body = status.service_assigned("", "", 1, [eip])
    del body["metadata"]["uid"]  # type: ignore[attr-defined]
    await client.request("PATCH", f"{paths.services(place.NAMESPACE)}/{name}/status", body, content_type=STRATEGIC)


def ballast(count: int) -> None:
    """That many Services with EIPs, beneath the API server (tests/lab/ballast.py)."""
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ballast"}})
    here = ("ip", "netns", "exec", f"{PREFIX}controlplane")
    run(*here, str(PYTHON), "-m", "tests.lab.ballast", str(count), timeout_s=300)


# --- a whole replica -------------------------------------------------------------------------------------------


class ReplicaCost(msgspec.Struct):
    """Memory of one replica in all its processes, and what it uses while nothing happens: with the kernel's work for it
    (here also the answering nodes'), and its own alone."""

    services: int
    nodes: int
    processes: dict[str, float]
    pss_mb: float
    rss_mb: float
    idle_cpu_percent: float
    idle_user_percent: float


async def replica(services: int, node_count: int, idle_s: float = 10.0) -> ReplicaCost:
    """Of the manager on node1, as it is now. In place."""
    found: dict[str, float] = {}
    rss = 0.0
    for pid in place.pids("node1-manager"):
        pss, resident = place.memory_mb(pid)
        name = place.process_name(pid)
        found[name] = round(found.get(name, 0.0) + pss, 1)
        rss += resident
    idle, user = await place.idle_percent(["node1-manager"], idle_s)
    return ReplicaCost(
        services, node_count, found, round(sum(found.values()), 1), round(rss, 1), round(idle, 1), round(user, 1)
    )
