"""What routers are told of EIPs: shared addresses, prefixes, communities, to whom, and racks; on real routers."""

import json

import pytest

from tests.integration.test_bgp import frr_established
from tests.lab import routers
from tests.lab.cluster import addresses, fetch, service, settled, wait_addresses, wait_condition, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.routers import bird_sessions
from tests.lab.shell import LabError, until
from tests.lab.topology import NODES

pytestmark = pytest.mark.usefixtures("clean")
PREFIX = "10.203.7.0/26"
KEY = {"porter-ha.io/sharing-key": "one"}


def port(number, protocol="TCP"):
    return {"ports": [{"name": "p", "port": number, "targetPort": 8080, "protocol": protocol}]}


def pool(**spec):
    apply(
        {
            "apiVersion": "network.kubesphere.io/v1alpha2",
            "kind": "Eip",
            "metadata": {"name": "told", "labels": {"test": "told"}},
            "spec": {"address": PREFIX, "autoAssign": False, **spec},
        }
    )


def from_pool(name, **more):
    return service(name, "web", annotations={"eip.openelb.kubesphere.io/v1alpha2": "told"}, **more)


def test_two_services_share_an_address_each_with_its_port():
    apply(service("one", "web", annotations=KEY, **port(80)))
    (eip,) = wait_addresses("one")
    apply(service("two", "web", annotations=KEY, **port(443)))
    assert wait_addresses("two") == (eip,)
    apply(service("three", "web", annotations=KEY, **port(443)))
    assert wait_addresses("three") != (eip,), "443 is taken there"
    settled()
    wait_fib(eip, list(NODES))
    for number in (80, 443):
        assert fetch("router1", eip, 10, number)["errors"] == {}
    used = until("both holders in the pool's status", lambda: u if ";" in (u := holders(eip)) else "")
    assert set(used.split(";")) == {"default/one", "default/two"}
    kubectl("delete", "service", "one")
    until("its port to be refused", lambda: fetch("router1", eip, 5, 80)["errors"], 20)
    assert fetch("router1", eip, 10, 443)["errors"] == {}
    wait_fib(eip, list(NODES))


def holders(eip):
    return get("eip", "pool-v4")["status"].get("used", {}).get(eip, "")


def test_who_takes_anothers_port_of_a_shared_address_moves_and_the_other_does_not_notice():
    apply(service("one", "web", annotations=KEY, **port(80)))
    (eip,) = wait_addresses("one")
    apply(service("two", "web", annotations=KEY, **port(443)))
    assert wait_addresses("two") == (eip,)
    apply(service("two", "web", annotations=KEY, **port(80)))
    until("another address", lambda: len(addresses("two")) == 1 and addresses("two") != (eip,), 20)
    assert addresses("one") == (eip,)


def bird_route(prefix):
    """BIRD's paths to a prefix; empty when it has none."""
    try:
        return routers.birdc(f"show route {prefix} all")
    except LabError as error:
        if "Network not found" not in str(error):
            raise
        return ""


def frr_paths(prefix):
    return json.loads(routers.vtysh(f"show bgp ipv4 {prefix} json")).get("paths")


def test_a_prefix_with_communities_to_all_and_the_address_itself_to_one():
    settled()
    before = bird_sessions(), frr_established()
    communities = ["65001:100", "no-export", "mine", "65001:1:2"]
    kubectl("patch", "bgpconf", "default", "--type=merge", "-p", '{"spec":{"communities":{"mine":"65001:7"}}}')
    told = [{"aggregationLength": 26, "communities": communities}, {"peers": ["router1-frr"], "communities": ["1:2"]}]
    pool(advertisements=told)
    try:
        apply(from_pool("web"))
        (eip,) = wait_addresses("web")
        said = until("the prefix in BIRD", lambda: s if "BGP.community" in (s := bird_route(PREFIX)) else "", 20)
        for words in ("(65001,100)", "(65535,65281)", "(65001,7)", "(65001, 1, 2)"):
            assert words in said, said
        frr = until("the address in FRR", lambda: frr_paths(f"{eip}/32"))
        assert {path["community"]["string"] for path in frr} == {"1:2"}
        assert "BGP" not in bird_route(f"{eip}/32"), "that one is for FRR only"
        assert routers.node_names(routers.fib("router2")[PREFIX.partition("/")[0]]) == list(NODES)
        assert fetch("router2", eip, 10)["errors"] == {}
        assert (bird_sessions(), frr_established()) == before, "a peer that an Eip names keeps its session"
        pool(advertisements=[{"communities": ["65001:200"]}])
        until("the edited advertisement", lambda: "(65001,200)" in bird_route(f"{eip}/32"), 20)
        until("no prefix any more", lambda: "BGP" not in bird_route(PREFIX), 20)
        assert addresses("web") == (eip,)
        pool(advertisements=[{"communities": ["nobody's"]}])
        verdict = wait_condition("eip", "told", "Accepted")
        until("the refusal", lambda: wait_condition("eip", "told", "Accepted")[0] == "False", 20)
        assert "spec.advertisements[0].communities[0]" in wait_condition("eip", "told", "Accepted")[2], verdict
        assert addresses("web") == (eip,)
    finally:
        kubectl("patch", "bgpconf", "default", "--type=merge", "-p", '{"spec":{"communities":null}}')
    assert (bird_sessions(), frr_established()) == before


def test_racks_have_their_own_as_and_their_own_next_hops():
    """OpenELB's asPerRack: node3 and router1 stand in rack b, the rest in rack a."""
    label = "openelb.kubesphere.io/rack"
    apply(service("web"))
    (eip,) = wait_addresses("web")
    settled()
    routers.accept_any_as(True)
    try:
        kubectl("label", "node", "node1", "node2", f"{label}=a")
        kubectl("label", "node", "node3", f"{label}=b")
        kubectl("label", "bgppeer", "router1-frr", f"{label}=b")
        kubectl("label", "bgppeer", "router2-bird", f"{label}=a")
        kubectl("patch", "bgpconf", "default", "--type=merge", "-p", '{"spec":{"asPerRack":{"a":65101,"b":65102}}}')
        wanted = {"router1": ["node3"], "router2": ["node1", "node2"]}
        for router, names in wanted.items():
            until(
                f"{names} in {router}",
                lambda router=router, names=names: (
                    routers.node_names(routers.fib(router).get(eip, frozenset())) == names
                ),
                60,
            )
        settled()
        assert "BGP.as_path: 65101" in bird_route(f"{eip}/32")
        (path, *_) = frr_paths(f"{eip}/32")
        assert path["aspath"]["string"] == "65102"
        for router in wanted:
            assert fetch(router, eip, 10)["errors"] == {}
    finally:
        kubectl("patch", "bgpconf", "default", "--type=merge", "-p", '{"spec":{"asPerRack":null}}')
        kubectl("label", "node", *NODES, f"{label}-")
        kubectl("label", "bgppeer", "router1-frr", "router2-bird", f"{label}-")
        routers.accept_any_as(False)
        routers.forgive()
    settled()
    wait_fib(eip, list(NODES))
