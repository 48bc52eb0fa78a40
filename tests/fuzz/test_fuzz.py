"""I9 with ten thousand cases each: whatever a router or a user sends, nothing raises, what is wrong is refused by its
field, and the good object beside it is used as if it were alone.
"""

import base64
import json

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porter_ha.bgp.codec import ExaWire
from porter_ha.core.admit_bgp import Speaking, admit_bgp, community_aliases
from porter_ha.core.admit_eip import admit_eips
from porter_ha.core.reconciler import Reconciler
from porter_ha.core.session import HEADER, KEEPALIVE, Close, Kind, Session, State, message
from porter_ha.core.shard import ShardState
from porter_ha.model.crds import definitions
from porter_ha.model.effects import Assign
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Secret, Service
from porter_ha.model.plan import Scope
from tests.unit.builders import peer, view
from tests.unit.test_session import established, router_open

CASES = settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
ME = Speaking("node1", ("10.1.0.1", "fd01::1"))
TELLING = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "3",
        "10.0.0.0/24",
        "10.0.0.9-10.0.0.1",
        "10.0.0.0/24,10.0.0.7",
        "fd00::/120",
        "::",
        "10.0.0.1",
        "fd01::1",
        "65001:1",
        "65001:1:2",
        "no-export",
        "999999:1",
        "é",
        "\x00",
        "In",
        "Exists",
        "Near",
        "bgp",
        "s",
    ]
)


def from_schema(schema):
    """Values that the API server would let through."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return few_of({name: from_schema(inner) for name, inner in schema["properties"].items()})
    if kind == "object":
        return st.dictionaries(TELLING, from_schema(schema.get("additionalProperties", {"type": "string"})), max_size=3)
    if kind == "array":
        return st.lists(from_schema(schema["items"]), max_size=3)
    if kind == "integer":
        size = 2**63 - 1 if schema.get("format") == "int64" else 2**31 - 1
        low, high = schema.get("minimum", -size - 1), schema.get("maximum", size)
        telling = [n for n in (-1, 0, 1, 3, 32, 128, 179, 65001, 65535, low, high) if low <= n <= high]
        return st.one_of(st.sampled_from(telling), st.integers(low, high))
    if kind == "boolean":
        return st.booleans()
    return st.one_of(TELLING, st.text(max_size=20))


def few_of(fields):
    """Two fields at most: what is wrong in many ways is refused for the first, and the rest is never looked at."""
    chosen = st.sets(st.sampled_from(sorted(fields)), max_size=2)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in names}))


def over(base, wild):
    """A good document with some of its fields replaced or added."""
    if not (isinstance(base, dict) and isinstance(wild, dict)):
        return wild
    return {**base, **{key: over(base.get(key), value) for key, value in wild.items()}}


def spec_of(file, **base):
    version = definitions()[file]["spec"]["versions"][0]
    return from_schema(version["schema"]["openAPIV3Schema"]["properties"]["spec"]).map(lambda wild: over(base, wild))


CONF = {"as": 65001}
PEER = {"conf": {"neighborAddress": "192.0.2.9", "peerAs": 65010}}


def read(kind, name, spec, **meta):
    document = {"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z", **meta}, "spec": spec}
    return msgspec.json.decode(json.dumps(document), type=kind)


labels = st.dictionaries(st.sampled_from(["rack", "openelb.kubesphere.io/rack"]), st.sampled_from(["a", ""]))


@CASES
@given(
    spec_of("bgpconfs.yaml", **CONF), spec_of("bgppeers.yaml", **PEER), labels, st.sampled_from(["s3cret", "", "\xff"])
)
def test_any_bgpconf_and_bgppeer(conf, wild, marks, secret):
    key = Secret(read(Service, "s", {}).metadata, {"password": base64.b64encode(secret.encode("latin-1")).decode()})
    good = read(BgpPeer, "good", {"conf": {"neighborAddress": "192.0.2.1", "peerAs": 65010}})
    peers = [read(BgpPeer, "wild", wild, labels=marks), good]
    found = admit_bgp([read(BgpConf, "default", conf)], peers, ME, {"wild"}, {"s": key})
    named = {p.name for p in found.accepted} | found.refused.keys()
    assert named == {"wild", "good"}, "used, or refused with a reason"
    assert all(refusal.message for refusal in found.refused.values())
    assert "default" in found.conf_refusals or "good" not in found.refused or found.refused["good"].reason
    assert {p.group for p in found.accepted} <= found.scopes.keys()
    alone = admit_bgp([read(BgpConf, "default", {"as": 65001})], peers, ME)
    assert "good" in {p.name for p in alone.accepted} or alone.refused["good"].reason == "PeerDuplicate"
    for settled in (*found.accepted, *alone.accepted):
        session = Session(settled, ExaWire())
        assert session.connected(0.0, restarting=True), "what is accepted can be said to a router"
    assert all(isinstance(value, str) for value in community_aliases([read(BgpConf, "default", conf)]).values())


@CASES
@given(spec_of("eips.yaml", address="10.0.0.0/29"), st.booleans())
def test_any_eip(wild, default):
    notes = {"eip.openelb.kubesphere.io/is-default-eip": "true"} if default else {}
    good = read(Eip, "good", {"address": "192.0.2.0/28"})
    found = admit_eips([read(Eip, "wild", wild, annotations=notes), good], {"ours": "65001:9"})
    assert {p.name for p in found.accepted} | found.refused.keys() == {"wild", "good"}
    made = leader(found)
    made.set_claim(claim_of({"metadata": meta("web"), "spec": {"type": "LoadBalancer"}}), 0.0)
    for effect in made.drain_effects():
        assert effect.key == "default/web"
        if isinstance(effect, Assign):
            assert all(made.allocator.holders(address) == ("default/web",) for address in effect.addresses)
    alone = admit_eips([good])
    assert [p.name for p in alone.accepted] == ["good"]


def leader(pools):
    made = Reconciler()
    made.set_scopes({"all": Scope(), "peer-x": Scope(peer="x")})
    made.change_nodes({"n1": view("n1", 1)})
    made.set_pools(pools, 0.0)
    made.begin_term(0.0)
    return made


def meta(name, **more):
    notes = {"lb.kubesphere.io/v1alpha1": "porter", **more.pop("annotations", {})}
    return {"name": name, "namespace": "default", "uid": name, "annotations": notes, **more}


def claim_of(document):
    state = ShardState(classless=False)
    state.set_service(
        "default/" + document["metadata"]["name"], msgspec.json.decode(json.dumps(document), type=Service)
    )
    ((claim,), _) = state.drain()
    return claim


addresses = st.lists(TELLING, max_size=3)
notes = st.dictionaries(
    st.sampled_from(
        [
            "lb.kubesphere.io/v1alpha1",
            "lb.kubesphere.io/v1apha1",
            "eip.openelb.kubesphere.io/v1alpha1",
            "eip.openelb.kubesphere.io/v1alpha2",
            "porter-ha.io/eips",
            "porter-ha.io/sharing-key",
        ]
    ),
    st.one_of(TELLING, st.just("porter")),
    max_size=5,
)
ports = st.lists(st.fixed_dictionaries({"port": st.integers(1, 65535)}, optional={"protocol": TELLING}), max_size=3)
services = st.fixed_dictionaries(
    {
        "metadata": st.builds(lambda found: {**meta("wild"), "annotations": found}, notes),
        "spec": st.fixed_dictionaries(
            {"type": st.sampled_from(["LoadBalancer", "LoadBalancer", "ClusterIP"])},
            optional={
                "loadBalancerClass": st.sampled_from([None, "porter-ha.io/bgp", "other"]),
                "loadBalancerIP": TELLING,
                "ipFamilies": st.lists(st.sampled_from(["IPv4", "IPv6", "IPv9"]), max_size=2, unique=True),
                "ipFamilyPolicy": st.sampled_from([None, "SingleStack", "PreferDualStack", "RequireDualStack"]),
                "externalTrafficPolicy": st.sampled_from(["Local", "Cluster"]),
                "ports": st.one_of(st.none(), ports),
                "selector": st.one_of(st.none(), st.dictionaries(TELLING, TELLING, max_size=2)),
            },
        ),
        "status": st.fixed_dictionaries(
            {}, optional={"loadBalancer": st.builds(lambda ips: {"ingress": [{"ip": ip} for ip in ips]}, addresses)}
        ),
    }
)
endpoint = st.fixed_dictionaries(
    {},
    optional={
        "nodeName": st.one_of(st.none(), TELLING),
        "conditions": st.dictionaries(
            st.sampled_from(["ready", "serving", "terminating"]), st.one_of(st.none(), st.booleans())
        ),
    },
)
slices = st.fixed_dictionaries(
    {"metadata": st.just(meta("wild-1")), "addressType": st.sampled_from(["IPv4", "IPv6", "FQDN", "?"])},
    optional={"endpoints": st.one_of(st.none(), st.lists(endpoint, max_size=3))},
)


@CASES
@given(services, slices)
def test_any_service_beside_a_good_one(wild, part):
    state = ShardState(classless=False)
    state.set_service("default/wild", msgspec.json.decode(json.dumps(wild), type=Service))
    state.set_slice("default/wild", "wild-1", msgspec.json.decode(json.dumps(part), type=EndpointSlice))
    found, _ = state.drain()
    pools = admit_eips([read(Eip, "pool", {"address": "10.0.0.0/24"}), read(Eip, "six", {"address": "fd00::/120"})])
    made = leader(pools)
    for claim in found:
        made.set_claim(claim, 0.0)
    good = {"metadata": meta("good"), "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"]}}
    made.set_claim(claim_of(good), 0.0)
    effects = {effect.key: effect for effect in made.drain_effects()}
    assert isinstance(effects["default/good"], Assign), "the good one gets its address"
    for claim in found:
        if claim.wants:
            settled = claim.key in effects or claim.key in made.waiting or made.allocator.settled(claim)
            assert settled, "decided, or told why not"


bodies = st.binary(max_size=120)
messages = st.one_of(
    st.builds(message, st.sampled_from(list(Kind)), bodies),
    st.binary(max_size=100),
    st.just(KEEPALIVE),
    st.builds(lambda body: message(Kind.OPEN, router_open()[HEADER.size :][: len(body)] + body), bodies),
    st.builds(
        lambda at, value: bytes(b if i != at else value for i, b in enumerate(router_open())),
        st.integers(0, 80),
        st.integers(0, 255),
    ),
)


@CASES
@given(st.lists(messages, max_size=6), st.booleans(), st.lists(st.integers(1, 30), max_size=4))
def test_any_bytes_of_a_router(chunks, up, cuts):
    """In any pieces: the session goes on, or ends with a reason; it never raises, and never hangs on."""
    session = established() if up else Session(peer(), ExaWire())
    if not up:
        session.connected(0.0, restarting=False)
    data = b"".join(chunks)
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        for output in session.received(piece, 1.0):
            if isinstance(output, Close):
                assert output.error
                assert session.state is State.IDLE
    assert session.deadline > 0
