"""Eips, BgpConfs and BgpPeers: accepted, refused by name, or told what this version does not do."""

import msgspec
import pytest

from porter_ha.core.admit import Speaking, admit_bgp, admit_eips
from porter_ha.model.objects import BgpConf, BgpPeer, Eip
from porter_ha.model.reasons import Reason

ME = Speaking("node1", ("10.1.0.1", "fd01::1"))


def make(kind, name="x", created="2026-01-01T00:00:00Z", annotations=None, **spec):
    meta = {"name": name, "creationTimestamp": created, "annotations": annotations}
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta, "spec": spec}), type=kind)


def conf(**spec):
    return make(BgpConf, "default", **{"as": 65001, **spec})


def peer(name="r1", created="2026-01-01T00:00:00Z", conf=None, **spec):
    return make(BgpPeer, name, created, conf={"neighborAddress": "10.9.0.1", "peerAs": 65010, **(conf or {})}, **spec)


def refusal(found, name="r1"):
    assert name in found.refused, found
    return found.refused[name]


def test_defaults():
    (got,) = admit_bgp([conf()], [peer()], ME).accepted
    assert (got.hold_time_s, got.keepalive_s, got.restart_time_s, got.port, got.ttl) == (30, 10, 120, 179, 1)
    assert got.router_id == "10.1.0.1"
    assert got.families == (4, 6)
    assert not got.ibgp


def test_a_replica_without_ipv4_has_a_stable_router_id():
    ids = {admit_bgp([conf()], [peer()], Speaking(n, ("fd01::1",))).accepted[0].router_id for n in ("a", "a", "b")}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"conf": {"neighborAddress": "r1.example"}}, "spec.conf.neighborAddress: 'r1.example'"),
        ({"conf": {"neighborAddress": ""}}, "spec.conf.neighborAddress: is missing"),
        ({"conf": {"peerAs": 23456}}, "spec.conf.peerAs: 23456"),
        ({"conf": {"adminDown": True}}, "spec.conf.adminDown"),
        ({"transport": {"passiveMode": True}}, "spec.transport.passiveMode"),
        ({"transport": {"remotePort": 70000}}, "spec.transport.remotePort: 70000"),
        ({"timers": {"config": {"holdTime": "2"}}}, "spec.timers.config.holdTime: '2'"),
        ({"timers": {"config": {"connectRetry": "fast"}}}, "spec.timers.config.connectRetry: 'fast'"),
        ({"gracefulRestart": {"enabled": True, "restartTime": 5000}}, "restartTime: 5000"),
        ({"ebgpMultihop": {"enabled": True, "multihopTtl": 300}}, "multihopTtl: 300"),
        ({"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}, "operator: 'Near'"),
        ({"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "needs values"),
        ({"afiSafis": [{"config": {"family": {"afi": "AFI_L2VPN", "safi": "SAFI_EVPN"}}}]}, "AFI_L2VPN/SAFI_EVPN"),
        ({"afiSafis": [{"config": {"enabled": False}}]}, "enables no family"),
    ],
)
def test_a_bad_peer_is_refused_with_the_field_and_hurts_no_other(more, says):
    found = admit_bgp([conf()], [peer("r2", conf={"neighborAddress": "10.9.0.2"}), peer(**more)], ME)
    assert says in refusal(found).message
    assert [p.name for p in found.accepted] == ["r2"]


def test_the_older_of_two_with_one_neighbour_is_used():
    found = admit_bgp([conf()], [peer("young", "2026-02-01T00:00:00Z"), peer("old")], ME)
    assert [p.name for p in found.accepted] == ["old"]
    assert refusal(found, "young").reason is Reason.PEER_DUPLICATE


@pytest.mark.parametrize("spec", [{"as": 0}, {"routerId": "one"}, {"families": [7]}])
def test_a_bad_bgpconf_leaves_no_peers_and_says_why(spec):
    found = admit_bgp([conf(**spec)], [peer()], ME)
    assert found.conf_refusals["default"].reason is Reason.CONF_INVALID
    assert refusal(found).reason is Reason.NO_BGP_CONF


def test_what_is_not_done_is_named():
    found = admit_bgp(
        [conf(listenPort=17900, asPerRack={"a": 1}, policy="p", gracefulRestart={"longlivedEnabled": True})],
        [
            peer(
                conf={"vrf": "red"},
                transport={"tcpMss": 1400},
                timers={"config": {"minimumAdvertisementInterval": "3"}},
            )
        ],
        ME,
    )
    assert found.conf_unsupported == (
        "spec.asPerRack",
        "spec.listenPort",
        "spec.policy",
        "spec.gracefulRestart.longlivedEnabled",
    )
    assert found.unsupported["r1"] == (
        "spec.conf.vrf",
        "spec.transport.tcpMss",
        "spec.timers.config.minimumAdvertisementInterval",
    )


def test_peers_that_see_the_same_nodes_share_a_group_on_every_replica():
    rack = {"matchLabels": {"rack": "a"}}
    peers = [peer("a", nodeSelector=rack), peer("b", conf={"neighborAddress": "10.9.0.2"}, nodeSelector=rack)]
    groups = {p.group for me in (ME, Speaking("node2", ("10.1.0.2",))) for p in admit_bgp([conf()], peers, me).accepted}
    assert len(groups) == 1


def test_overlapping_eips_the_older_keeps_the_addresses():
    young = make(Eip, "young", "2026-02-01T00:00:00Z", address="10.0.0.128/25")
    old = make(Eip, "old", address="10.0.0.0/24")
    found = admit_eips([young, old])
    assert [p.name for p in found.accepted] == ["old"]
    assert found.refused["young"].reason is Reason.EIP_OVERLAPS


def test_one_default_per_family_the_oldest():
    mark = {"eip.openelb.kubesphere.io/is-default-eip": "true"}
    found = admit_eips(
        [
            make(Eip, "b", "2026-02-01T00:00:00Z", mark, address="10.0.1.0/24"),
            make(Eip, "a", "2026-01-01T00:00:00Z", mark, address="10.0.0.0/24"),
            make(Eip, "c", "2026-03-01T00:00:00Z", mark, address="fd00::/64"),
        ]
    )
    assert {p.name: p.default for p in found.accepted} == {"a": True, "b": False, "c": True}
