"""A Service explained: by the code that decides, from what the API server has."""

import msgspec
import pytest

from porter_ha.core.overview import overview, routes
from porter_ha.core.why import Cluster, explain
from porter_ha.manager.explain import peers_text, routes_text, status_text, why_text
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Lease, Node, Service


def made(kind, name, namespace="", labels=None, annotations=None, **rest):
    meta = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": labels, "annotations": annotations}
    return msgspec.convert({"metadata": {k: v for k, v in meta.items() if v}, **rest}, kind)


def node(name, number, ready="True", **more):
    status = {
        "conditions": [{"type": "Ready", "status": ready}],
        "addresses": [{"type": "InternalIP", "address": f"10.1.0.{number}"}],
    }
    return made(Node, name, status=status, **more)


def service(name, *, eip="", policy="Cluster", **more):
    annotations = {"lb.kubesphere.io/v1alpha1": "porter", **({"porter-ha.io/eips": eip} if eip else {})}
    ingress = [{"ip": eip}] if eip else []
    return made(
        Service,
        name,
        "default",
        annotations=more.pop("annotations", annotations),
        spec={"type": "LoadBalancer", "externalTrafficPolicy": policy, **more},
        status={"loadBalancer": {"ingress": ingress}},
    )


def slices(name, *nodes):
    endpoints = [{"addresses": ["10.244.0.1"], "nodeName": n, "conditions": {"ready": True}} for n in nodes]
    labels = {"kubernetes.io/service-name": name}
    return made(EndpointSlice, f"{name}-1", "default", labels, addressType="IPv4", endpoints=endpoints)


SESSION = {"peerState": {"sessionState": "ESTABLISHED"}, "prefixes": 3, "lastError": ""}
PEER = {
    "spec": {"conf": {"peerAs": 65010, "neighborAddress": "10.9.0.1"}},
    "status": {"nodesPeerStatus": {"n1": SESSION}},
}
BASE = Cluster(
    nodes=(node("n1", 1), node("n2", 2), node("n3", 3, annotations={"porter-ha.io/drain": ""}), node("n4", 4, "False")),
    eips=(made(Eip, "pool", spec={"address": "10.0.0.0/31"}),),
    confs=(made(BgpConf, "default", spec={"as": 65001}),),
    peers=(msgspec.json.decode(msgspec.json.encode({"metadata": {"name": "tor"}, **PEER}), type=BgpPeer),),
)


def cluster(*services, parts=()):
    return msgspec.structs.replace(BASE, services=services, slices=tuple(parts))


def test_an_announced_eip_its_next_hops_and_who_is_none():
    found = explain("default/web", cluster(service("web", eip="10.0.0.1"), parts=[slices("web", "n1")]), False)
    (eip,) = found.eips
    assert (eip.pool, [(hop.node, hop.address) for hop in eip.next_hops]) == (
        "pool",
        [("n1", "10.1.0.1"), ("n2", "10.1.0.2")],
    )
    assert [(left.node, left.reason) for left in eip.left_out] == [("n3", "NodeDraining"), ("n4", "NodeNotReady")]
    (heard,) = found.routers
    assert (heard.peer, heard.router, heard.replica, heard.state, heard.prefixes) == (
        "tor",
        "10.9.0.1",
        "n1",
        "ESTABLISHED",
        3,
    )
    said = why_text(found)
    assert "via n2 (10.1.0.2)" in said
    assert "not via n3: NodeDraining: The node is being drained" in said


def test_local_leaves_out_nodes_without_endpoints():
    web = service("web", eip="10.0.0.1", policy="Local")
    (eip,) = explain("default/web", cluster(web, parts=[slices("web", "n2")]), False).eips
    assert [hop.node for hop in eip.next_hops] == ["n2"]
    assert {left.node: left.reason for left in eip.left_out}["n1"] == "NoReadyEndpoints"


def test_no_ready_endpoint():
    (eip,) = explain("default/web", cluster(service("web", eip="10.0.0.1")), False).eips
    assert eip.refusal.reason == "NoReadyEndpoints"
    assert eip.next_hops == eip.left_out == ()


def test_a_service_that_waits():
    full = cluster(service("a", eip="10.0.0.0"), service("b", eip="10.0.0.1"), service("web"))
    found = explain("default/web", full, False)
    assert found.waits.reason == "PoolExhausted"
    assert found.eips == ()
    assert "waits: PoolExhausted: no free IPv4 address in pool (2 of 2)" in why_text(found)


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ({"annotations": {}}, "annotate it lb.kubesphere.io/v1alpha1=porter"),
        ({"type": "NodePort"}, "spec.type is NodePort"),
        ({"loadBalancerClass": "x/y"}, "spec.loadBalancerClass is x/y"),
    ],
)
def test_a_service_that_is_not_ours(more, hint):
    assert hint in explain("default/web", cluster(service("web", **more)), False).hint


def test_a_misspelt_annotation_is_told():
    web = service("web", annotations={"lb.kubesphere.io/v1apha1": "porter"})
    assert explain("default/web", cluster(web), False).waits.reason == "MisspeltAnnotation"


def test_no_such_service():
    assert explain("default/none", cluster(), False).hint == "there is no such Service"


def test_no_node_may_be_a_next_hop():
    web = cluster(service("web", eip="10.0.0.1", policy="Local"), parts=[slices("web", "n4")])
    (eip,) = explain("default/web", web, False).eips
    assert (eip.next_hops, eip.refusal.reason) == ((), "NoEligibleNodes")
    assert "n4: NodeNotReady" in eip.refusal.message


def test_the_last_node_stays_though_it_drains():
    web = cluster(service("web", eip="10.0.0.1", policy="Local"), parts=[slices("web", "n3", "n4")])
    (eip,) = explain("default/web", web, False).eips
    assert ([hop.node for hop in eip.next_hops], eip.refusal) == (["n3"], None)
    assert ("n4", "NodeNotReady") in [(left.node, left.reason) for left in eip.left_out]


# --- everything on one screen


def test_the_whole_on_one_screen():
    lease = made(Lease, "porter-ha-leader", spec={"holderIdentity": "m1", "leaseTransitions": 7})
    replica = made(Lease, "porter-ha-replica-n1", labels={"porter-ha.io/replica": ""})
    bad = made(Eip, "bad", spec={"address": "nonsense"})
    services = (service("web", eip="10.0.0.1"), service("asks", loadBalancerIP="10.99.0.1"))
    found = msgspec.structs.replace(
        cluster(*services, parts=[slices("web", "n1")]), leases=(lease, replica), eips=(*BASE.eips, bad)
    )
    said = status_text(overview(found, classless=False))
    assert "leader    m1, term 7; replicas on n1" in said
    assert "router    tor (10.9.0.1): 1 of 1 replicas have a session" in said
    assert "pool      bad (nonsense): EipAddressInvalid: spec.address: 'nonsense'" in said
    assert "pool      pool (10.0.0.0/31): 1 of 2 held" in said
    assert "services  1 of 2 have what they ask for" in said
    assert "default/asks waits: AddressNotInPool" in said
    assert "nodes     2 of 4 may be next hops" in said
    assert "n3: NodeDraining" in said
    assert "replica on n1: ESTABLISHED, 3 EIPs announced" in peers_text(overview(found, classless=False))


def test_every_eip_with_its_next_hops():
    found = cluster(service("web", eip="10.0.0.1"), service("idle", eip="10.0.0.0"), parts=[slices("web", "n1")])
    said = routes_text(routes(found, classless=False))
    assert "10.0.0.1  default/web  via n1, n2" in said
    assert "10.0.0.0  default/idle  NoReadyEndpoints" in said
