"""The reasons to choose this: fast, fenced takeover; dead nodes noticed; nothing lost while the API server is away."""

import json
import os
import signal
import time

import pytest

from porter_ha.kube import status
from porter_ha.kube.client import MERGE, STRATEGIC
from tests.lab import cluster, controlplane, nodes, routers, topology
from tests.lab.cluster import addresses, service, settled, wait_addresses, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.drills import Outage
from tests.lab.shell import LabError, run, until
from tests.lab.topology import NODES, ROUTERS

pytestmark = pytest.mark.usefixtures("clean")
LONGER_THAN_THE_LEASE_S = 8.0


def lease() -> dict[str, object]:
    spec: dict[str, object] = get("lease", "-n", "porter-ha-system", "porter-ha-leader")["spec"]
    return spec


def test_a_crashed_leader_is_replaced_long_before_its_lease_ends(eip):
    old, med = nodes.leader(), routers.best_med(eip)
    began = time.monotonic()
    nodes.kill_manager(old)
    until("a better MED in BIRD", lambda: routers.best_med(eip) < med, 10, 0.02)
    replaced_s = time.monotonic() - began
    apply(service("during", "web"))
    wait_addresses("during")
    assigned_s = time.monotonic() - began
    lease_s = float(lease()["leaseDurationSeconds"])
    assert replaced_s < lease_s / 2, f"{replaced_s:.2f} s"
    assert assigned_s < lease_s * 0.7, f"{assigned_s:.2f} s: a process that is gone needs no waiting for its term's end"
    settled()
    assert addresses("web") == (eip,)


def test_a_frozen_leader_is_fenced(eip):
    """Frozen past its term, with a newer one acting: what it writes then is refused by the API server itself."""
    old, epoch = nodes.leader(), int(lease()["leaseTransitions"])
    pids = nodes.manager_pids(old)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        until("a newer term", lambda: int(get("term", "porter-ha")["spec"]["epoch"]) > epoch, 20)
        apply(service("during", "web"))
        wait_addresses("during")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    settled()
    everything = [i["ip"] for s in get("services")["items"] for i in s["status"]["loadBalancer"].get("ingress", [])]
    assert len(set(everything)) == len(everything)
    assert addresses("web") == (eip,)


def write_as(user: str, epoch: object) -> str:
    """What the API server answers to a status write of Service web by one of the lab's users."""
    body = {"metadata": {"annotations": {"porter-ha.io/epoch": epoch}}, "status": {"conditions": []}}
    return send_as(user, body, MERGE)


def send_as(user: str, body: object, content_type: str) -> str:
    command = ["curl", "-s", "--cacert", str(controlplane.PKI / "ca.crt"), "-X", "PATCH"]
    command += ["-H", f"Authorization: Bearer lab-{user}", "-H", f"Content-Type: {content_type}"]
    url = f"{controlplane.SERVER}/api/v1/namespaces/default/services/web/status"
    return cluster.inside("controlplane", *command, "-d", json.dumps(body), url)


def test_the_api_server_refuses_a_stale_term(eip):
    epoch = int(get("term", "porter-ha")["spec"]["epoch"])
    assert f"the term of epoch {epoch - 1} is over: the newest is {epoch}" in write_as("manager", str(epoch - 1))
    assert "missing or not a number" in write_as("manager", "seven")
    assert "porter-ha-fence" in write_as("manager", None)
    assert '"kind": "Service"' in write_as("manager", str(epoch))
    assert '"kind": "Service"' in write_as("admin", "0"), "other writers never match"
    with pytest.raises(LabError, match="a term cannot go back"):
        kubectl("patch", "term", "porter-ha", "--type=merge", "-p", json.dumps({"spec": {"epoch": epoch - 1}}))


def test_a_write_that_arrives_after_a_later_one_changes_nothing(eip):
    epoch, meta = int(get("term", "porter-ha")["spec"]["epoch"]), get("service", "web")["metadata"]
    late = status.service_assigned(meta["uid"], meta["resourceVersion"], epoch, ["10.99.99.99"])
    kubectl("annotate", "service", "web", "somebody=was-faster")
    assert "the object has been modified" in send_as("manager", late, STRATEGIC)
    assert addresses("web") == (eip,)


def test_a_deleted_term_blocks_nobody_and_is_put_back(eip):
    """Another controller's status write while there is no Term, and the fence again after it (docs/adr/0011)."""
    epoch = int(lease()["leaseTransitions"])
    kubectl("delete", "term", "porter-ha")
    assert '"kind": "Service"' in write_as("admin", "0")
    until("the Term again", lambda: int(get("term", "porter-ha")["spec"]["epoch"]) == epoch, 10)
    until("the fence again", lambda: "is over" in write_as("manager", str(epoch - 1)), 10)


def test_a_lost_lease_is_rebuilt_above_the_term(eip):
    """All replicas gone and the Lease deleted: the epoch still does not fall."""
    epoch = int(get("term", "porter-ha")["spec"]["epoch"])
    for node in NODES:
        cluster.stop(f"{node}-manager", signal.SIGKILL)
    kubectl("delete", "lease", "-n", "porter-ha-system", "porter-ha-leader")
    for router in ROUTERS:
        assert routers.node_names(routers.fib(router)[eip]) == list(NODES), "graceful restart keeps the routes"
    for node in NODES:
        nodes.start_manager(node)
    settled()
    assert int(get("term", "porter-ha")["spec"]["epoch"]) > epoch
    wait_fib(eip, list(NODES))
    assert addresses("web") == (eip,)


@pytest.mark.parametrize("whose", ["a standby's node", "the leader's node"])
def test_a_silent_node_leaves_before_the_api_notices_and_comes_back_when_it_serves(eip, whose):
    leader = nodes.leader()
    victim = leader if whose == "the leader's node" else next(n for n in NODES if n != leader)
    nodes.power_off(victim)
    try:
        wait_fib(eip, [n for n in NODES if n != victim], 5)
        conditions = {c["type"]: c["status"] for c in get("node", victim)["status"]["conditions"]}
        assert conditions["Ready"] == "True", "probes, and takeover where it was needed, were faster than the API"
    finally:
        nodes.power_on(victim)
    wait_fib(eip, list(NODES), 40)
    settled()


def test_a_kubelet_that_does_not_report_changes_nothing_on_a_node_that_lives(eip):
    """Its Ready condition becomes Unknown; the node answers our probes and stays a next hop (I4)."""
    victim = next(n for n in NODES if n != nodes.leader())
    cluster.stop(f"{victim}-kubelet", signal.SIGKILL)
    try:
        condition = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        patch = json.dumps({"status": {"conditions": [condition]}})
        kubectl("patch", "node", victim, "--subresource=status", "--type=strategic", "-p", patch)
        apply(service("marker", "web"))
        wait_fib(wait_addresses("marker")[0], list(NODES))
        wait_fib(eip, list(NODES), 1)
    finally:
        nodes.start_kubelet(victim)
    settled()


def test_half_of_the_network_silent_withdraws_nothing(eip):
    """Two of three nodes do not answer anybody's probes: the observers are wrong."""
    for node in ("node2", "node3"):
        rules = "icmp type echo-request drop; tcp dport 10250 drop;"
        table = f"table ip deaf {{ chain i {{ type filter hook input priority -300; {rules} }}; }}"
        cluster.inside(node, "nft", "-f", "-", stdin=table)
    try:
        until(
            "the silence to be noticed",
            lambda: any("porter_ha_nodes_silent 2.0" in nodes.endpoint(n, "/metrics") for n in NODES),
            10,
        )
        time.sleep(1.0)
        for router in ROUTERS:
            assert routers.node_names(routers.fib(router)[eip]) == list(NODES)
    finally:
        for node in ("node2", "node3"):
            cluster.inside(node, "nft", "delete", "table", "ip", "deaf")
    settled()


def test_an_api_outage_changes_nothing_and_a_node_that_dies_meanwhile_is_withdrawn(eip):
    sessions = routers.bird_sessions()
    victim = next(n for n in NODES if n != nodes.leader())
    try:
        with Outage():
            time.sleep(LONGER_THAN_THE_LEASE_S)
            for router in ROUTERS:
                assert routers.node_names(routers.fib(router)[eip]) == list(NODES)
            assert routers.bird_sessions() == sessions, "no session was lost"
            nodes.power_off(victim)
            wait_fib(eip, [n for n in NODES if n != victim], 5)
    finally:
        nodes.power_on(victim)
    settled()
    wait_fib(eip, list(NODES), 40)
    apply(service("after", "web"))
    wait_fib(wait_addresses("after")[0], list(NODES))


def test_a_leader_that_dies_in_an_api_outage_is_replaced_in_bgp(eip):
    old, med = nodes.leader(), routers.best_med(eip)
    with Outage():
        time.sleep(LONGER_THAN_THE_LEASE_S)
        nodes.kill_manager(old)
        until("a standby's paths are best", lambda: routers.best_med(eip) < med, 10, 0.05)
        for router in ROUTERS:
            assert routers.node_names(routers.fib(router)[eip]) == list(NODES)
    settled()
    wait_fib(eip, list(NODES))
    assert addresses("web") == (eip,)


def test_a_planned_stop_is_make_before_break(eip):
    """The successor announces first; then the one that stops withdraws, so nothing of it stays stale."""
    old = nodes.leader()
    parent = nodes.manager_pids(old)[0]
    ours = topology.lan(old)[0]
    os.kill(parent, signal.SIGTERM)
    until("another leader", lambda: nodes.leader() not in ("", old), 20)
    until("its paths withdrawn", lambda: f"from {ours}" not in routers.birdc(f"show route all for {eip}"), 20)
    until("its end", lambda: not os.path.exists(f"/proc/{parent}"), 20)
    settled()
    wait_fib(eip, list(NODES))


def test_metrics_say_who_is_fenced():
    settled()
    fenced = [n for n in NODES if "porter_ha_fenced 1.0" in nodes.endpoint(n, "/metrics")]
    assert fenced == [nodes.leader()]
    assert json.loads(nodes.endpoint(nodes.leader(), "/readyz"))["leading"]


def test_a_handover_that_is_asked_for(eip):
    """`porter-ha handover`: another leads, the one that led stays as a warm standby, and no route is lost."""
    settled()
    old = nodes.leader()
    said = run(nodes.PORTER, "handover", "--kubeconfig", str(controlplane.KUBECONFIG))
    assert said.startswith(f"handed over from porter-ha-manager-{old}"), said
    until("another leader", lambda: nodes.leader() not in ("", old), 20)
    pids = nodes.pids(old)
    settled()
    assert nodes.pids(old) == pids, "no process was restarted"
    wait_fib(eip, list(NODES))
