"""Failover drills: a fault under steady traffic through an EIP, with everything counted and put on one time axis.

Each drill runs two flows from the client, one per router (new TCP connections, long-lived ones, UDP packets), and
watches the routes in both routers' kernels. What may be lost is said by the drill: nothing, or only what went to a node
that died, until it was withdrawn. Times are reported and not judged.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tests.lab import ballast, cluster, controlplane, nodes, routers
from tests.lab.cluster import addresses, service, wait_addresses, wait_fib
from tests.lab.controlplane import apply, kubectl
from tests.lab.flows import Flow, RouteMonitor
from tests.lab.shell import LOGS, PIDS, LabError, inside, run, session_pids, stop, until
from tests.lab.topology import NODES, ROUTERS, lan

BEFORE_S = 2.0
AFTER_S = 3.0
MANY = 50_000
HOLD_S = 30.0  # the lab's peers have the default
SERVICES = ("web", "web-class", "web-local")


class Result(msgspec.Struct):
    """What a drill came to. Times in seconds after the fault; None where there was nothing of the kind."""

    name: str
    ok: bool = False
    packets_sent: int = 0
    packets_lost: int = 0
    connections: int = 0
    connections_lost: int = 0
    connections_rehashed: int = 0
    detect_s: float | None = None
    takeover_s: float | None = None
    assigns_s: float | None = None
    converge_s: float | None = None
    eips_changed: int = 0
    promise: str = ""
    rehash_expected: int = 0
    error: str = ""
    fault_at: float = 0.0
    seconds: float = 0.0
    lost_at: list[float] = []
    routes_at: list[float] = []
    leaders: list[tuple[float, str]] = []


class Drill(msgspec.Struct):
    """`prepare` comes before; `fault` does it, returns when it has healed, and names the node that died, if one did;
    `undo` restores. The traffic goes to the EIP of the Service `through`.
    """

    name: str
    promise: str
    seconds: float
    fault: Callable[[], str | None]
    undo: Callable[[], None] = lambda: None
    may_lose: bool = False
    prepare: Callable[[], None] = lambda: None
    through: str = "web-local"


# --- the faults ----------------------------------------------------------------------------------------------


def another_leader(old: str) -> None:
    others = [n for n in NODES if n != old]
    until("another leader", lambda: any(nodes.ready(n).get("leading") for n in others), 30)


def leader_crash() -> None:
    old = nodes.leader()
    nodes.kill_manager(old)
    another_leader(old)


def leader_freeze() -> None:
    old = nodes.leader()
    pids = nodes.manager_pids(old)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        another_leader(old)
        apply(service("during", "web"))
        wait_addresses("during")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def planned_handover() -> None:
    old = nodes.leader()
    run(nodes.PORTER, "handover", "--kubeconfig", str(controlplane.KUBECONFIG))
    another_leader(old)


def many_prefixes() -> None:
    ballast.load(MANY, timeout_s=600)


def rolling_upgrade() -> None:
    """SIGTERM to each manager in turn, each warm again before the next."""
    for node in NODES:
        parent = nodes.manager_pids(node)[0]
        os.kill(parent, signal.SIGTERM)
        replaced(node, parent)


def replaced(node: str, parent: int) -> None:
    until(f"the old manager of {node} to end", lambda: parent not in nodes.manager_pids(node), 40)
    until(f"the manager of {node}", lambda: nodes.ready(node).get("ready"), 30)
    until(f"sessions of {node}", lambda: cluster.sessions_up(node), 30)


def worker_crash(worker: str) -> Callable[[], None]:
    def fault() -> None:
        node = nodes.leader()
        pid = nodes.pids(node)[worker]
        os.kill(pid, signal.SIGKILL)
        until(f"a new {worker}", lambda: nodes.pids(node).get(worker) not in (None, pid), 20)
        until("its sessions", lambda: cluster.sessions_up(node), 20)

    return fault


def leader_router_partition() -> None:
    """The leader and BIRD lose each other without a word, for longer than either holds the session."""
    old, began = nodes.leader(), time.monotonic()
    router = lan("router2")[0]
    rules = f"ip daddr {router} tcp dport 179 drop; ip saddr {router} tcp sport 179 drop;"
    cut(old, rules)
    another_leader(old)
    time.sleep(max(0.0, HOLD_S + 3.0 - (time.monotonic() - began)))


def agent_crash() -> None:
    wrapper = int((PIDS / "node1-agent").read_text())
    for pid in session_pids(wrapper):
        if pid != wrapper:
            os.kill(pid, signal.SIGKILL)
    until("the agent", lambda: nodes.ready("node1", nodes.AGENT_PORT).get("ready"), 20)


def node_freeze() -> None:
    """A node's kubelet and agent stand still until the API calls the node Unknown; the node serves as before."""
    victim = standby_node()
    frozen = [p for name in ("kubelet", "agent") for p in session_pids(int((PIDS / f"{victim}-{name}").read_text()))]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        patch = json.dumps({"status": {"conditions": [unknown]}})  # what the node controller writes after 40 s
        kubectl("patch", "node", victim, "--subresource=status", "--type=strategic", "-p", patch)
        eip = addresses("web")[0]
        for _ in range(50):
            wait_fib(eip, list(NODES), 0.1)
            time.sleep(0.1)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


def standby_node() -> str:
    return next(n for n in NODES if n != nodes.leader())


_dead: list[str] = []


def power_off(choose: Callable[[], str], off: Callable[[str], None] = nodes.power_off) -> Callable[[], str]:
    def fault() -> str:
        victim = choose()
        _dead.append(victim)
        off(victim)
        eip = addresses("web-local")[0]
        wait_fib(eip, [n for n in NODES if n != victim], 20)
        until("one leader", lambda: nodes.leader() not in ("", victim), 20)
        return victim

    return fault


def power_on(on: Callable[[str], None] = nodes.power_on) -> None:
    while _dead:
        on(_dead.pop())


def router_restart() -> None:
    """BIRD is killed and started again: it keeps its kernel routes and recovers (RFC 4724, restarting side)."""
    stop("bird", signal.SIGKILL)
    routers.start_bird(recover=True)
    until("BIRD's sessions", lambda: len(routers.bird_sessions()) == 3, 60)


def session_reset() -> None:
    """TCP of the leader's sessions is cut in the middle."""
    node = nodes.leader()

    def flaps() -> float:
        lines = nodes.endpoint(node, "/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("porter_ha_bgp_session_flaps_total"))

    before = flaps()
    inside(node, "ss", "-K", "dport", "=", ":179", check=False)
    until("both sessions to be cut (needs CONFIG_INET_DIAG_DESTROY)", lambda: flaps() >= before + len(ROUTERS), 5)
    until("its sessions", lambda: cluster.sessions_up(node), 20)


class Outage:
    """The API server frozen."""

    def __enter__(self) -> None:
        self._pids = session_pids(int((PIDS / "kube-apiserver").read_text()))
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *exc: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)
        until("the API server", lambda: "ok" in kubectl("get", "--raw", "/readyz"), 60)


def api_outage() -> None:
    with Outage():
        time.sleep(8.0)


def api_outage_node_down() -> str:
    eip, victim = addresses("web-local")[0], standby_node()
    _dead.append(victim)
    with Outage():
        time.sleep(6.0)
        nodes.power_off(victim)
        wait_fib(eip, [n for n in NODES if n != victim], 10)
    return victim


def api_outage_leader_crash() -> None:
    old = nodes.leader()
    with Outage():
        time.sleep(6.0)
        nodes.kill_manager(old)
        others = [n for n in NODES if n != old]
        until("a standby announces", lambda: any(nodes.ready(n).get("announcing") for n in others), 20)
    until("one leader", nodes.leader, 30)


def partition(node: str, port: int) -> None:
    """Cut a node's own traffic to and from a TCP port, both ways."""
    cut(node, f"tcp dport {port} drop; tcp sport {port} drop;")


def cut(node: str, rules: str) -> None:
    """Drop what the node itself sends or receives, by nftables rules."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -300; {rules} }};" for hook in ("input", "output")
    )
    inside(node, "nft", "-f", "-", stdin=f"table inet drill {{ {chains} }}")
    _cut.append(node)


_cut: list[str] = []


def mend() -> None:
    while _cut:
        inside(_cut.pop(), "nft", "delete", "table", "inet", "drill")


def leader_partition() -> None:
    """The leader loses the API server, and nothing else."""
    old = nodes.leader()
    partition(old, 6443)
    another_leader(old)


def replica_link_partition() -> None:
    """The replicas lose each other, and nothing else: nothing must happen."""
    old = nodes.leader()
    partition(old, 7474)
    time.sleep(8.0)
    if nodes.leader() != old:
        raise LabError(f"leadership moved from {old} to {nodes.leader()} for nothing")


def all_managers_down_and_back() -> None:
    for node in NODES:
        stop(f"{node}-manager", signal.SIGKILL)
    time.sleep(4.0)
    for node in NODES:
        nodes.start_manager(node)
    until("one leader", nodes.leader, 40)


ALL = [
    Drill("leader-crash", "nothing is lost", 9, leader_crash),
    Drill("leader-freeze", "nothing is lost, and the thawed leader does no harm", 12, leader_freeze),
    Drill("leader-partition", "nothing is lost", 12, leader_partition, mend),
    Drill("leader-node-down", "only what is on its way to the dead node", 10, power_off(nodes.leader), power_on, True),
    Drill("planned-handover", "nothing is lost", 12, planned_handover),
    Drill("rolling-upgrade", "nothing is lost", 50, rolling_upgrade),
    Drill("shard-crash", "nothing is lost", 7, worker_crash("shard-0")),
    Drill("speaker-crash", "nothing is lost", 7, worker_crash("speaker")),
    Drill("agent-crash", "nothing is lost", 7, agent_crash),
    Drill("node-down", "only what is on its way to the dead node", 10, power_off(standby_node), power_on, True),
    Drill("node-freeze", "nothing is lost, and the node stays a next hop", 13, node_freeze, through="web"),
    Drill("router-restart", "nothing is lost", 12, router_restart),
    Drill("session-reset", "nothing is lost", 8, session_reset),
    Drill("api-outage", "nothing is lost", 14, api_outage),
    Drill("api-outage-node-down", "only what is on its way to the dead node", 14, api_outage_node_down, power_on, True),
    Drill("api-outage-leader-crash", "nothing is lost", 14, api_outage_leader_crash),
    Drill("leader-router-partition", "nothing is lost", 40, leader_router_partition, mend),
    Drill("replica-link-partition", "nothing happens", 13, replica_link_partition, mend),
    Drill("all-managers-down-and-back", "nothing is lost", 14, all_managers_down_and_back),
    # Last: its 50,000 Services stay until the lab is removed.
    Drill("handover-50k-prefixes", "nothing is lost", 60, planned_handover, prepare=many_prefixes),
]


# --- running them --------------------------------------------------------------------------------------------


def prepare() -> cluster.Pods:
    """The lab, and the Services that drills send traffic to."""
    cluster.up()
    pods = cluster.Pods()
    for node in NODES:
        pods.add(f"web-{node}", node, "web")
    apply(*services())
    routed()
    return pods


def services() -> list[dict[str, object]]:
    """What SERVICES are."""
    return [
        service("web"),
        service("web-class", "web", opt_in="class"),
        service("web-local", "web", externalTrafficPolicy="Local"),
    ]


def routed() -> None:
    """Wait until routers spread each of SERVICES over every node."""
    for name in SERVICES:
        wait_fib(wait_addresses(name)[0], list(NODES))


def settled() -> None:
    """What every drill starts from: all replicas warm and connected, every node a next hop, every pod reached."""

    cluster.settled()
    eip = addresses("web-local")[0]
    wait_fib(eip, list(NODES), 60)
    until(
        "pages from every pod", lambda: all(len(cluster.fetch(r, eip, 20)["served"]) == len(NODES) for r in ROUTERS), 60
    )


def execute(drill: Drill) -> Result:
    """One drill, from a settled cluster to a settled cluster."""
    drill.prepare()
    settled()
    result = Result(drill.name, promise=drill.promise, seconds=drill.seconds + BEFORE_S)
    before = {name: addresses(name) for name in SERVICES}
    eip = before[drill.through][0]
    hops = {router: routers.ordered_hops(router, eip) for router in ROUTERS}
    monitor = RouteMonitor(eip)
    flows = [Flow(router, eip, result.seconds) for router in ROUTERS]
    time.sleep(BEFORE_S)
    fault_at, victim = time.time(), None
    try:
        victim = drill.fault()
    except LabError as error:
        result.error = str(error)
    finally:
        found = [flow.result() for flow in flows]
        drill.undo()
    needless = 0
    try:
        needless = _count(result, dict(zip(ROUTERS, found, strict=True)), victim, eip, hops)
    except LabError as error:
        result.error = result.error or str(error)
    started = min(f["started"] for f in found)
    result.fault_at = round(fault_at - started, 3)
    result.routes_at = [round(at - started, 3) for at in monitor.times()]
    _read_logs(result, started, fault_at)
    try:
        settled()
        result.eips_changed = sum(addresses(name) != held for name, held in before.items())
    except LabError as error:
        result.error = result.error or f"afterwards: {error}"
    kubectl("delete", "service", "during", "--ignore-not-found")
    lost = result.packets_lost + result.connections_lost
    allowed = drill.may_lose and result.packets_lost < result.packets_sent / 2
    result.ok = not result.error and not result.eips_changed and not needless and (not lost or allowed)
    return result


def _count(
    result: Result, found: dict[str, dict[str, Any]], victim: str | None, eip: str, hops: dict[str, list[str]]
) -> int:
    """How many connections broke that no death of the victim explains: their node lives, and the router's hash, when
    the victim is taken from its next hops, leaves them there."""
    needless = 0
    for router, flow in found.items():
        broken = [(at, port, pod) for port, pod, at in flow["lasting"] if at is not None]
        result.packets_sent += flow["packets"]
        result.packets_lost += flow["packets_lost"]
        result.connections += flow["pages"] + len(flow["lasting"])
        result.connections_lost += flow["pages_lost"] + len(broken)
        result.lost_at += flow["lost_at"] + [at for at, _, _ in broken]
        if victim is None:
            continue
        served = {port: pod.removeprefix("web-") for port, pod, _ in flow["lasting"] if pod}
        moved = _rehashed(router, eip, hops[router], served, victim)
        rehashed = {port for _, port, pod in broken if pod and pod != f"web-{victim}"}
        result.rehash_expected += len(moved)
        result.connections_rehashed += len(rehashed)
        result.connections_lost -= len(rehashed)
        needless += len(rehashed - moved)
    return needless


def _rehashed(router: str, eip: str, hops: list[str], served: dict[int, str], victim: str) -> set[int]:
    """The ports of the connections through living nodes that plain ECMP hashes elsewhere when the victim is no next hop
    any more: what a node's death costs, whoever takes it from the route. `served` says by which node they were served.

    Raises LabError when a connection was not served where the router's hash says that it should have been.
    """
    ports = list(served)
    before = routers.hashed_to(router, eip, hops, ports)
    after = routers.hashed_to(router, eip, [hop for hop in hops if hop != lan(victim)[0]], ports)
    odd = [port for port, hop in zip(ports, before, strict=True) if hop != lan(served[port])[0]]
    if odd:
        raise LabError(f"{router}: connections from ports {odd} were not served where its hash sends them")
    return {p for p, was, now in zip(ports, before, after, strict=True) if was not in (now, lan(victim)[0])}


_DETECTED = ("replica is dead", "taking over early", "nodes judged", "asked to hand over")


def _earlier(known: float | None, after: float) -> float:
    return after if known is None else min(known, after)


def _read_logs(result: Result, started: float, fault_at: float) -> None:
    """What the managers said after the fault, on the drill's time axis."""
    for path in LOGS.glob("node*-manager.log"):
        for line in path.read_text(errors="replace").splitlines():
            if not line.startswith('{"time"'):
                continue
            said = json.loads(line)
            if not fault_at <= said["time"] <= started + result.seconds + AFTER_S:
                continue
            after = round(said["time"] - fault_at, 3)
            if said["event"] in _DETECTED:
                result.detect_s = _earlier(result.detect_s, after)
            elif said["event"] == "lease acquired":
                result.takeover_s = _earlier(result.takeover_s, after)
                result.leaders.append((round(said["time"] - started, 3), said["node"]))
            elif said["event"] == "leading":  # its API door is open
                result.assigns_s = _earlier(result.assigns_s, after)
    ours = [at for at in result.routes_at if result.fault_at <= at <= result.seconds]
    result.converge_s = round(max(ours) - result.fault_at, 3) if ours else None


def names() -> list[str]:
    return [drill.name for drill in ALL]


def chosen(name: str) -> list[Drill]:
    """The drills of that name, or all. Raises LabError that names those there are."""
    found = [drill for drill in ALL if name in ("all", drill.name)]
    if not found:
        raise LabError(f"there is no drill {name!r}; there are: all, {', '.join(names())}")
    return found
