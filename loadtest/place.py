"""The cluster of a benchmark: control plane, BIRD, replicas of a controller, and as many nodes as are wanted.

Nodes are one namespace that owns all their addresses and answers for them: they live and cost nothing. There is no
kube-proxy and no node agent: on one machine they would only take processor time from what is measured, on a cluster
they run elsewhere. One process answers at the health ports of Local Services, for all nodes. The API server is the
lab's, with one difference: no controllers, the load writes EndpointSlices.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Collection, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

from porter_ha.kube.client import MERGE, Client
from porter_ha.model.access import Access
from porter_ha.model.names import TERM_NAME
from tests.lab import cluster, controlplane, nodes, routers, topology
from tests.lab.controlplane import apply, kubectl
from tests.lab.shell import PIDS as RECORDS
from tests.lab.shell import PREFIX, PYTHON, STATE, inside, session_pids, start, stop, until
from tests.lab.topology import NODES, OUR_AS, ROUTER_AS, batch, lan

FARM, FARM_ADDRESS, FARM_NET, FARM_GATEWAY = "farm", "10.79.0.30", "10.78.0.0/16", "10.78.255.254"
HEALTH_PORT = "10256"
NAMESPACE = "bench"
POOL = "10.128.0.0/12"
ROUTER = "router2"
BIRD = shutil.which("bird") or "/usr/sbin/bird"
AT_ONCE = 32
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def access(user: str = "admin") -> Access:
    """One of the lab's users, from this machine."""
    return Access(controlplane.HOST_SERVER, str(controlplane.PKI / "ca.crt"), "", "", f"Bearer lab-{user}", True)


def node_name(number: int) -> str:
    return f"n{number:04}"


def node_address(number: int) -> str:
    return f"10.78.{number >> 8}.{number & 255}"


async def in_parallel(work: Iterable[Coroutine[Any, Any, object]], most: int = AT_ONCE) -> None:
    """All of it, at most `most` at once. Raises what any of it raises."""
    waiting = iter(work)

    async def some() -> None:
        for one in waiting:
            await one

    async with asyncio.TaskGroup() as group:
        for _ in range(most):
            group.create_task(some())


def up() -> None:
    """Control plane and router, without any controller."""
    cluster.down()
    topology.create()
    _add_farm()
    controlplane.start_all(controllers=False)
    kubectl("apply", "-f", str(cluster.MANIFESTS / "rbac.yaml"))
    kubectl("apply", "--server-side", "-f", "-", stdin=cluster.installed_objects())
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    kubectl("create", "namespace", NAMESPACE)
    apply(
        {"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "BgpConf", "metadata": {"name": "default"},
         "spec": {"as": OUR_AS}},
        {"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "BgpPeer", "metadata": {"name": "bird"},
         "spec": {"conf": {"peerAs": ROUTER_AS, "neighborAddress": lan(ROUTER)[0]}}},
        {"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "Eip", "metadata": {"name": "bench"},
         "spec": {"address": POOL}},
        {"apiVersion": "porter-ha.io/v1", "kind": "Term", "metadata": {"name": TERM_NAME}, "spec": {"epoch": 0}},
    )  # fmt: skip
    routers.start_bird()


def down() -> None:
    cluster.down()


def _add_farm() -> None:
    batch([f"netns add {PREFIX}{FARM}"])
    batch([f"link add eth0 netns {PREFIX}{FARM} type veth peer name {FARM} netns {PREFIX}lan"])
    batch([f"link set {FARM} master br0 up"], "lan")
    lines = ["link set lo up", f"addr add {FARM_ADDRESS}/24 dev eth0", "link set eth0 up"]
    batch([*lines, f"route add local {FARM_NET} dev lo"], FARM)
    for node in NODES:
        batch([f"route add {FARM_NET} via {FARM_ADDRESS}"], node)
    batch([f"addr add {FARM_GATEWAY}/16 dev eth0"], ROUTER)  # next hops must be on a net of the router's
    redirect = f"tcp dport 30000-32767 redirect to :{HEALTH_PORT};"
    chain = f"chain health {{ type nat hook prerouting priority dstnat; {redirect} }}"
    inside(FARM, "nft", "-f", "-", stdin=f"table ip farm {{ {chain}; }}")
    start("farm", [str(PYTHON), "-m", "loadtest.farm", HEALTH_PORT], FARM)


def add_routers(count: int) -> None:
    """More routers for the manager on node1, each a BIRD at an address of its own, and the BgpPeers for them."""
    for i in range(count):
        address, name = f"10.79.0.{3 + i}", f"more{i}"
        batch([f"addr add {address}/24 dev eth0"], "router1")
        (STATE / f"{name}.conf").write_text(
            f'router id {address};\nprotocol device {{ }}\nprotocol direct {{ ipv4; interface "eth0"; }}\n'
            f"protocol bgp up {{ local {address} as {ROUTER_AS}; neighbor {lan('node1')[0]} as {OUR_AS}; passive on; "
            "strict bind on; ipv4 { import all; export none; add paths rx; }; }\n"
        )
        start(f"bird-{name}", [BIRD, "-f", "-c", f"{STATE}/{name}.conf", "-s", f"{STATE}/{name}.ctl"], "router1")
        conf = {"peerAs": ROUTER_AS, "neighborAddress": address}
        peer = {"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "BgpPeer", "metadata": {"name": name}}
        apply({**peer, "spec": {"conf": conf}})


def until_sessions(count: int) -> None:
    until(f"{count} sessions", lambda: cluster.sessions_up("node1", count), 240)  # a router may be busy for long


async def set_nodes(client: Client, count: int) -> None:
    """Make this many nodes, Ready, and remove those that were more."""
    numbers = range(1, count + 1)
    have = set(kubectl("get", "nodes", "-o", "name").split())

    async def make(number: int) -> None:
        name = node_name(number)
        if f"node/{name}" not in have:
            await client.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        status = {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": node_address(number)}],
        }
        await client.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=MERGE)

    async def remove(name: str) -> None:
        await client.request("DELETE", f"/api/v1/nodes/{name}")

    await in_parallel(make(number) for number in numbers)
    wanted = {f"node/{node_name(number)}" for number in numbers}
    await in_parallel(remove(name.removeprefix("node/")) for name in sorted(have - wanted))


# --- controllers -----------------------------------------------------------------------------------------------


def start_porter(replicas: int = 1, shards: int = 1) -> None:
    """Replicas of the manager; until one leads and all are connected."""
    for node in NODES[:replicas]:
        nodes.start_manager(node, shards)
    until("a leader", nodes.leader, 60)
    until("sessions", lambda: all(cluster.sessions_up(node, 1) for node in NODES[:replicas]), 60)


def start_bare(user: str) -> None:
    """The bare client that only writes statuses: the limit of this machine."""
    start("bare", [str(PYTHON), "-m", "loadtest.bare", user])


@contextlib.contextmanager
def controller(name: str, command: str = "", replicas: int = 1) -> Iterator[list[str]]:
    """`porter`, `bare`, `bare-fenced` (as our service account, whose writes the admission policy judges), or any other
    by its command (run in node1's namespace with KUBECONFIG set). Gives the names of its processes."""
    if name == "porter":
        start_porter(replicas)
        names = [f"{node}-manager" for node in NODES[:replicas]]
    elif name.startswith("bare"):
        start_bare("manager" if name == "bare-fenced" else "admin")
        names = ["bare"]
    else:
        start(name, shlex.split(command), "node1", {"KUBECONFIG": str(controlplane.kubeconfig("admin"))})
        names = [name]
    try:
        yield names
    finally:
        for one in names:
            stop(one, signal.SIGKILL)


# --- what processes cost ---------------------------------------------------------------------------------------


def pids(name: str) -> list[int]:
    """The processes of a daemon, without the wrapper that starts it again."""
    leader = int((RECORDS / name).read_text())
    found = session_pids(leader)
    return [pid for pid in found if "respawn" not in Path(f"/proc/{pid}/cmdline").read_text()]


def cpu_s(name: str, *, user: bool = False) -> float:
    """Processor time that a daemon's processes have used so far; with `user`, what they themselves have, not the kernel
    for them."""
    total = 0
    for pid in pids(name):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + (0 if user else int(fields[12]))
    return total / TICKS_PER_S


def exact_cpu_s(name: str) -> float:
    """As `cpu_s`, of the threads that live now, and by the scheduler's clock in place of ticks of 10 ms."""
    files = (file for pid in pids(name) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def cpu_of(names: Iterable[str], *, user: bool = False) -> float:
    """`cpu_s` of several daemons together."""
    return sum(cpu_s(name, user=user) for name in names)


async def idle_percent(names: Collection[str], seconds: float) -> tuple[float, float]:
    """(of a core, of that their own and not the kernel's) that daemons use while nothing happens."""
    whole, own = cpu_of(names), cpu_of(names, user=True)
    await asyncio.sleep(seconds)
    return (cpu_of(names) - whole) / seconds * 100, (cpu_of(names, user=True) - own) / seconds * 100


def memory_mb(pid: int) -> tuple[float, float]:
    """(proportional set size, resident set size) of a process: shared pages counted once, and counted whole."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, rest = line.partition(":")
        found[key] = int(rest.split()[0]) / 1024
    return found["Pss"], found["Rss"]


def process_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
