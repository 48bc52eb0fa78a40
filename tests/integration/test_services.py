"""Services get, keep and give back EIPs, on a real API server, down to the routers' kernels."""

import json
import os
import signal
import subprocess

import pytest

from porter_ha.manager import joining
from porter_ha.model.names import SLICE_SERVICE_LABEL
from tests.lab import cluster, controlplane, nodes, routers
from tests.lab.cluster import addresses, fetch, service, settled, wait_addresses, wait_condition, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.shell import PIDS, LabError, inside, run, session_pids, until
from tests.lab.topology import NODES, ROUTERS, client_source, lan

pytestmark = pytest.mark.usefixtures("clean")


def events(name: str, reason: str) -> list[str]:
    uid = get("service", name)["metadata"]["uid"]
    found = get("events", "--field-selector", f"involvedObject.uid={uid},reason={reason}")["items"]
    return [e["message"] for e in found]


def gone_from_fib(eip: str) -> bool:
    """Raises LabError with all that a router knows of the EIP while it has it."""
    for router in ROUTERS:
        if eip in routers.fib(router):
            raise LabError(f"{router} has it: {routers.told(router, eip)}")
    return True


@pytest.mark.parametrize("opt_in", ["annotation", "class"])
def test_a_service_is_served_by_exactly_the_eligible_nodes(opt_in):
    apply(service("web", opt_in=opt_in))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    until("a page through both routers", lambda: not any(cluster.fetch(r, eip, 3)["errors"] for r in ROUTERS))
    until("the event", lambda: len(events("web", "Assigned")) == 1)


def test_openelbs_spelling_of_the_annotation():
    apply(service("web", opt_in="", annotations={"lb.kubesphere.io/v1alpha1": "openelb"}))
    wait_addresses("web")


def test_a_service_that_does_not_ask_gets_nothing_and_one_that_asks_later_does():
    apply(service("web", opt_in=""), service("marker"))
    wait_addresses("marker")
    assert addresses("web") == ()
    kubectl("annotate", "service", "web", "lb.kubesphere.io/v1alpha1=porter")
    wait_addresses("web")


def test_dual_stack_gets_one_of_each():
    apply(service("web", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"]))
    six, four = wait_addresses("web", 2)
    assert six.startswith("fd00:200::")
    for eip in (six, four):
        wait_fib(eip, list(NODES))
    until("pages", lambda: not any(cluster.fetch(r, eip, 3)["errors"] for r in ROUTERS for eip in (six, four)))


def test_wanted_addresses_and_pools():
    by_pool = {"eip.openelb.kubesphere.io/v1alpha2": "pool-range"}
    by_annotation = {"eip.porter.kubesphere.io/v1alpha1": "10.200.0.51"}
    apply(
        service("by-field", loadBalancerIP="10.200.0.50"),
        service("by-annotation", annotations=by_annotation),
        service("by-pool", annotations=by_pool),
    )
    assert wait_addresses("by-field") == ("10.200.0.50",)
    assert wait_addresses("by-annotation") == ("10.200.0.51",)
    assert wait_addresses("by-pool")[0].startswith("10.201.0.1")


def test_an_address_that_is_taken_is_waited_for_and_given_when_free():
    apply(service("first", loadBalancerIP="10.200.0.60"))
    wait_addresses("first")
    apply(service("second", loadBalancerIP="10.200.0.60"))
    status, reason, message = wait_condition("service", "second", "porter-ha.io/Assigned")
    assert (status, reason) == ("False", "AddressInUse")
    assert "default/first" in message
    until("the event", lambda: events("second", "AddressInUse") == [message])
    kubectl("delete", "service", "first")
    assert wait_addresses("second") == ("10.200.0.60",)
    assert wait_condition("service", "second", "porter-ha.io/Assigned")[0] == "True"


def pool(name: str, **spec: object) -> dict[str, object]:
    meta = {"name": name, "labels": {"test": ""}}
    return {"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "Eip", "metadata": meta, "spec": spec}


def test_pools_of_several_ranges_for_some_services_only():
    gold = {"matchLabels": {"tier": "gold"}}
    apply(
        pool("gold", address="10.203.0.5,10.203.1.8/31", serviceSelector=gold, allocationOrder="Descending"),
        pool("named-only", address="10.204.0.0/30", autoAssign=False),
    )
    until("both pools", lambda: all(get("eip", n).get("status", {}).get("ready") for n in ("gold", "named-only")))
    apply(service("plain"), service("asks", annotations={"eip.openelb.kubesphere.io/v1alpha2": "named-only"}))
    for i in range(3):
        apply(service(f"gold-{i}", labels={"tier": "gold"}))
        wait_addresses(f"gold-{i}")
    assert [addresses(f"gold-{i}") for i in range(3)] == [("10.203.1.9",), ("10.203.1.8",), ("10.203.0.5",)]
    assert wait_addresses("asks") == ("10.204.0.0",)
    assert wait_addresses("plain")[0].startswith("10.200."), "neither of the two is for everybody"
    until("usage", lambda: get("eip", "gold")["status"]["usage"] == 3)
    status = get("eip", "gold")["status"]
    assert (status["poolSize"], status["firstIP"], status["lastIP"]) == (3, "10.203.0.5", "10.203.1.9")


def test_a_full_pool_serves_the_waiting_as_soon_as_it_grows():
    eip = pool("tiny", address="10.202.0.1")
    wish = {"eip.openelb.kubesphere.io/v1alpha2": "tiny"}
    apply(eip, service("one", annotations=wish))
    first = wait_addresses("one")
    apply(service("two", annotations=wish))
    assert wait_condition("service", "two", "porter-ha.io/Assigned")[1] == "PoolExhausted"
    apply({**eip, "spec": {"address": "10.202.0.1-10.202.0.2"}})
    assert wait_addresses("two") == ("10.202.0.2",)
    assert addresses("one") == first, "the pool's edit moved nobody"
    kubectl("delete", "eip", "tiny")
    apply(service("marker"))
    wait_addresses("marker")
    assert addresses("one") == first, "nor did its deletion"


@pytest.mark.parametrize(
    "change",
    [
        '{"spec":{"type":"ClusterIP","allocateLoadBalancerNodePorts":null,"externalTrafficPolicy":null}}',
        '{"metadata":{"annotations":{"lb.kubesphere.io/v1alpha1":"someone-else"}}}',
    ],
    ids=["type", "opt-in"],
)
def test_leaving_withdraws_and_clears_and_frees(change):
    apply(service("web"))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    kubectl("patch", "service", "web", "--type=merge", "-p", change)
    until("the withdrawal", lambda: gone_from_fib(eip))
    until("an empty status", lambda: addresses("web") == ())
    apply(service("heir", loadBalancerIP=eip))
    assert wait_addresses("heir") == (eip,)


def test_deletion_withdraws():
    apply(service("web"))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    kubectl("delete", "service", "web")
    until("the withdrawal", lambda: gone_from_fib(eip))


def test_local_follows_readiness_and_none_ready_withdraws(lab):
    apply(service("web", externalTrafficPolicy="Local"), service("cluster", "web"))
    (local,), (everywhere,) = wait_addresses("web"), wait_addresses("cluster")
    wait_fib(local, list(NODES))
    lab.set_ready("web-node1", False)
    wait_fib(local, ["node2", "node3"])
    wait_fib(everywhere, list(NODES))
    lab.set_ready("web-node2", False)
    lab.set_ready("web-node3", False)
    wait_fib(local, [])
    wait_fib(everywhere, [])
    for node in NODES:
        lab.set_ready(f"web-{node}", True)
    wait_fib(local, list(NODES))
    wait_fib(everywhere, list(NODES))


def test_a_node_joins_a_local_eip_once_its_kube_proxy_serves_it(lab):
    """kube-proxy of node2 stands still while its endpoint becomes ready: what came to it would be dropped."""
    apply(service("web", externalTrafficPolicy="Local"))
    (local,) = wait_addresses("web")
    lab.set_ready("web-node2", False)
    wait_fib(local, ["node1", "node3"])
    port = get("service", "web")["spec"]["healthCheckNodePort"]
    serves = ["curl", "-s", "-m", "1", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/"]
    until("kube-proxy to have taken it out", lambda: inside("node2", *serves) == "503", 10)
    frozen = session_pids(int((PIDS / "node2-kube-proxy").read_text()))
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        lab.set_ready("web-node2", True)
        slices = ["get", "endpointslices", "-o", "json", "-l", f"{SLICE_SERVICE_LABEL}=web"]
        until("the endpoint", lambda: '"ready": false' not in kubectl(*slices))
        with pytest.raises(LabError, match="node2"):
            wait_fib(local, list(NODES), joining.PATIENCE_S / 2)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    wait_fib(local, list(NODES), 10)


def test_local_keeps_the_clients_address():
    apply(service("web", externalTrafficPolicy="Local"))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    source = cluster.client_source("router1")[0]
    said = lambda: cluster.inside("client", "curl", "-s", "-m", "2", "--interface", source, f"http://{eip}/")  # noqa: E731
    until("a page that names the client", lambda: source in said())


@pytest.mark.parametrize(
    ("mark", "unmark"),
    [
        (("label", "node", "node2", "node.kubernetes.io/exclude-from-external-load-balancers="),
         ("label", "node", "node2", "node.kubernetes.io/exclude-from-external-load-balancers-")),
        (("annotate", "node", "node2", "porter-ha.io/drain="), ("annotate", "node", "node2", "porter-ha.io/drain-")),
    ],
    ids=["excluded", "drained"],
)  # fmt: skip
def test_a_node_that_may_not_be_a_next_hop(mark, unmark):
    apply(service("web"))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    kubectl(*mark)
    wait_fib(eip, ["node1", "node3"])
    kubectl(*unmark)
    wait_fib(eip, list(NODES))


def test_a_service_is_explained():
    def why(name: str) -> str:
        return run(nodes.PORTER, "why", f"default/{name}", "--kubeconfig", str(controlplane.KUBECONFIG))

    apply(service("web"), service("asks", loadBalancerIP="10.99.0.1"), service("other", opt_in=""))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    until("sessions in status", lambda: why("web").count("ESTABLISHED") == len(NODES) * len(ROUTERS))
    kubectl("label", "node", "node2", "node.kubernetes.io/exclude-from-external-load-balancers=")
    try:
        said = why("web")
    finally:
        kubectl("label", "node", "node2", "node.kubernetes.io/exclude-from-external-load-balancers-")
    assert f"EIP {eip} of Eip " in said
    assert f"via node1 ({lan('node1')[0]})" in said
    assert "not via node2: NodeExcluded" in said
    assert "waits: AddressNotInPool" in why("asks")
    assert "annotate it lb.kubesphere.io/v1alpha1=porter" in why("other")


def test_the_command_line_shows_everything_and_drains_a_node():
    """`kubectl porter`, as users call it."""

    def porter(*words: str) -> str:
        return run(nodes.PLUGIN, *words, "--kubeconfig", str(controlplane.KUBECONFIG))

    apply(service("web"), service("asks", loadBalancerIP="10.99.0.1"))
    (eip,) = wait_addresses("web")
    settled()
    until("sessions in status", lambda: porter("peers").count("ESTABLISHED") == len(NODES) * len(ROUTERS))
    said = porter("status")
    assert f"leader    porter-ha-manager-{nodes.leader()}" in said
    assert "router1-frr (10.79.0.1): 3 of 3 replicas have a session" in said
    assert "default/asks waits: AddressNotInPool" in said
    assert f"{eip}  default/web  via node1, node2, node3" in porter("routes")
    assert json.loads(porter("status", "-o", "json"))["nodes"] == len(NODES)
    porter("drain", "node2")
    try:
        wait_fib(eip, ["node1", "node3"])
        assert "node2: NodeDraining" in porter("status")
    finally:
        porter("undrain", "node2")
    wait_fib(eip, list(NODES))


def test_top_draws_every_change_and_a_check_says_what_is_wrong(tmp_path):
    settled()
    command = [nodes.PLUGIN, "top", "--for", "8", "--kubeconfig", str(controlplane.KUBECONFIG)]
    with (tmp_path / "top").open("w+") as screens, subprocess.Popen(command, stdout=screens) as top:
        drawn = (tmp_path / "top").read_text
        until("the first screen", lambda: "0 of 0 have what they ask for" in drawn(), 8)
        apply(service("web"))
        until("another one", lambda: "1 of 1 have what they ask for" in drawn(), 8)
        assert top.wait(20) == 0
    status = [nodes.PLUGIN, "status", "--check", "--kubeconfig", str(controlplane.KUBECONFIG)]
    until("a whole installation", lambda: subprocess.run(status, capture_output=True, check=False).returncode == 0)
    conf = {"peerAs": 65010, "neighborAddress": "10.79.0.99"}
    meta = {"name": "nobody", "labels": {"test": "top"}}
    apply({"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "BgpPeer", "metadata": meta, "spec": {"conf": conf}})
    try:
        done = subprocess.run(status, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "router nobody (10.79.0.99) has no session with any replica" in done.stderr
    finally:
        kubectl("delete", "bgppeer", "nobody")


def test_the_last_node_that_serves_stays_while_it_drains_and_routers_are_told(lab):
    """With GRACEFUL_SHUTDOWN (RFC 8326), until another one serves."""
    apply(service("web", externalTrafficPolicy="Local"))
    (local,) = wait_addresses("web")
    for node in ("node2", "node3"):
        lab.set_ready(f"web-{node}", False)
    wait_fib(local, ["node1"])
    shutdown = lambda: "(65535,0)" in routers.birdc(f"show route all for {local}")  # noqa: E731
    assert not shutdown()
    kubectl("annotate", "node", "node1", "porter-ha.io/drain=")
    try:
        until("the community", shutdown)
        assert routers.node_names(routers.fib("router1")[local]) == ["node1"]
        assert fetch("router1", local, 20)["errors"] == {}
        lab.set_ready("web-node2", True)
        wait_fib(local, ["node2"])
        assert not shutdown()
    finally:
        kubectl("annotate", "node", "node1", "porter-ha.io/drain-")
        for node in ("node2", "node3"):
            lab.set_ready(f"web-{node}", True)
    wait_fib(local, list(NODES))


def test_source_ranges_stay_kube_proxys_to_enforce():
    """loadBalancerSourceRanges: who is in them is served through the EIP, who is not is dropped; we change neither."""
    allowed = f"{client_source('router1')[0]}/32"
    apply(service("web", loadBalancerSourceRanges=[allowed]))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    found = get("service", "web")
    assert found["spec"]["loadBalancerSourceRanges"] == [allowed]
    assert found["status"]["loadBalancer"]["ingress"] == [{"ip": eip, "ipMode": "VIP"}]
    assert cluster.fetch("router1", eip, 10)["errors"] == {}
    assert cluster.fetch("router2", eip, 2)["served"] == {}


def test_cordoning_changes_nothing():
    apply(service("web"))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    kubectl("cordon", "node2")
    apply(service("marker", "web"))
    wait_fib(wait_addresses("marker")[0], list(NODES))
    wait_fib(eip, list(NODES), 1)
    kubectl("uncordon", "node2")


def test_pool_usage_is_shown():
    apply(service("web"))
    (eip,) = wait_addresses("web")

    def shown():
        return json.loads(kubectl("get", "eip", "pool-v4", "-o", "json"))["status"].get("used", {}).get(eip)

    until("usage in the Eip's status", lambda: shown() == "default/web")
    kubectl("delete", "service", "web")
    until("the address out of it", lambda: not shown())
