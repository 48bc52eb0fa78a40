"""The agent's corner of the kernel on real nodes: EIPs stop here, nothing of the node is opened, all others stay.

node1 and node3 run kube-proxy in nftables mode, node2 in iptables mode. The prober is the controlplane's namespace: it
is on the nodes' LAN and is given a route to each EIP over the one node that is tested.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import cluster, nodes, topology
from tests.lab.cluster import service, wait_addresses, wait_fib
from tests.lab.controlplane import apply
from tests.lab.shell import PREFIX, PYTHON, inside, until
from tests.lab.topology import NODES, lan

UNSERVED = 81
KUBELET = 10250


def probe(where: str, kind: str, address: str, port: int = 80) -> str:
    return inside(where, str(PYTHON), "-m", "tests.lab.probe", kind, address, str(port)).strip()


@pytest.fixture(scope="module")
def eips(lab: cluster.Pods) -> Iterator[dict[str, tuple[str, str]]]:
    """policy -> its IPv4 and IPv6 EIP, announced and served."""
    both = {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}
    apply(service("web", **both), service("web-local", "web", externalTrafficPolicy="Local", **both))
    four, six = wait_addresses("web", 2)
    local4, local6 = wait_addresses("web-local", 2)
    for eip in (four, six, local4, local6):
        wait_fib(eip, list(NODES))
        for node in NODES:
            until(
                f"{node} serves {eip}", lambda e=eip, n=node: via(n, e) and probe("controlplane", "tcp", e) == "served"
            )
    yield {"Cluster": (four, six), "Local": (local4, local6)}
    for name in ("web", "web-local"):
        cluster.kubectl("delete", "service", name)


def via(node: str, eip: str) -> bool:
    """Make the prober reach the EIP over this node alone."""
    v4, v6 = lan(node)
    topology.batch([f"{'-6 ' if ':' in eip else ''}route replace {eip} via {v6 if ':' in eip else v4}"], "controlplane")
    return True


@pytest.mark.parametrize("node", ["node1", "node2"], ids=["nftables", "iptables"])
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
class TestFromOutside:
    def test_served(self, eips, node, policy, family):
        via(node, eips[policy][family])
        for kind in ("tcp", "udp"):
            assert probe("controlplane", kind, eips[policy][family]) == "served", kind

    def test_ping_is_refused_at_once(self, eips, node, policy, family):
        via(node, eips[policy][family])
        assert probe("controlplane", "ping", eips[policy][family]) == "refused"

    @pytest.mark.parametrize("port", [UNSERVED, KUBELET], ids=["nobodys port", "a port of the node"])
    def test_refused_at_once(self, eips, node, policy, family, port):
        via(node, eips[policy][family])
        for kind in ("tcp", "udp"):
            assert probe("controlplane", kind, eips[policy][family], port) == "refused", kind


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
class TestFromTheNode:
    def test_host_processes_and_pods_reach_every_eip(self, eips, node, policy, family):
        eip = eips[policy][family]
        for where in (node, f"web-{node}"):
            assert probe(where, "tcp", eip) == "served", where
            assert probe(where, "tcp", eip, UNSERVED) == "refused", where
            assert probe(where, "udp", eip) == "served", where


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_a_connection_outlives_a_moment_on_the_wrong_node_and_is_reset_when_it_stays_there(eips, family):
    """What a router does whose next hops change one by one (docs/adr/0010)."""
    eip = eips["Local"][family]
    command = ["ip", "netns", "exec", f"{PREFIX}controlplane", str(PYTHON), "-m", "tests.lab.probe", "talk", eip, "80"]
    via("node1", eip)
    talk = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask() -> None:
        talk.stdin.write("\n")
        talk.stdin.flush()

    def answer() -> str:
        return talk.stdout.readline().strip()

    with talk:
        assert answer() == "open"
        ask()
        assert answer() == "served"
        via("node2", eip)
        ask()
        via("node1", eip)
        assert answer() == "served", "sent again, to its own node"
        via("node2", eip)
        ask()
        assert answer() == "refused", "a reset, not silence"


def test_the_node_itself_still_answers_on_its_own_address(eips):
    assert inside("controlplane", "bash", "-c", f"exec 3<>/dev/tcp/{lan('node1')[0]}/{KUBELET}") == ""


def crossings(eip: str) -> int:
    """How many packets to the EIP cross router1 when the client tries an unserved port once."""
    source = topology.client_source("router1")[0]
    table = f"table ip lab {{ chain f {{ type filter hook forward priority 0; ip daddr {eip} counter; }}; }}"
    inside("router1", "nft", "-f", "-", stdin=table)
    inside("client", "curl", "-s", "-m", "0.5", "--interface", source, f"http://{eip}:{UNSERVED}/", check=False)
    said = inside("router1", "nft", "-j", "list", "table", "ip", "lab")
    inside("router1", "nft", "delete", "table", "ip", "lab")
    rules = [item["rule"] for item in json.loads(said)["nftables"] if "rule" in item]
    return next(part["counter"]["packets"] for part in rules[0]["expr"] if "counter" in part)


def test_without_the_agent_an_unserved_port_loops_and_hosts_still_reach_eips_and_with_it_neither_changes(eips):
    eip = eips["Cluster"][0]
    assert crossings(eip) == 1
    for node in NODES:
        nodes.remove_agent(node)
    try:
        for node in NODES:
            assert probe(node, "tcp", eip) == "served", "before the agent starts"
            assert probe(f"web-{node}", "tcp", eips["Local"][1]) == "served"
        assert crossings(eip) > 10, "the packet bounces between router and node"
    finally:
        for node in NODES:
            nodes.start_agent(node)
        for node in NODES:
            until(f"the agent of {node}", lambda n=node: nodes.ready(n, nodes.AGENT_PORT).get("ready"))
    assert crossings(eip) == 1


def others(node: str) -> tuple[str, str, str]:
    """All that is not the agent's: routes, rules and nftables tables (but kube-proxy's, which lives on)."""
    routes = [
        r for r in inside(node, "ip", "route", "show", "table", "all").splitlines() if "table 4790 proto 79" not in r
    ]
    rules = [r for r in inside(node, "ip", "rule").splitlines() if "lookup 4790" not in r]
    tables = inside(node, "nft", "list", "table", "inet", "admins")
    return "\n".join(routes), "\n".join(rules), tables


def test_only_what_is_ours_is_touched_and_all_of_it_is_removed(eips):
    node, eip = "node3", eips["Cluster"][0]
    inside(
        node, "nft", "-f", "-", stdin="table inet admins { chain c { type filter hook input priority 5; accept; }; }"
    )
    topology.batch(
        ["route add 198.51.100.0/24 dev lo table 4790 proto 99", "route add 198.51.100.0/24 dev lo table 77"], node
    )
    topology.batch(["rule add to 198.51.100.0/24 lookup 77 priority 4791"], node)
    before = others(node)
    topology.batch(["route add local 10.250.0.1 dev lo table 4790 proto 79"], node)
    until(
        "the stray route of ours to be swept",
        lambda: "10.250.0.1" not in inside(node, "ip", "route", "show", "table", "4790"),
    )
    topology.batch([f"route del local {eip} table 4790"], node)
    until("the missing route to be put back", lambda: eip in inside(node, "ip", "route", "show", "table", "4790"))
    assert others(node) == before
    nodes.remove_agent(node)
    assert others(node) == before
    assert "proto 79" not in inside(node, "ip", "route", "show", "table", "all")
    assert "4790" not in inside(node, "ip", "rule").replace("4791", "")
    assert "porter-ha" not in inside(node, "nft", "list", "tables")
    topology.batch(["rule del priority 4791", "route flush table 77", "route flush table 4790"], node)
    inside(node, "nft", "delete", "table", "inet", "admins")
    nodes.start_agent(node)
    until("the agent", lambda: nodes.ready(node, nodes.AGENT_PORT).get("ready"))


def test_ipvs_makes_the_agent_step_aside_and_come_back(eips):
    node, eip = "node3", eips["Cluster"][0]
    table = lambda: inside(node, "ip", "route", "show", "table", "4790")  # noqa: E731
    topology.batch(["link add kube-ipvs0 type veth peer name ipvs-peer"], node)
    until("no route beside IPVS", lambda: eip not in table())
    assert eip not in inside(node, "nft", "list", "table", "inet", "porter-ha")
    topology.batch(["link del kube-ipvs0"], node)
    until("the route", lambda: eip in table())


def test_a_service_that_gains_and_loses_a_port(eips):
    apply(service("web", ports=[{"name": "other", "port": UNSERVED, "targetPort": 8080, "protocol": "TCP"}]))
    eip = eips["Cluster"][0]
    via("node1", eip)
    until("the new port", lambda: probe("controlplane", "tcp", eip, UNSERVED) == "served")
    apply(service("web", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"]))
    until("the old port back", lambda: probe("controlplane", "tcp", eip) == "served")
    until("the new port gone", lambda: probe("controlplane", "tcp", eip, UNSERVED) == "refused")
