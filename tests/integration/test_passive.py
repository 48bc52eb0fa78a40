"""Routers that dial in, and nodes on which the BGP port is somebody else's: Calico's BIRD, with sessions of its own."""

import contextlib
import json

import pytest

from tests.integration.test_bgp import frr_established, frr_neighbors
from tests.lab import calico, nodes, routers
from tests.lab.cluster import settled, wait_condition, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.flows import RouteMonitor
from tests.lab.shell import inside, until
from tests.lab.topology import NODES, OUR_AS, ROUTER_AS, lan

pytestmark = pytest.mark.usefixtures("clean")
OWN = {node: f"10.79.0.12{node[-1]}" for node in NODES}


def patch(kind, name, spec):
    kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))


@contextlib.contextmanager
def passive(**more):
    """BgpPeer router1-frr as a passive one; FRR dials."""
    patch("bgppeer", "router1-frr", {"transport": {"passiveMode": True}, **more})
    try:
        yield
    finally:
        patch("bgppeer", "router1-frr", {"transport": None, **dict.fromkeys(more)})
        settled()


@contextlib.contextmanager
def port(number):
    patch("bgpconf", "default", {"listenPort": number})
    try:
        yield
    finally:
        patch("bgpconf", "default", {"listenPort": None})


@contextlib.contextmanager
def calicos(with_router=False):
    """A BIRD of Calico's on every node."""
    for node in NODES:
        calico.start_bird(node, with_router=with_router)
    try:
        calico.wait_sessions(len(NODES) - 1 + with_router)
        yield
    finally:
        for node in NODES:
            calico.stop_bird(node)


def entry(node):
    found = get("bgppeer", "router1-frr")["status"]["nodesPeerStatus"].get(node, {})
    return found.get("peerState", {}).get("sessionState"), found.get("lastError", "")


def dialled_by_frr():
    """FRR's sessions that are up, and who called: True where FRR did."""
    found = frr_neighbors()
    up = frr_established()
    return {peer: found[peer]["portForeign"] in (179, 17900) for peer in up}


def tables(node):
    return inside(node, "nft", "list", "tables")


def test_the_router_dials_every_replica_and_a_leaders_death_loses_no_route(eip):
    other = routers.bird_sessions()
    with passive():
        until("FRR's calls to be taken", lambda: list(dialled_by_frr().values()) == [True] * 3, 40)
        settled()
        assert routers.bird_sessions() == other, "the other peer's sessions stay"
        monitor, med = RouteMonitor(eip), routers.best_med(eip)
        nodes.kill_manager(nodes.leader())
        until("the next term's paths", lambda: routers.best_med(eip) < med, 10, 0.05)
        settled()
        until("FRR to have all three again", lambda: len(frr_established()) == 3, 60)
        wait_fib(eip, list(NODES))
        assert [line for line in monitor.lines() if "Deleted" in line] == []


def test_beside_calicos_bird_the_routers_calls_are_redirected(eip):
    """The router is not Calico's peer: its address alone tells its calls from those of Calico's mesh."""
    with calicos():
        mesh = {node: calico.sessions(node) for node in NODES}
        before = {node: calico.everything_of_others(node) for node in NODES}
        with passive():  # on 179, which Calico has: told, and nobody is hurt
            leader = nodes.leader()
            until("the taken port in the status", lambda: "Address already in use" in entry(leader)[1], 30)
            assert "listenPort" in entry(leader)[1]
        other = routers.bird_sessions()
        with port(17900), passive(usingPortForward=True):
            until("FRR's calls to be taken", lambda: list(dialled_by_frr().values()) == [True] * 3, 40)
            wait_fib(eip, list(NODES))
            assert routers.bird_sessions() == other, "another listening port resets nobody"
            assert all("porter-ha-bgp" in tables(node) for node in NODES)
            assert calico.disturbed(mesh) == []
            assert {node: calico.everything_of_others(node) for node in NODES} == before
        for node in NODES:
            until("the redirection to be gone", lambda node=node: "porter-ha-bgp" not in tables(node), 10)
        assert calico.disturbed(mesh) == []
        assert {node: calico.everything_of_others(node) for node in NODES} == before


def frr_lines(no):
    out = []
    for address in OWN.values():
        out += [f"{no}neighbor {address} remote-as {OUR_AS}"]
        if not no:
            out += [f"neighbor {address} timers connect 1", "address-family ipv4 unicast"]
            out += [f"neighbor {address} activate", "exit-address-family"]
    return out


@contextlib.contextmanager
def addresses_of_our_own():
    """One more address per node, and FRR as its neighbour."""
    for node, address in OWN.items():
        inside(node, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
    routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *frr_lines(""))
    try:
        yield
    finally:
        routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *frr_lines("no "))
        for node, address in OWN.items():
            inside(node, "ip", "addr", "del", f"{address}/24", "dev", "eth0")


def test_a_router_that_is_calicos_peer_too_is_met_from_addresses_of_our_own(eip):
    """The session from the node's address is Calico's. Ours waits, says what would help, and never disturbs it."""
    patch("bgppeer", "router1-frr", {"conf": {"adminDown": True}})
    until("our sessions to be gone", lambda: not frr_established(), 20)
    try:
        with calicos(with_router=True), addresses_of_our_own():
            theirs = {node: calico.sessions(node) for node in NODES}
            patch("bgppeer", "router1-frr", {"conf": {"adminDown": None}})
            leader = nodes.leader()
            until("what is in the way", lambda: "another BGP speaker" in entry(leader)[1], 30)
            assert wait_condition("bgppeer", "router1-frr", "Collision")[1] == "BgpCollision"
            assert calico.disturbed(theirs) == []
            patch("bgppeer", "router1-frr", {"sourceAddresses": list(OWN.values())})
            until("our sessions beside Calico's", lambda: len(frr_established()) == 6, 40)
            wait_fib(eip, list(NODES))
            forwarded = {"transport": {"passiveMode": True}, "usingPortForward": True}
            with port(17900):
                patch("bgppeer", "router1-frr", forwarded)
                until("the router to call our addresses", lambda: set(OWN.values()) <= set(frr_established()), 40)
                until("every EIP", lambda: routers.node_names(routers.fib("router1").get(eip, frozenset())), 20)
                until("the session in the status", lambda: entry(leader)[0] == "ESTABLISHED", 20)
                patch("bgppeer", "router1-frr", {**dict.fromkeys(forwarded), "sourceAddresses": None})
            assert calico.disturbed(theirs) == []
            patch("bgppeer", "router1-frr", {"conf": {"adminDown": True}})
    finally:
        patch("bgppeer", "router1-frr", {"conf": {"adminDown": None}, "sourceAddresses": None})
    settled()
    wait_fib(eip, list(NODES))


def test_ttl_security_with_a_router_that_demands_it(eip):
    """RFC 5082 on both ends: FRR takes packets with TTL 255 only, and so do we."""
    lines = [f"neighbor {lan(node)[0]} ttl-security hops 1" for node in NODES]
    routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *lines)
    try:
        until("FRR's sessions to be down", lambda: not frr_established(), 60)
        patch("bgppeer", "router1-frr", {"ttlSecurityHops": 1})
        until("FRR's sessions with it", lambda: len(frr_established()) == 3, 40)
        wait_fib(eip, list(NODES))
    finally:
        routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *[f"no {line}" for line in lines])
        patch("bgppeer", "router1-frr", {"ttlSecurityHops": None})
    settled()
    wait_fib(eip, list(NODES))


def test_a_password_out_of_a_secret_and_its_change(eip):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "frr", "namespace": "porter-ha-system"}}

    def frr_password(key):
        lines = [f"{'' if key else 'no '}neighbor {lan(n)[0]} password {key}".rstrip() for n in NODES]
        routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *lines)

    other = routers.bird_sessions()
    try:
        patch("bgppeer", "router1-frr", {"conf": {"authPasswordSecret": {"name": "frr"}}})
        assert "there is no Secret 'frr'" in until(
            "the missing Secret in the status",
            lambda: told if "Secret" in (told := wait_condition("bgppeer", "router1-frr", "Accepted")[2]) else "",
        )
        frr_password("first")
        apply({**secret, "stringData": {"password": "first"}})
        until("FRR's sessions with the key", lambda: len(frr_established()) == 3, 40)
        frr_password("second")
        apply({**secret, "stringData": {"password": "second"}})
        until("FRR's sessions with the new key", lambda: len(frr_established()) == 3, 60)
        wait_fib(eip, list(NODES))
        assert routers.bird_sessions() == other
    finally:
        frr_password("")
        patch("bgppeer", "router1-frr", {"conf": {"authPasswordSecret": None}})
        kubectl("delete", "secret", "-n", "porter-ha-system", "frr", "--ignore-not-found")
    settled()
