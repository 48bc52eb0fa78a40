"""I9: what is wrong is refused by name, kubectl says so, and everything else goes on."""

import json

import pytest

from tests.lab import routers
from tests.lab.cluster import MANIFESTS, service, wait_addresses, wait_condition, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.shell import LabError
from tests.lab.topology import NODES

pytestmark = pytest.mark.usefixtures("clean")
GROUP = "network.kubesphere.io/v1alpha2"


def thing(kind: str, name: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, "labels": {"test": ""}}, "spec": spec}


def still_served() -> None:
    apply(service("marker", "web"))
    wait_fib(wait_addresses("marker")[0], list(NODES))


@pytest.mark.parametrize(
    ("address", "reason", "says"),
    [
        ("10.300.0.0/24", "EipAddressInvalid", "10.300.0.0/24"),
        ("10.0.0.9-10.0.0.1", "EipAddressInvalid", "ends before it begins"),
        ("fd00::1-10.0.0.1", "EipAddressInvalid", "mixes"),
        ("all of them", "EipAddressInvalid", "give an address (10.0.0.7)"),
        ("10.200.0.128/25", "EipOverlaps", "pool-v4"),
    ],
)
def test_a_bad_eip(address, reason, says):
    apply(thing("Eip", "bad", address=address))
    status, why, message = wait_condition("eip", "bad", "Accepted")
    assert (status, why) == ("False", reason)
    assert says in message
    described = kubectl("describe", "eip", "bad")
    assert says in described
    assert f"Warning  {reason}" in described, "and as an event"
    still_served()


def test_a_protocol_that_is_not_supported():
    apply(thing("Eip", "bad", address="10.203.0.0/24", protocol="layer2"))
    assert wait_condition("eip", "bad", "Accepted")[1] == "ProtocolUnsupported"


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        (
            {"conf": {"neighborAddress": "router", "peerAs": 65010}},
            "PeerInvalid",
            "spec.conf.neighborAddress: 'router'",
        ),
        ({"conf": {"neighborAddress": "10.79.0.99", "peerAs": 0}}, "PeerInvalid", "spec.conf.peerAs: 0"),
        ({"conf": {"neighborAddress": "10.79.0.1", "peerAs": 65010}}, "PeerDuplicate", "router1-frr"),
        (
            {
                "conf": {"neighborAddress": "10.79.0.99", "peerAs": 65010},
                "timers": {"config": {"holdTime": "soon"}},
            },
            "PeerInvalid",
            "spec.timers.config.holdTime: 'soon'",
        ),
        (
            {"conf": {"neighborAddress": "10.79.0.99", "peerAs": 65010}, "usingPortForward": True},
            "PeerInvalid",
            "spec.usingPortForward: true needs spec.transport.passiveMode",
        ),
    ],
)
def test_a_bad_peer(spec, reason, says):
    before = routers.bird_sessions()
    apply(thing("BgpPeer", "bad", **spec))
    try:
        status, why, message = wait_condition("bgppeer", "bad", "Accepted")
        assert (status, why) == ("False", reason)
        assert says in message
        assert says in kubectl("describe", "bgppeer", "bad")
        still_served()
        assert routers.bird_sessions() == before, "the good peers' sessions stayed up"
    finally:
        kubectl("delete", "bgppeer", "bad")


def test_a_peer_that_cannot_be_reached_says_so_and_hurts_nobody():
    apply(thing("BgpPeer", "nobody", conf={"neighborAddress": "10.79.0.99", "peerAs": 65010}))
    try:
        from tests.lab.shell import until

        until(
            "the error in the status",
            lambda: "cannot connect to 10.79.0.99" in kubectl("describe", "bgppeer", "nobody"),
        )
        still_served()
    finally:
        kubectl("delete", "bgppeer", "nobody")


def test_fields_that_this_version_does_not_act_on_are_named():
    patch = '{"spec":{"policy":"gobgp"}}'
    kubectl("patch", "bgpconf", "default", "--type=merge", "-p", patch)
    status, _, message = wait_condition("bgpconf", "default", "FieldsSupported")
    assert status == "False"
    assert "spec.policy" in message
    kubectl("patch", "bgpconf", "default", "--type=merge", "-p", '{"spec":{"policy":null}}')


def test_a_second_bgpconf_is_ignored_and_told_so():
    apply(thing("BgpConf", "other", **{"as": 65099}))
    assert wait_condition("bgpconf", "other", "Accepted")[1] == "ConfIgnored"
    kubectl("delete", "bgpconf", "other")


@pytest.mark.parametrize(
    ("more", "reason", "says"),
    [
        ({"annotations": {"eip.openelb.kubesphere.io/v1alpha1": "10.200"}}, "AddressInvalid", "'10.200'"),
        ({"annotations": {"eip.openelb.kubesphere.io/v1alpha2": "nowhere"}}, "PoolNotFound", "'nowhere'"),
        ({"loadBalancerIP": "192.0.2.1"}, "AddressNotInPool", "192.0.2.1"),
    ],
)
def test_a_bad_wish(more, reason, says):
    apply(service("web", **more))
    status, why, message = wait_condition("service", "web", "porter-ha.io/Assigned")
    assert (status, why) == ("False", reason)
    assert says in message
    still_served()


def test_the_misspelt_annotation_is_pointed_out():
    apply(service("web", opt_in="", annotations={"lb.kubesphere.io/v1apha1": "porter"}))
    status, why, message = wait_condition("service", "web", "porter-ha.io/Assigned")
    assert (status, why) == ("False", "MisspeltAnnotation")
    assert "lb.kubesphere.io/v1alpha1: porter" in message


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (thing("Eip", "bad", address="10.0.0.0/24,all"), "spec.address: give addresses"),
        (thing("Eip", "bad", address="10.203.0.0/24", protocol="vip"), "spec.protocol: only bgp"),
        (thing("BgpConf", "bad", **{"as": 65001}), "metadata.name: the BgpConf in use"),
        (thing("BgpPeer", "bad", conf={"neighborAddress": "r1", "peerAs": 1}), "spec.conf.neighborAddress: give"),
        (thing("BgpPeer", "bad", conf={"neighborAddress": "10.79.0.99"}), "spec.conf.peerAs: give"),
        (
            thing(
                "BgpPeer",
                "bad",
                conf={"neighborAddress": "10.79.0.99", "peerAs": 1},
                timers={"config": {"holdTime": "30s"}},
            ),
            "spec.timers.config: times are",
        ),
        (
            thing("BgpPeer", "bad", conf={"neighborAddress": "10.79.0.99", "peerAs": 1}, usingPortForward=True),
            "spec.usingPortForward: true needs",
        ),
    ],
)
def test_kubectl_warns_at_once_and_refuses_nothing(document, says):
    with pytest.raises(LabError, match=says.replace(".", r"\.")):
        kubectl("apply", "--warnings-as-errors", "-f", "-", stdin=json.dumps(document))
    kind = document["kind"].lower()
    assert get(kind, "bad")["spec"] == document["spec"] | get(kind, "bad")["spec"], "it was taken all the same"
    kubectl("delete", kind, "bad")


def test_what_is_well_is_warned_of_by_nobody():
    kubectl("apply", "--warnings-as-errors", "-f", str(MANIFESTS / "bgp.yaml"))
    several = thing("Eip", "several", address="10.203.0.0/28, 10.203.1.1,10.203.2.1-10.203.2.9")
    kubectl("apply", "--warnings-as-errors", "-f", "-", stdin=json.dumps(several))
