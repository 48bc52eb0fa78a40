"""The demo: what a user came for, shown on real parts, each line checked.

A step that is not so makes the whole demo fail; it goes on all the same, so that one run shows everything.
"""

import json
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.lab import cluster, nodes, routers
from tests.lab.cluster import addresses, fetch, service, wait_addresses, wait_fib
from tests.lab.controlplane import apply, kubectl
from tests.lab.flows import Flow
from tests.lab.shell import LabError, inside, until
from tests.lab.topology import NODES, ROUTERS

PAGES = 30
FLOW_S = 10.0


class Demo:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._pods = cluster.Pods()
        self._rows: list[tuple[str, bool, str]] = []
        self._started = time.monotonic()

    def run(self) -> bool:
        """Everything; returns whether all of it was so."""
        self._console.rule("[bold]Porter HA: the cluster in a box")
        cluster.up(self._say)
        steps = [
            ("Services get EIPs", self._assign),
            ("ECMP routes in both routers' kernels", self._ecmp),
            ("pages through every EIP and router", self._pages),
            ("a user-chosen address and pool", self._chosen),
            ("a bad Eip and a bad wish hurt nobody", self._bad),
            ("endpoints go: fewer next hops", self._endpoints),
            ("a peer changes; the other session stays", self._peer),
            ("unserved ports are refused, not looped", self._refused),
            ("leader killed under traffic", self._leader),
            ("worker processes killed under traffic", self._workers),
            ("a node dies and comes back", self._node),
        ]
        for title, step in steps:
            self._step(title, step)
        return self._summary()

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {text}")

    def _step(self, title: str, step: Callable[[], str]) -> None:
        self._say(f"[bold]{title}[/bold]")
        try:
            said, good = step(), True
        except LabError as error:
            said, good = str(error), False
        for line in said.splitlines():
            self._say(f"   {line}" if good else f"   [red]{line}[/red]")
        self._rows.append((title, good, said.splitlines()[-1] if said else ""))

    def _summary(self) -> bool:
        table = Table(title="What was shown")
        for column in ("step", "", "result"):
            table.add_column(column)
        for title, good, said in self._rows:
            table.add_row(title, "[green]yes[/green]" if good else "[red]NO[/red]", said)
        self._console.print(table)
        good = all(row[1] for row in self._rows)
        self._console.print(
            f"{'all as promised' if good else 'NOT all as promised'}, {time.monotonic() - self._started:.0f} s"
        )
        return good

    # -- steps

    def _assign(self) -> str:
        for node in NODES:
            self._pods.add(f"web-{node}", node, "web")
        apply(
            service("web"),
            service("web-class", "web", opt_in="class"),
            service("web-local", "web", externalTrafficPolicy="Local"),
            service("web-dual", "web", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"]),
        )
        for name, count in (("web", 1), ("web-class", 1), ("web-local", 1), ("web-dual", 2)):
            wait_addresses(name, count)
        shown = kubectl("get", "services", "-l", "component!=apiserver")
        return f"{shown.strip()}\n4 Services have their EIPs"

    def _eips(self) -> list[str]:
        return [eip for name in ("web", "web-class", "web-local", "web-dual") for eip in addresses(name)]

    def _ecmp(self) -> str:
        for eip in self._eips():
            wait_fib(eip, list(NODES))
        lines = [f"{r}: {inside(r, 'ip', 'route', 'show', self._eips()[0]).strip()}" for r in ROUTERS]
        return "\n".join([*lines, f"{len(self._eips())} EIPs via {len(NODES)} nodes in FRR's and BIRD's FIB"])

    def _pages(self) -> str:
        lines, total = [], 0
        for eip in self._eips():
            for router in ROUTERS:
                self._until_served(router, eip)
                got = fetch(router, eip, PAGES)
                if got["errors"] or len(got["served"]) < len(NODES):
                    raise LabError(f"{eip} through {router}: {got}")
                spread = ", ".join(f"{pod} {n}" for pod, n in sorted(got["served"].items()))
                lines.append(f"{eip:12} through {router}: {spread}")
                total += PAGES
        return "\n".join([*lines, f"{total} pages, 0 lost, every pod served"])

    def _until_served(self, router: str, eip: str) -> None:
        """kube-proxy programs its rules at its own pace after the status was written."""
        until(f"a page from {eip}", lambda: not fetch(router, eip, 3)["errors"], 20)

    def _chosen(self) -> str:
        apply(
            service("chosen-address", "web", loadBalancerIP="10.200.0.77"),
            service("chosen-pool", "web", annotations={"eip.openelb.kubesphere.io/v1alpha2": "pool-range"}),
        )
        address, pool = wait_addresses("chosen-address"), wait_addresses("chosen-pool")
        if address != ("10.200.0.77",) or not pool[0].startswith("10.201.0."):
            raise LabError(f"wanted 10.200.0.77 and one of pool-range, got {address} and {pool}")
        wait_fib(address[0], list(NODES))
        return f"loadBalancerIP gave {address[0]}, pool-range gave {pool[0]}"

    def _bad(self) -> str:
        apply(
            {
                "apiVersion": "network.kubesphere.io/v1alpha2",
                "kind": "Eip",
                "metadata": {"name": "bad"},
                "spec": {"address": "10.300.0.0/24"},
            },
            service("bad-wish", "web", loadBalancerIP="192.0.2.1"),
        )
        eip = cluster.wait_condition("eip", "bad", "Accepted")
        wish = cluster.wait_condition("service", "bad-wish", "porter-ha.io/Assigned")
        if eip[0] != "False" or wish[0] != "False" or len(addresses("web")) != 1:
            raise LabError(f"verdicts: {eip}, {wish}")
        kubectl("delete", "eip/bad", "service/bad-wish")
        return f"Eip bad: {eip[2]}\nService bad-wish: {wish[2]}"

    def _endpoints(self) -> str:
        eip = addresses("web-local")[0]
        self._pods.set_ready("web-node2", False)
        wait_fib(eip, ["node1", "node3"])
        self._pods.set_ready("web-node2", True)
        wait_fib(eip, list(NODES))
        return f"{eip} (Local): 3 next hops, 2 while web-node2 was not ready, 3 again"

    def _peer(self) -> str:
        before = until("BIRD's sessions", lambda: s if len(s := routers.bird_sessions()) == len(NODES) else {}, 30)
        patch = '{"spec":{"timers":{"config":{"holdTime":"60"}}}}'
        kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", patch)
        until(
            "FRR's session with the new hold time", lambda: '"bgpTimerHoldTimeMsecs":60000' in self._frr_neighbors(), 20
        )
        after = routers.bird_sessions()
        if before != after:
            raise LabError(f"BIRD's sessions changed: {before}, then {after}")
        wait_fib(addresses("web")[0], list(NODES))
        return "FRR's session came back with hold time 60 s; BIRD's sessions stayed up"

    @staticmethod
    def _frr_neighbors() -> str:
        return routers.vtysh("show bgp neighbors json").replace(" ", "")

    def _refused(self) -> str:
        eip = addresses("web")[0]
        chain = f"type filter hook forward priority 0; ip daddr {eip} counter;"
        counter = f"table ip lab {{ chain f {{ {chain} }}; }}"
        inside("router1", "nft", "-f", "-", stdin=counter)
        got = fetch("router1", eip, 5, port=81)
        said = inside("router1", "nft", "-j", "list", "table", "ip", "lab")
        inside("router1", "nft", "delete", "table", "ip", "lab")
        crossed = next(
            part["counter"]["packets"]
            for item in json.loads(said)["nftables"]
            for part in item.get("rule", {}).get("expr", [])
            if "counter" in part
        )
        if got["errors"] != {"ConnectionRefusedError": 5} or crossed != 5:
            raise LabError(f"5 attempts on port 81: {got}, {crossed} packets crossed the router")
        return f"5 attempts on port 81: 5 refused at once, {crossed} packets crossed the router"

    def _under_traffic(self, seconds: float, act: Callable[[], str]) -> str:
        eip = addresses("web")[0]
        flows = [Flow(router, eip, seconds) for router in ROUTERS]
        time.sleep(1.0)  # part of the traffic is before the fault
        try:
            said = act()
        finally:
            results = [flow.result() for flow in flows]
        kinds = ("pages", "pages_lost", "pages_slow", "packets", "packets_lost")
        pages, pages_lost, slow, packets, packets_lost = (sum(r[k] for r in results) for k in kinds)
        counts = f"{pages} connections, {pages_lost} lost; {packets} packets, {packets_lost} lost"
        if pages_lost or packets_lost or slow:
            when = [r["lost_at"][:20] for r in results]
            raise LabError(f"{said}: {counts}, {slow} connections needed a retransmission; lost at (s): {when}")
        return f"{said}: {counts}"

    def _leader(self) -> str:
        before = {name: addresses(name) for name in ("web", "web-class", "web-local", "web-dual", "chosen-pool")}

        def kill() -> str:
            old, med = nodes.leader(), routers.best_med(addresses("web")[0])
            began = time.monotonic()
            nodes.kill_manager(old)
            until("a better MED in BIRD", lambda: routers.best_med(addresses("web")[0]) < med, 30, 0.01)
            heard = time.monotonic() - began
            new = until("another leader", lambda: nodes.leader() not in ("", old) and nodes.leader(), 30)
            took = time.monotonic() - began
            apply(service("after-failover", "web"))
            wait_addresses("after-failover")
            return f"from {old} to {new}: routers hear it after {heard:.1f} s, new Services after {took:.1f} s"

        said = self._under_traffic(FLOW_S + 4, kill)
        after = {name: addresses(name) for name in before}
        if before != after:
            raise LabError(f"EIPs changed: {before} {after}")
        return f"{said}; 0 EIPs changed"

    def _workers(self) -> str:
        def kill() -> str:
            leader = nodes.leader()
            pids = nodes.pids(leader)
            for name, pid in pids.items():
                inside(leader, "kill", "-9", str(pid))
                self._say(f"   killed {name} of {leader}")

            def healed() -> bool:
                now = nodes.pids(leader)
                fresh = all(now.get(name, 0) not in (0, pid) for name, pid in pids.items())
                return fresh and nodes.ready(leader).get("ready") is True and cluster.sessions_up(leader)

            until("new workers with sessions", healed, 30)
            return f"{len(pids)} workers of the leader killed and replaced"

        return self._under_traffic(FLOW_S, kill)

    def _node(self) -> str:
        eip, local = addresses("web")[0], addresses("web-local")[0]
        victim = next(node for node in NODES if node != nodes.leader())
        rest = [node for node in NODES if node != victim]
        began = time.monotonic()
        nodes.power_off(victim)
        wait_fib(eip, rest, 40)
        wait_fib(local, rest, 40)
        took = time.monotonic() - began
        # Local: kube-proxy still sends a Cluster EIP's connections to the dead node's pod until the API says NotReady.
        if fetch("router1", local, PAGES)["errors"]:
            raise LabError(f"pages lost after {victim} was withdrawn")
        nodes.power_on(victim)
        wait_fib(eip, list(NODES), 40)
        withdrawn = f"{victim} off: withdrawn from both routers after {took:.1f} s"
        return f"{withdrawn}, then {PAGES} pages, 0 lost; on: a next hop again"
