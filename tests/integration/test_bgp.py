"""Sessions with FRR and BIRD: configured at run time, each on its own, down to the kernels' multipath routes."""

import json
from pathlib import Path

import pytest
import yaml

from tests.lab import nodes, routers
from tests.lab.cluster import MANIFESTS, conditions, service, wait_addresses, wait_condition, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.flows import RouteMonitor
from tests.lab.routers import bird_sessions
from tests.lab.shell import stop, until
from tests.lab.topology import NODES, ROUTER_AS, ROUTERS, lan

pytestmark = pytest.mark.usefixtures("clean")


def frr_neighbors() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(routers.vtysh("show bgp neighbors json"))
    return found


def frr_established() -> dict[str, int]:
    """Neighbour -> how often its session came up."""
    return {
        peer: state["connectionsEstablished"]
        for peer, state in frr_neighbors().items()
        if isinstance(state, dict) and state.get("bgpState") == "Established"
    }


@pytest.fixture
def eip():
    apply(service("web"))
    (address,) = wait_addresses("web")
    wait_fib(address, list(NODES))
    until("all replicas' sessions", lambda: len(bird_sessions()) == 3 and len(frr_established()) == 3, 30)
    return address


def test_every_capability_that_failover_needs_is_agreed(eip):
    leader = nodes.lan(nodes.leader())[0]
    said = frr_neighbors()[leader]
    capabilities = said["neighborCapabilities"]
    assert "advertisedAndReceived" in json.dumps(capabilities["4byteAs"])
    assert "rxAdvertisedAndReceived" in json.dumps(capabilities["addPath"]) or "Received" in json.dumps(
        capabilities["addPath"]
    )
    assert capabilities["gracefulRestart"] == "advertisedAndReceived"
    bird = routers.birdc("show protocols all")
    assert bird.count("AF preserved: ipv4 ipv6") == 3, "the F bit, from every replica"
    for word in ("Graceful restart", "ADD-PATH", "Route refresh", "Extended message"):
        assert word in bird


def test_a_peer_changes_and_no_other_session_drops(eip):
    before_bird, before_frr, monitor = bird_sessions(), frr_established(), RouteMonitor(eip)
    kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", '{"spec":{"timers":{"config":{"holdTime":"45"}}}}')

    def changed():
        found = frr_neighbors()
        return [found[n]["bgpTimerHoldTimeMsecs"] for n in before_frr if n in frr_established()] == [45000] * 3

    until("FRR's sessions with the new hold time", changed)
    assert bird_sessions() == before_bird
    assert all(frr_established()[n] == count + 1 for n, count in before_frr.items()), "reset once, not twice"
    wait_fib(eip, list(NODES))
    assert monitor.lines() == [], "the router kept the routes over the reset"
    kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", '{"spec":{"timers":null}}')
    until("all sessions", lambda: len(frr_established()) == 3, 30)


def test_a_description_resets_nothing(eip):
    before = bird_sessions(), frr_established()
    kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", '{"spec":{"conf":{"description":"top of rack"}}}')
    apply(service("marker", "web"))
    wait_fib(wait_addresses("marker")[0], list(NODES))
    assert (bird_sessions(), frr_established()) == before


@pytest.mark.parametrize(
    ("peer", "router", "theirs", "others"),
    [
        ("router2-bird", "router2", bird_sessions, frr_established),
        ("router1-frr", "router1", frr_established, bird_sessions),
    ],
)
def test_a_peer_is_removed_and_added_while_the_other_stays(eip, peer, router, theirs, others):
    """Its router forgets at once, also FRR, which keeps our routes after most NOTIFICATIONs (RFC 8538)."""
    before = others()
    kubectl("delete", "bgppeer", peer)
    until(f"no route in {router}", lambda: routers.fib(router).get(eip) is None, 10)
    assert others() == before
    kubectl("apply", "-f", str(MANIFESTS / "bgp.yaml"))
    wait_fib(eip, list(NODES))
    until("all replicas' sessions", lambda: len(theirs()) == 3, 30)
    assert others() == before


def test_a_router_without_add_path_is_told_of_and_gets_one_next_hop_for_each_eip(eip):
    routers.take_paths(several=False)
    try:
        status, reason, message = wait_condition("bgppeer", "router2-bird", "AddPath")
        assert (status, reason) == ("False", "NoAddPath")
        assert "add-path" in message
        until("one next hop in BIRD", lambda: len(routers.fib("router2").get(eip, ())) == 1)
        assert routers.node_names(routers.fib("router1")[eip]) == list(NODES), "the other router has all"
    finally:
        routers.take_paths(several=True)
        routers.forgive()
    wait_fib(eip, list(NODES), 60)
    until("no condition", lambda: "AddPath" not in conditions("bgppeer", "router2-bird"))
    until("all replicas' sessions", lambda: len(bird_sessions()) == 3, 60)


def test_a_session_over_a_hop_needs_multihop(eip):
    """A router that is no neighbour: with a TTL of 1 nothing reaches it, with 2 it hears everything."""
    routers.start_far()
    meta = {"name": "far", "labels": {"test": "far"}}
    spec = {"conf": {"peerAs": routers.FAR_AS, "neighborAddress": routers.FAR}}
    far = {"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "BgpPeer", "metadata": meta, "spec": spec}
    up = lambda: routers.birdc("show protocols", "bird-far").count("Established")  # noqa: E731
    try:
        apply(far)
        error = until("why not", lambda: [s["lastError"] for s in statuses("far") if s["lastError"]], 20)
        assert "cannot connect to 10.79.101.2" in error[0]
        assert up() == 0
        apply({**far, "spec": {**spec, "ebgpMultihop": {"enabled": True, "multihopTtl": 2}}})
        until("three sessions over the hop", lambda: up() == len(NODES), 30)
        hops = {f"via {lan(node)[0]}" for node in NODES}
        until("all next hops", lambda: all(h in routers.birdc(f"show route all for {eip}", "bird-far") for h in hops))
    finally:
        kubectl("delete", "bgppeer", "far")
        stop("bird-far")


def statuses(peer):
    """What each replica says of its session with the peer."""
    return list(get("bgppeer", peer).get("status", {}).get("nodesPeerStatus", {}).values())


def test_node_selector_scopes_the_next_hops_of_one_peer_only(eip):
    before = bird_sessions(), frr_established()
    kubectl("label", "node", "node1", "node2", "rack=a")
    selector = '{"spec":{"nodeSelector":{"matchLabels":{"rack":"a"}}}}'
    kubectl("patch", "bgppeer", "router2-bird", "--type=merge", "-p", selector)
    until(
        "two next hops in BIRD",
        lambda: routers.node_names(routers.fib("router2").get(eip, frozenset())) == ["node1", "node2"],
    )
    assert routers.node_names(routers.fib("router1")[eip]) == list(NODES)
    kubectl("patch", "bgppeer", "router2-bird", "--type=merge", "-p", '{"spec":{"nodeSelector":null}}')
    wait_fib(eip, list(NODES))
    kubectl("label", "node", "node1", "node2", "rack-")
    assert (bird_sessions(), frr_established()) == before, "no session was reset"


def test_openelbs_samples_change_running_state_without_a_restart(eip):
    """Its documentation's manifests as they are (their routers do not exist here), while ours serve on."""
    pids = {node: nodes.pids(node) for node in NODES}
    before = bird_sessions(), frr_established()
    samples = Path(__file__).parents[1] / "contract" / "openelb-samples" / "bgp.yaml"
    names = [(d["kind"].lower(), d["metadata"]["name"]) for d in yaml.safe_load_all(samples.read_text())]
    kept = [n for n in names if n != ("bgpconf", "default")]
    try:
        for document in yaml.safe_load_all(samples.read_text()):
            if document["kind"] != "BgpConf":
                apply(document)
        for kind, name in kept:
            assert wait_condition(kind, name, "Accepted")[0] == "True", name
        until("the pool in use", lambda: get("eip", "bgp-eip")["status"].get("poolSize") == 9)
        assert (bird_sessions(), frr_established()) == before
        conf = next(d for d in yaml.safe_load_all(samples.read_text()) if d["kind"] == "BgpConf")
        apply(conf)  # another AS: now every session must go, and the routers refuse the new AS
        until(
            "the router's refusal in the status", lambda: "AS" in kubectl("get", "bgppeer", "router1-frr", "-o", "yaml")
        )
        until("no session", lambda: not frr_established())
    finally:
        for kind, name in kept:
            kubectl("delete", kind, name, "--ignore-not-found")
        kubectl("replace", "--force", "-f", str(MANIFESTS / "bgp.yaml"))
        routers.forgive()
        until("all sessions again", lambda: len(bird_sessions()) == 3 and len(frr_established()) == 3, 60)
    wait_fib(eip, list(NODES))
    assert {node: nodes.pids(node) for node in NODES} == pids, "no process was restarted"


def test_the_status_names_state_capabilities_and_prefixes(eip):
    leader = nodes.leader()

    def told():
        entry = get("bgppeer", "router1-frr")["status"]["nodesPeerStatus"].get(leader, {})
        return entry if entry.get("prefixes") and entry["peerState"]["sessionState"] == "ESTABLISHED" else None

    entry = until("the session in the peer's status", told)
    assert entry["families"] == ["IPv4", "IPv6"]
    assert entry["addPath"] == ["IPv4", "IPv6"]
    assert entry["gracefulRestart"]


def test_a_session_that_is_lost_and_comes_back_is_told_by_events(eip):
    leader = nodes.leader()
    before = peer_events("SessionDown"), peer_events("SessionUp")
    routers.vtysh(f"clear bgp {nodes.lan(leader)[0]}")
    until(
        "both events", lambda: (peer_events("SessionDown") - before[0]) and (peer_events("SessionUp") - before[1]), 30
    )
    (lost,) = peer_events("SessionDown") - before[0]
    assert f"|{leader}: the router closed the session" in lost
    until("all sessions", lambda: len(frr_established()) == 3, 30)


def peer_events(reason):
    selector = f"involvedObject.kind=BgpPeer,involvedObject.name=router1-frr,reason={reason}"
    return {e["metadata"]["name"] + "|" + e["message"] for e in get("events", "--field-selector", selector)["items"]}


def test_a_route_refresh_is_answered_with_everything(eip):
    leader = nodes.lan(nodes.leader())[0]
    routers.vtysh(f"clear bgp ipv4 unicast {leader} in")
    apply(service("marker", "web"))
    wait_fib(wait_addresses("marker")[0], list(NODES))
    for router in ROUTERS:
        assert routers.node_names(routers.fib(router)[eip]) == list(NODES)


def frr_password(key: str) -> None:
    lines = [f"{'' if key else 'no '}neighbor {nodes.lan(n)[0]} password {key}".rstrip() for n in NODES]
    routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *lines)


def test_tcp_md5(eip):
    """RFC 2385: the right key brings the sessions up, a wrong one keeps them down, and BIRD's stay as they are."""
    before = bird_sessions()
    try:
        frr_password("correct-horse")
        kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", '{"spec":{"conf":{"authPassword":"wrong"}}}')
        until("FRR's sessions to be down", lambda: not frr_established(), 30)
        kubectl(
            "patch",
            "bgppeer",
            "router1-frr",
            "--type=merge",
            "-p",
            '{"spec":{"conf":{"authPassword":"correct-horse"}}}',
        )
        until("FRR's sessions with the key", lambda: len(frr_established()) == 3, 40)
        wait_fib(eip, list(NODES))
        assert bird_sessions() == before
    finally:
        frr_password("")
        kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", '{"spec":{"conf":{"authPassword":null}}}')
        until("FRR's sessions without a key", lambda: len(frr_established()) == 3, 40)


@pytest.mark.parametrize("word", ["holdTime", "keepaliveInterval"])
def test_timers_are_what_was_asked_for(eip, word):
    value, shown = {"holdTime": ("33", 33000), "keepaliveInterval": ("4", None)}[word]
    patch = json.dumps({"spec": {"timers": {"config": {word: value}}}})
    kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", patch)
    leader = nodes.lan(nodes.leader())[0]
    if shown:
        until("the hold time", lambda: frr_neighbors()[leader].get("bgpTimerHoldTimeMsecs") == shown, 30)
    else:
        until("the session", lambda: leader in frr_established(), 30)
        sent = lambda: frr_neighbors()[leader]["messageStats"]["keepalivesRecv"]  # noqa: E731
        first = sent()
        until("more keepalives than a third of the hold time would bring", lambda: sent() >= first + 2, 9.5)
    kubectl("patch", "bgppeer", "router1-frr", "--type=merge", "-p", '{"spec":{"timers":null}}')
    until("all sessions", lambda: len(frr_established()) == 3, 40)
