"""What MetalLB and Porter were told, told to us: our own admission accepts it, and nothing is lost in silence."""

import contextlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from porter_ha.core.admit_bgp import Speaking, admit_bgp
from porter_ha.core.admit_eip import admit_eips
from porter_ha.core.migrate import Migration, migrate
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, ObjectMeta, Secret
from porter_ha.model.plan import Tags

SAMPLES = Path(__file__).parent / "migration-samples"
ME = Speaking("node1", ("10.0.0.1",))
KINDS = {"Eip": Eip, "BgpConf": BgpConf, "BgpPeer": BgpPeer}


def migrated(name):
    return migrate(yaml.safe_load_all((SAMPLES / name).read_text()))


def admitted(made):
    found = {kind: [] for kind in KINDS}
    for document in made.documents:
        found[document["kind"]].append(msgspec.json.decode(msgspec.json.encode(document), type=KINDS[document["kind"]]))
    key = Secret(ObjectMeta(name="key"), {"password": "czNjcjN0"})
    return admit_eips(found["Eip"]), admit_bgp(found["BgpConf"], found["BgpPeer"], ME, secrets={"key": key})


def told(made, start):
    return [remark for remark in made.remarks if remark.startswith(start)]


def test_metallbs_pools():
    made = migrated("metallb.yaml")
    pools, _ = admitted(made)
    assert pools.refused == {}
    by_name = {pool.name: pool for pool in pools.accepted}
    assert list(map(str, by_name["first-ipv4"].ranges)) == ["192.168.10.0-192.168.10.255", "192.168.9.1-192.168.9.5"]
    assert by_name["first-ipv6"].family == 6
    assert by_name["first-ipv4"].skip_boundaries
    teams = by_name["for-teams"]
    assert teams.namespaces == ("team-a", "team-b")
    assert teams.namespace_selector == (("kind", "team"),)
    assert teams.service_selector.match_expressions[0].values == ["gold"]
    assert teams.priority < by_name["first-ipv4"].priority, "MetalLB's 0 comes last, ours first"
    assert not by_name["many-selectors"].auto, "what cannot be said must not serve everybody"
    assert by_name["many-selectors"].disabled, "and MetalLB does not announce it"
    assert not by_name["first-ipv4"].disabled
    assert not teams.disabled
    (route,) = teams.routes
    assert (route.length, route.offers[0].tags) == (26, Tags((64512 << 16 | 7, 0xFFFFFF02), local_preference=100))
    assert by_name["first-ipv4"].share_across, "MetalLB's sharing keys know no namespaces"


def test_metallbs_peers():
    made = migrated("metallb.yaml")
    _, peers = admitted(made)
    assert peers.refused == {}
    assert peers.unsupported == {}
    one, two = peers.accepted
    assert (one.local_as, one.peer_as, one.port, one.hold_time_s, one.keepalive_s) == (64512, 64513, 1790, 90, 30)
    assert (one.password, peers.scopes[one.group].nodes.match_labels) == ("secret", {"rack": "one"})
    assert (two.local_as, two.peer_as, two.ttl, two.group) == (64600, 64512, 255, "all")
    assert two.sources == ("10.0.0.8",)


@pytest.mark.parametrize(
    "start",
    [
        "IPAddressPool/many-selectors: spec.serviceAllocation.serviceSelectors",
        "IPAddressPool/many-selectors: no BGPAdvertisement selects it",
        "BGPAdvertisement/all-east: spec.nodeSelectors",
        "BGPPeer/tor2: spec.bfdProfile",
        "BGPPeer/tor2: spec.passwordSecret",
        "BGPPeer/tor3: spec.dynamicASN",
        "L2Advertisement/l2: metallb.io/v1beta1 L2Advertisement has no equal here",
    ],
)
def test_what_has_no_equal_is_told(start):
    assert len(told(migrated("metallb.yaml"), start)) == 1


def test_porters_first_api():
    made = migrated("porter.yaml")
    pools, peers = admitted(made)
    by_name = {pool.name: pool for pool in pools.accepted}
    assert by_name["eip-sample"].disabled
    assert by_name["eip-sample"].skip_boundaries
    assert list(pools.refused) == ["eip-l2"]
    assert peers.refused == {}
    assert peers.conf_refusals == {}
    (peer,) = peers.accepted
    assert (peer.local_as, peer.peer_as, peer.address, peer.port) == (65000, 65001, "172.22.0.7", 1790)
    assert (peer.passive, peer.forwarded, peers.listening.port) == (True, True, 17900)
    assert told(made, "BgpConf/bgpconf-sample: spec.routerID")
    assert told(made, "Eip/eip-l2: spec.protocol")
    (newer,) = [d for d in made.documents if d["metadata"]["name"] == "newer"]
    assert newer == {**newer, "metadata": {"name": "newer"}, "spec": {"address": "192.168.7.0/24"}}
    assert "status" not in newer


def test_what_is_no_object_is_refused_by_what_it_says():
    with pytest.raises(ValueError, match="just a word"):
        migrate(["just a word"])


def test_a_field_of_the_wrong_kind_is_named():
    pool = {"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "odd"}}
    with pytest.raises(ValueError, match=r"IPAddressPool/odd: .*addresses"):
        migrate([{**pool, "spec": {"addresses": "10.0.0.0/24"}}])


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=12,
)
FIELDS = [
    "addresses",
    "serviceAllocation",
    "myASN",
    "holdTime",
    "nodeSelectors",
    "config",
    "transport",
    "as",
    "protocol",
]


@settings(max_examples=1000)
@given(
    st.sampled_from(["metallb.io/v1beta1", "network.kubesphere.io/v1alpha1", "v1"]),
    st.sampled_from(["IPAddressPool", "BGPPeer", "BGPAdvertisement", "Eip", "BgpConf", "BgpPeer", "List"]),
    st.one_of(anything, st.dictionaries(st.sampled_from(FIELDS), anything)),
    anything,
)
def test_whatever_is_given_is_read_or_refused(version, kind, spec, meta):
    document = {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}
    made = Migration()
    with contextlib.suppress(ValueError):
        made = migrate([document])
    assert all(ours["kind"] in KINDS for ours in made.documents)


def test_the_command():
    def command(*arguments, given=""):
        line = [sys.executable, "-m", "porter_ha.cli", "migrate", *arguments]
        return subprocess.run(line, input=given, capture_output=True, text=True, check=False)

    done = command(str(SAMPLES / "metallb.yaml"), str(SAMPLES / "porter.yaml"))
    assert done.returncode == 0, done.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert kinds.count("Eip") == 7
    assert "BGPPeer/tor2: spec.bfdProfile" in done.stderr
    piped = command(given=(SAMPLES / "porter.yaml").read_text())
    assert len(list(yaml.safe_load_all(piped.stdout))) == 5
    bad = command(given="- just a list")
    assert bad.returncode == 2
    assert "is no Kubernetes object" in bad.stderr
    assert command(given="a: [b").returncode == 2
