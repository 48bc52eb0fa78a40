"""OpenELB's own manifests mean here what they mean there."""

from pathlib import Path

import msgspec
import pytest
import yaml

from porter_ha.core.admit_bgp import Speaking, admit_bgp
from porter_ha.core.admit_eip import admit_eips
from porter_ha.model.crds import definitions
from porter_ha.model.objects import BgpConf, BgpConfSpec, BgpPeer, BgpPeerSpec, Eip, EipSpec

SAMPLES = Path(__file__).parent / "openelb-samples" / "bgp.yaml"
KINDS = {"Eip": Eip, "BgpConf": BgpConf, "BgpPeer": BgpPeer}
ME = Speaking("node1", ("10.0.0.1",))


@pytest.fixture(scope="module")
def samples():
    found = {kind: [] for kind in KINDS}
    for document in yaml.safe_load_all(SAMPLES.read_text()):
        found[document["kind"]].append(msgspec.json.decode(msgspec.json.encode(document), type=KINDS[document["kind"]]))
    return found


def test_peers(samples):
    peers = admit_bgp(samples["BgpConf"], samples["BgpPeer"], ME)
    assert peers.refused == {}
    simple, full = peers.accepted
    assert (simple.local_as, simple.peer_as, simple.router_id, simple.ttl) == (50000, 50001, "192.168.0.2", 1)
    assert (full.hold_time_s, full.keepalive_s, full.connect_retry_s, full.ttl) == (90, 20, 7, 3)
    assert full.ibgp
    assert full.families == (4,)
    assert simple.group != full.group, "a nodeSelector makes another scope"
    assert peers.conf_unsupported == ()
    assert peers.listening.port == 0, "nobody is passive, so there is nothing to listen for"


def test_eips(samples):
    pools = admit_eips(samples["Eip"])
    assert pools.refused == {}
    by_name = {p.name: p for p in pools.accepted}
    assert by_name["bgp-eip"].default
    assert by_name["bgp-eip"].ranges[0].size == 9
    assert by_name["eip-sample-pool"].namespaces == ("test-namespace",)
    assert by_name["eip-sample-pool"].priority == 100


def fields(struct):
    """Nested camelCase field names of a struct, as far as the schema should know them."""
    found = {}
    for info in msgspec.structs.fields(struct):
        inner = info.type
        for candidate in getattr(inner, "__args__", (inner,)):
            for leaf in getattr(candidate, "__args__", (candidate,)):
                if isinstance(leaf, type) and issubclass(leaf, msgspec.Struct):
                    found[info.encode_name] = fields(leaf)
        found.setdefault(info.encode_name, {})
    return found


def missing(wanted, schema, path):
    properties = schema.get("properties") or schema.get("items", {}).get("properties") or {}
    for name, inner in wanted.items():
        if name not in properties:
            yield f"{path}.{name}"
        elif inner:
            yield from missing(inner, properties[name], f"{path}.{name}")


@pytest.mark.parametrize(
    ("file", "spec"), [("eips.yaml", EipSpec), ("bgpconfs.yaml", BgpConfSpec), ("bgppeers.yaml", BgpPeerSpec)]
)
def test_the_schema_keeps_every_field_that_we_read(file, spec):
    schema = definitions()[file]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert list(missing(fields(spec), schema, "spec")) == []


@pytest.mark.parametrize("file", sorted(definitions()))
def test_the_written_crds_are_those_of_the_model(file):
    written = Path(__file__).parents[2] / "helm" / "porter-ha" / "crds" / file
    assert yaml.safe_load(written.read_text()) == definitions()[file], "run `make crds`"
