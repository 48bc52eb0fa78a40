"""Who is ours, where it is served, and which nodes may carry it."""

import msgspec
import pytest

from porter_ha.core.eligibility import claim_of, node_view, opted_in, serving
from porter_ha.model.objects import EndpointSlice, Node, Service
from porter_ha.model.plan import Serving
from porter_ha.model.reasons import Reason


def decode(kind, **fields):
    return msgspec.json.decode(
        msgspec.json.encode({"metadata": {"name": "web", "namespace": "shop"}, **fields}), type=kind
    )


def service(annotations=None, **spec):
    meta = {"name": "web", "namespace": "shop", "uid": "u", "annotations": annotations}
    return decode(Service, metadata=meta, spec={"type": "LoadBalancer", **spec})


def endpoints(*found, family="IPv4"):
    """(node, ready, serving, terminating) each."""
    keys = ("ready", "serving", "terminating")
    return decode(
        EndpointSlice,
        addressType=family,
        endpoints=[{"nodeName": n, "conditions": dict(zip(keys, rest, strict=False))} for n, *rest in found],
    )


@pytest.mark.parametrize(
    ("annotations", "spec", "classless", "ours"),
    [
        ({"lb.kubesphere.io/v1alpha1": "porter"}, {}, False, True),
        ({"lb.kubesphere.io/v1alpha1": "openelb"}, {}, False, True),
        ({"lb.kubesphere.io/v1alpha1": "other"}, {}, True, False),
        ({}, {"loadBalancerClass": "porter-ha.io/bgp"}, False, True),
        ({"lb.kubesphere.io/v1alpha1": "porter"}, {"loadBalancerClass": "else/where"}, False, False),
        ({}, {}, False, False),
        ({}, {}, True, True),
        ({"lb.kubesphere.io/v1alpha1": "porter"}, {"type": "NodePort"}, True, False),
    ],
)
def test_who_is_ours(annotations, spec, classless, ours):
    assert opted_in(service(annotations, **spec), classless) is ours


def test_a_service_that_asks_nothing_and_holds_nothing_makes_no_claim():
    assert claim_of(service(), [], classless=False) is None


def test_ready_endpoints_by_family():
    found = serving([endpoints(("n2", True), ("n1", None)), endpoints(("n3", True), family="IPv6")])
    assert found == (Serving(4, ("n1", "n2")), Serving(6, ("n3",)))


def test_terminating_endpoints_serve_only_when_no_other_does():
    leaving = ("n1", False, True, True)
    assert serving([endpoints(leaving, ("n2", True))]) == (Serving(4, ("n2",)),)
    assert serving([endpoints(leaving)]) == (Serving(4, ("n1",)),)
    assert serving([endpoints(("n1", False, False, True))]) == ()
    assert serving([endpoints(("n1", False))]) == ()


def test_endpoints_outside_the_cluster_serve_cluster_eips():
    assert serving([endpoints((None, True))]) == (Serving(4, ()),)


def test_names_of_hosts_are_not_served():
    assert serving([endpoints(("n1", True), family="FQDN")]) == ()


def test_a_bad_wish_becomes_a_refusal_that_names_the_field():
    made = claim_of(service({"lb.kubesphere.io/v1alpha1": "porter"}, loadBalancerIP="10.0.0"), [], classless=False)
    assert made.refusal.reason is Reason.ADDRESS_INVALID
    assert "spec.loadBalancerIP: '10.0.0'" in made.refusal.message


def test_an_annotation_wins_over_the_field_and_may_name_one_address_per_family():
    said = {"lb.kubesphere.io/v1alpha1": "porter", "eip.openelb.kubesphere.io/v1alpha1": "10.0.0.1, FD00::1"}
    assert claim_of(service(said, loadBalancerIP="10.0.0.9"), [], classless=False).wanted_addresses == (
        "10.0.0.1",
        "fd00::1",
    )
    said["eip.openelb.kubesphere.io/v1alpha1"] = "10.0.0.1,10.0.0.2"
    assert claim_of(service(said), [], classless=False).refusal.reason is Reason.ADDRESS_INVALID


def node(conditions=(("Ready", "True"),), labels=None, annotations=None, taints=(), addresses=("10.1.0.1", "fd01::1")):
    return decode(
        Node,
        metadata={"name": "n1", "labels": labels, "annotations": annotations},
        spec={"taints": [{"key": t} for t in taints], "unschedulable": True},
        status={
            "conditions": [{"type": t, "status": s} for t, s in conditions],
            "addresses": [{"type": "InternalIP", "address": a} for a in addresses]
            + [{"type": "Hostname", "address": "n1"}],
        },
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, None),
        ({"conditions": [("Ready", "Unknown")]}, Reason.NODE_UNKNOWN),
        ({"conditions": [("Ready", "False")]}, Reason.NODE_NOT_READY),
        ({"conditions": []}, Reason.NODE_NOT_READY),
        ({"conditions": [("Ready", "True"), ("NetworkUnavailable", "True")]}, Reason.NODE_NETWORK_UNAVAILABLE),
        ({"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}, Reason.NODE_EXCLUDED),
        ({"annotations": {"porter-ha.io/drain": ""}}, Reason.NODE_DRAINING),
        ({"taints": ["ToBeDeletedByClusterAutoscaler"]}, Reason.NODE_DRAINING),
        ({"taints": ["node.kubernetes.io/unschedulable"]}, None),
    ],
)
def test_which_nodes_may_be_next_hops(more, reason):
    assert node_view(node(**more)).refusal is reason


def test_a_nodes_addresses_by_family_and_an_odd_one_is_left_out():
    view = node_view(node(addresses=("10.1.0.1", "nonsense", "fd01:0::1")))
    assert (view.address(4), view.address(6)) == ("10.1.0.1", "fd01::1")
