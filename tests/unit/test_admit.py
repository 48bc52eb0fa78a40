"""Eips, BgpConfs and BgpPeers: accepted, refused by name, or told what this version does not do."""

import msgspec
import pytest

from porter_ha.core.admit_bgp import Speaking, admit_bgp
from porter_ha.core.admit_eip import admit_eips
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, ObjectMeta, Secret
from porter_ha.model.plan import Redirect, Tags
from porter_ha.model.reasons import Reason

ME = Speaking("node1", ("10.1.0.1", "fd01::1"))
SECRETS = {"s": Secret(ObjectMeta(name="s"), {"password": "czNjcjN0", "bad": "/w=="})}


def make(kind, name="x", created="2026-01-01T00:00:00Z", annotations=None, labels=None, **spec):
    meta = {"name": name, "creationTimestamp": created, "annotations": annotations, "labels": labels}
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
        ({"usingPortForward": True}, "spec.usingPortForward: true needs spec.transport.passiveMode"),
        ({"usingPortForward": True, "transport": {"passiveMode": True}}, "set BgpConf's spec.listenPort"),
        ({"ttlSecurityHops": 300}, "spec.ttlSecurityHops: 300"),
        ({"ttlSecurityHops": 1, "ebgpMultihop": {"enabled": True}}, "spec.ttlSecurityHops: excludes"),
        ({"sourceAddresses": ["here"]}, "spec.sourceAddresses[0]: 'here'"),
        ({"sourceAddresses": ["fd01::1"]}, "spec.sourceAddresses: fd01::1 is not of the family"),
        ({"conf": {"authPasswordSecret": {"name": "no"}}}, "there is no Secret 'no'"),
        ({"conf": {"authPasswordSecret": {"name": "s", "key": "k"}}}, "Secret s has no 'k'; it has: bad, password"),
        ({"conf": {"authPasswordSecret": {"name": "s", "key": "bad"}}}, "is no text in UTF-8"),
        ({"conf": {"authPassword": "x", "authPasswordSecret": {"name": "s"}}}, "excludes spec.conf.authPassword"),
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
    others = peer("r2", conf={"neighborAddress": "10.9.0.2"})
    found = admit_bgp([conf()], [others, peer(**more)], ME, secrets=SECRETS)
    assert says in refusal(found).message
    assert [p.name for p in found.accepted] == ["r2"]


def test_the_older_of_two_with_one_neighbour_is_used():
    found = admit_bgp([conf()], [peer("young", "2026-02-01T00:00:00Z"), peer("old")], ME)
    assert [p.name for p in found.accepted] == ["old"]
    assert refusal(found, "young").reason is Reason.PEER_DUPLICATE


@pytest.mark.parametrize(
    "spec",
    [
        {"as": 0},
        {"routerId": "one"},
        {"families": [7]},
        {"listenPort": 0},
        {"listenAddresses": ["lo"]},
        {"asPerRack": {"a": 0}},
    ],
)
def test_a_bad_bgpconf_leaves_no_peers_and_says_why(spec):
    found = admit_bgp([conf(**spec)], [peer()], ME)
    assert found.conf_refusals["default"].reason is Reason.CONF_INVALID
    assert refusal(found).reason is Reason.NO_BGP_CONF


def test_what_is_not_done_is_named():
    found = admit_bgp(
        [conf(policy="p", gracefulRestart={"longlivedEnabled": True})],
        [
            peer(
                conf={"vrf": "red"},
                transport={"tcpMss": 1400},
                timers={"config": {"minimumAdvertisementInterval": "3"}},
            )
        ],
        ME,
    )
    assert found.conf_unsupported == ("spec.policy", "spec.gracefulRestart.longlivedEnabled")
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


# --- passive peers, racks, keys, what Eips say of peers


def test_a_passive_peer_makes_us_listen_and_nothing_else_does():
    passive = {"transport": {"passiveMode": True}}
    assert admit_bgp([conf(listenPort=17900)], [peer()], ME).listening.port == 0
    found = admit_bgp([conf(listenPort=17900, listenAddresses=["10.1.0.1"])], [peer(**passive)], ME)
    assert (found.listening.port, found.listening.addresses) == (17900, ("10.1.0.1",))
    assert found.redirects == ()
    nowhere = admit_bgp([conf(listenPort=-1)], [peer(**passive)], ME)
    assert "spec.listenPort is -1" in refusal(nowhere).message


def test_the_port_is_redirected_for_one_router_and_to_its_own_address_only():
    forwarded = {"transport": {"passiveMode": True}, "usingPortForward": True}
    found = admit_bgp([conf(listenPort=17900)], [peer(sourceAddresses=["10.9.0.111"], **forwarded)], ME)
    assert found.redirects == (Redirect("10.9.0.1", 179, 17900, ("10.9.0.111",)),)
    signed = admit_bgp([conf(listenPort=17900)], [peer(conf={"authPassword": "x"}, **forwarded)], ME)
    assert "TCP MD5" in refusal(signed).message, "a signature would not fit the other port"


def test_a_key_out_of_a_secret_follows_the_secret():
    asks = peer(conf={"authPasswordSecret": {"name": "s"}})
    assert admit_bgp([conf()], [asks], ME, secrets=SECRETS).accepted[0].password == "s3cr3t"
    changed = {"s": Secret(ObjectMeta(name="s"), {"password": "b3RoZXI="})}
    assert admit_bgp([conf()], [asks], ME, secrets=changed).accepted[0].password == "other"


@pytest.mark.parametrize("label", ["openelb.kubesphere.io/rack", "porter.kubesphere.io/rack"])
def test_a_rack_has_its_own_as_and_its_own_next_hops(label):
    racked = make(BgpPeer, "r1", labels={label: "a"}, conf={"neighborAddress": "10.9.0.1", "peerAs": 65010})
    chosen = peer("r2", conf={"neighborAddress": "10.9.0.2"}, nodeSelector={"matchLabels": {label: "b"}})
    other = peer("r3", conf={"neighborAddress": "10.9.0.3"})
    found = admit_bgp([conf(asPerRack={"a": 65101, "b": 65102})], [racked, chosen, other], ME)
    assert [p.local_as for p in found.accepted] == [65101, 65102, 65001]
    assert [found.scopes[p.group].nodes and found.scopes[p.group].nodes.match_labels for p in found.accepted] == [
        {label: "a"},
        {label: "b"},
        None,
    ]


def test_a_peer_that_an_eip_names_has_a_group_of_its_own():
    peers = [peer("r1"), peer("r2", conf={"neighborAddress": "10.9.0.2"})]
    assert {p.group for p in admit_bgp([conf()], peers, ME).accepted} == {"all"}
    assert [p.group for p in admit_bgp([conf()], peers, ME, {"r1"}).accepted] == ["peer-r1", "all"]


def test_what_routers_are_told_of_a_pool():
    pool = make(
        Eip,
        address="10.0.0.0/24",
        advertisements=[
            {"aggregationLength": 24, "communities": ["65001:100", "no-export", "mine", "large:65001:1:2"]},
            {"localPref": 200, "peers": ["r1"]},
            {"communities": ["1:2:3"]},
        ],
    )
    (found,) = admit_eips([pool], {"mine": "65001:7"}).accepted
    whole, alone = found.routes
    assert (whole.length, [offer.peers for offer in whole.offers]) == (24, [()])
    assert whole.offers[0].tags == Tags((65001 << 16 | 7, 65001 << 16 | 100, 0xFFFFFF01), ((65001, 1, 2),))
    assert alone.length == 0
    assert [(offer.peers, offer.tags.local_preference) for offer in alone.offers] == [(("r1",), 200), ((), None)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"sharing": "Everybody"}, "spec.sharing: 'Everybody' is none of Namespace, Cluster"),
        ({"advertisements": [{"aggregationLength": 33}]}, "spec.advertisements[0].aggregationLength: 33"),
        ({"advertisements": [{}, {"communities": ["65536:1"]}]}, "spec.advertisements[1].communities[0]: '65536:1'"),
        ({"advertisements": [{"communities": ["yours"]}]}, "or one of: no-export"),
        ({"advertisements": [{"localPref": -1}]}, "spec.advertisements[0].localPref: -1"),
    ],
)
def test_a_bad_eip_is_refused_with_the_field(more, says):
    found = admit_eips([make(Eip, "x", address="10.0.0.0/24", **more), make(Eip, "y", address="10.0.1.0/24")])
    assert says in found.refused["x"].message
    assert [pool.name for pool in found.accepted] == ["y"]
