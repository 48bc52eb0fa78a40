"""A simulated cluster: nodes, routers, an API server, manager replicas, and the users and controllers around them.

Nothing here decides for Porter HA. It only does what kubelets, kube-proxies, agents, the node controller and users
do, and gives the faults something to break.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from porter_ha.config import ManagerSettings
from porter_ha.manager.replica import Replica
from porter_ha.manager.reporter import Reporter
from porter_ha.model import names
from porter_ha.model.access import Access
from porter_ha.testing.apiserver import Apiserver, Object
from porter_ha.testing.client import Control, SimulatedClient
from porter_ha.testing.host import SimulatedHost
from porter_ha.testing.loop import Phase, Process, SimulatedLoop
from porter_ha.testing.network import Machine, Network
from porter_ha.testing.router import Router

NAMESPACE = "porter-ha-system"
MANAGERS = 3
MANAGER_USER = "porter-ha"
NOT_READY_S = 8.0  # sooner than the 40 s of a real cluster: a run is short
POD_GRACE_S = 12.0
AGENT_PORT, PROXY_PORT = 7473, 10256
POOL, TINY_POOL = "203.0.113.0/28", "198.51.100.8-198.51.100.9"


class Node:
    """A node: whether its parts serve, and since when. `died_at` is when its power went last, `mourners` are the
    replicas that can know of it."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self.machine = name, machine
        self.agent = self.proxy = self.reporting = True
        self.cores = 2
        self.died_at = float("-inf")
        self.well_since = 0.0
        self.boots = 0
        self.mourners: list[Manager] = []

    @property
    def serving(self) -> bool:
        return self.machine.on and self.agent and self.proxy


class Manager:
    """A manager replica's process and its parts, while it runs."""

    def __init__(self, process: Process, replica: Replica, stop: asyncio.Event, children: dict[str, Process]) -> None:
        self.process, self.replica, self.stop, self.children = process, replica, stop, children

    @property
    def processes(self) -> list[Process]:
        return [self.process, *self.children.values()]

    @property
    def acting(self) -> bool:
        return self.process.phase is not Phase.DEAD and bool(self.replica.leadership.acting_epoch)


class World:
    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self.loop, self.random = loop, random
        self.network = Network(Random(random.random()))
        self.api = Apiserver(Random(random.random()), streaming=random.random() < 0.7, fenced=random.random() < 0.9)
        self.control = Control(self.api, self.network.machine("apiserver", "10.0.0.1"), Random(random.random()))
        self.api.later = lambda delay, do: loop.call_later(delay, do)
        self.nodes: dict[str, Node] = {}
        self.by_address: dict[str, Node] = {}
        self.managers: dict[str, Manager] = {}
        self.endpoints: dict[str, set[str]] = {}
        self.served_until: dict[tuple[str, str], float] = {}
        self.moved_at: dict[str, float] = {}
        self.trace: list[str] = []
        self.on_node: list[Callable[[Node], None]] = []
        self.standby = "hot" if random.random() < 0.15 else "warm"
        self._starts = 0
        self._made = 0
        for i in range(random.choice((3, 4, 5))):
            self._add_node(f"node{i + 1}", f"10.1.0.{i + 1}")
        self.routers = [self._router(i) for i in (1, 2)]
        self._add_settings()

    # -- making it

    def _add_node(self, name: str, address: str) -> None:
        node = Node(name, self.network.machine(name, address))
        self.nodes[name] = self.by_address[address] = node
        addresses = [{"type": "InternalIP", "address": address}]
        ready = [{"type": "Ready", "status": "True"}]
        self.api.create("nodes", {"metadata": {"name": name}, "status": {"addresses": addresses, "conditions": ready}})

    def _router(self, number: int) -> Router:
        machine = self.network.machine(f"router{number}", f"10.2.0.{number}")
        frr = number == 1
        return Router(
            self.network,
            machine,
            65010,
            Random(self.random.random()),
            notification_bit=frr,
            fib_s=0.06 if frr else 0.005,
        )

    def _add_settings(self) -> None:
        create = self.api.create
        for name in ("default", NAMESPACE):
            create("namespaces", {"metadata": {"name": name}})
        create("terms", {"metadata": {"name": names.TERM_NAME}, "spec": {"epoch": 0}})
        create("bgpconfs", {"metadata": {"name": names.BGP_CONF_NAME}, "spec": {"as": 65001}})
        for router in self.routers:
            conf = {"neighborAddress": router.machine.address, "peerAs": router.as_}
            create("bgppeers", {"metadata": {"name": router.machine.name}, "spec": {"conf": conf}})
        default = {names.DEFAULT_EIP_ANNOTATION: "true"}
        create("eips", {"metadata": {"name": "pool", "annotations": default}, "spec": {"address": POOL}})
        create("eips", {"metadata": {"name": "tiny"}, "spec": {"address": TINY_POOL}})
        # what must hurt nobody else (I9)
        create("eips", {"metadata": {"name": "broken"}, "spec": {"address": "203.0.113.300"}})
        wrong = {"conf": {"neighborAddress": "router", "peerAs": 1}}
        create("bgppeers", {"metadata": {"name": "broken"}, "spec": wrong})
        create("services", {"metadata": {"name": "odd", "namespace": "default"}, "spec": {"type": 7}})

    # -- managers

    @property
    def manager_nodes(self) -> list[Node]:
        return list(self.nodes.values())[:MANAGERS]

    def start_manager(self, node: Node) -> None:
        if not node.machine.on:
            return
        self._starts += 1
        process = Process(f"manager {node.name}")
        settings = ManagerSettings(
            identity=f"{node.name}-{self._starts}",
            node=node.name,
            addresses=(node.machine.address,),
            namespace=NAMESPACE,
            standby=self.standby,
        )
        children: dict[str, Process] = {}

        def client(owner: Process) -> SimulatedClient:
            return SimulatedClient(self.network, node.machine, owner, self.control, f"{MANAGER_USER}@{node.name}")

        host = SimulatedHost(
            self.network,
            node.machine,
            process,
            client=client,
            healthy=self._healthy,
            clock=(1000.0 * self._starts + node.boots, self.random.uniform(0.9995, 1.0005)),
            children=children,
            cores=lambda: node.cores,
        )
        task = process.start(self._run_manager(node, process, settings, host, client(process), children))
        task.add_done_callback(lambda t: self._manager_ended(process, t))

    async def _run_manager(
        self,
        node: Node,
        process: Process,
        settings: ManagerSettings,
        host: SimulatedHost,
        client: SimulatedClient,
        children: dict[str, Process],
    ) -> None:
        stop = asyncio.Event()
        replica = Replica(settings, host, client, Access("simulated", "", "", "", "", True))
        self.managers[node.name] = Manager(process, replica, stop, children)
        reporter = asyncio.create_task(Reporter(replica, client).run())
        await replica.run(stop)
        reporter.cancel()

    def _manager_ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        process.kill()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.failures.append(f"{process.name} ended with {error!r}")

    def leader(self) -> Manager | None:
        acting = [m for m in self.managers.values() if m.acting and m.process.phase is Phase.RUNNING]
        return max(acting, key=lambda m: m.replica.leadership.acting_epoch, default=None)

    def alive(self, manager: Manager) -> bool:
        return manager.process.phase is not Phase.DEAD

    # -- nodes

    def _healthy(self, address: str, port: int, path: str) -> bool:
        node = self.by_address[address]
        return node.machine.on and (node.agent if port == AGENT_PORT else node.proxy)

    def power_off(self, node: Node) -> None:
        node.machine.on = False  # first: a kernel without power closes no connections
        node.died_at = self.loop.time()
        manager = self.managers.get(node.name)
        node.mourners = [m for m in self.managers.values() if m is not manager and m.replica.leadership.warm]
        if manager is not None:
            for process in manager.processes:
                process.kill()
        node.agent = node.proxy = node.reporting = False
        self._node_changed(node)
        self.loop.call_later(NOT_READY_S, self._not_ready, node, node.boots)

    def _not_ready(self, node: Node, boots: int) -> None:
        """The node controller has waited long enough."""
        if not node.reporting and node.boots == boots:
            self.set_ready(node, "Unknown")
            self._when_up(self._write_slices)

    def _write_slices(self) -> None:
        for key in self.endpoints:
            self.write_slice(key)

    def power_on(self, node: Node) -> None:
        node.boots += 1
        node.machine.on = True
        self.network.changed()
        later, uniform = self.loop.call_later, self.random.uniform
        later(uniform(0.1, 1.0), self._report, node, node.boots)
        later(uniform(0.5, 2.5), self._part_up, node, "agent", node.boots)
        later(uniform(0.5, 2.5), self._part_up, node, "proxy", node.boots)
        if node in self.manager_nodes:
            later(uniform(0.3, 2.0), self.start_manager, node)

    def _part_up(self, node: Node, part: str, boots: int) -> None:
        if node.machine.on and node.boots == boots:
            setattr(node, part, True)
            self._node_changed(node)
            if node.serving:
                self._when_up(self._write_slices)

    def _report(self, node: Node, boots: int) -> None:
        if node.machine.on and node.boots == boots:
            node.reporting = True
            self.set_ready(node, "True")

    def kubelet(self, node: Node, reporting: bool) -> None:
        """A kubelet that freezes or goes on; the node serves as before."""
        node.reporting = reporting
        if reporting:
            self._report(node, node.boots)
        else:
            self.loop.call_later(NOT_READY_S / 4, self._silent_kubelet, node, node.boots)

    def _silent_kubelet(self, node: Node, boots: int) -> None:
        if not node.reporting and node.boots == boots and node.machine.on:
            self.set_ready(node, "Unknown")

    def _node_changed(self, node: Node) -> None:
        node.well_since = self.loop.time() if node.serving else float("inf")
        for hear in self.on_node:
            hear(node)

    def set_ready(self, node: Node, status: str) -> None:
        conditions = [{"type": "Ready", "status": status}]
        change = {"status": {"conditions": conditions}}
        self._when_up(lambda: self.api.change("nodes", ("", node.name), change))

    def _when_up(self, do: Callable[[], object]) -> None:
        """Kubelets and controllers try until the API server answers."""
        if self.control.up:
            do()
        else:
            self.loop.call_later(0.1, self._when_up, do)

    def drain(self, node: Node, asked: bool) -> None:
        value = {names.DRAIN_NODE_ANNOTATION: "true" if asked else None}
        self.api.change("nodes", ("", node.name), {"metadata": {"annotations": value}})
        node.well_since = self.loop.time()  # replicas hear of it one after another

    # -- Services

    def create_service(self, *, local: bool, nodes: set[str], pool: str = "", deleted: str = "") -> str:
        self._made += 1
        name = f"s{self._made}"
        annotations = {names.OPT_IN_ANNOTATION: names.OPT_IN_VALUES[0]}
        if pool:
            annotations[names.WANTED_POOL_ANNOTATION] = pool
        spec = {
            "type": "LoadBalancer",
            "ipFamilies": ["IPv4"],
            "externalTrafficPolicy": "Local" if local else "Cluster",
            "ports": [{"port": 80}],
        }
        meta = {"name": name, "namespace": "default", "annotations": annotations}
        key = f"default/{name}"
        self.endpoints[key] = set()
        self.api.create("services", {"metadata": meta, "spec": spec})
        self.set_endpoints(key, nodes)
        return key

    def delete_service(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        self.endpoints.pop(key)
        self.api.delete("services", (namespace, name))
        self.api.delete("endpointslices", (namespace, f"{name}-1"))

    def set_endpoints(self, key: str, nodes: set[str]) -> None:
        """Pods on exactly these nodes; those that leave serve for their grace period."""
        for name in self.endpoints[key] - nodes:
            self.served_until[key, name] = self.loop.time() + POD_GRACE_S
        self.endpoints[key] = set(nodes)
        self.moved_at[key] = self.loop.time()
        self.write_slice(key)

    def write_slice(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        endpoints: list[Object] = []
        for node in sorted(self.endpoints[key]):
            ready = self.api.table("nodes")["", node]["status"]["conditions"][0]["status"] == "True"
            endpoints.append({"nodeName": node, "conditions": {"ready": ready or self.nodes[node].serving}})
        labels = {names.SLICE_SERVICE_LABEL: name}
        meta = {"name": f"{name}-1", "namespace": namespace, "labels": labels}
        body: Object = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints}
        if (namespace, f"{name}-1") in self.api.table("endpointslices"):
            self.api.change("endpointslices", (namespace, f"{name}-1"), body)
        else:
            self.api.create("endpointslices", body)

    def recorded(self) -> dict[str, str]:
        """EIP -> the key of the Service whose status shows it, of those that still ask for one."""
        found = {}
        for (namespace, name), service in self.api.table("services").items():
            key = f"{namespace}/{name}"
            if key in self.endpoints:
                for entry in service.get("status", {}).get("loadBalancer", {}).get("ingress", []):
                    found[entry["ip"]] = key
        return found

    def serves(self, node: Node, key: str) -> bool:
        """Whether a packet for the Service that arrives at the node reaches a pod."""
        if not node.serving or key not in self.endpoints:
            return False
        service = self.service(key)
        if service["spec"]["externalTrafficPolicy"] == "Cluster":
            return any(self.nodes[n].serving for n in self.endpoints[key])
        leaving = self.served_until.get((key, node.name), float("-inf"))
        return node.name in self.endpoints[key] or self.loop.time() < leaving

    def carries(self, node: Node, key: str) -> bool:
        """Whether the node serves the Service, and not only its last connections."""
        local = self.serves(node, key) and self.service(key)["spec"]["externalTrafficPolicy"] == "Local"
        return node.name in self.endpoints[key] if local else self.serves(node, key)

    def service(self, key: str) -> dict[str, Any]:
        namespace, _, name = key.partition("/")
        return self.api.table("services")[namespace, name]

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():9.3f}  {text}")
