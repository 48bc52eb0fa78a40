"""The chart and the image on a cluster of real nodes: installed, used, upgraded, broken under traffic, and removed.

One story, told in order: each part starts from what the one before it left.
"""

import json

import msgspec
import pytest

from tests.lab import controlplane, drills, prometheus, real, real_drills, release, report, routers
from tests.lab.cluster import addresses, fetch, wait_addresses, wait_fib
from tests.lab.controlplane import kubectl
from tests.lab.shell import ROOT, inside, until
from tests.lab.topology import NODES, ROUTERS, client_source

RESULTS: list[drills.Result] = []  # of the drills; `make e2e` leaves them in build/real-drills.md


@pytest.fixture(scope="module")
def cluster():
    if reason := real.unable():
        pytest.skip(reason)
    try:
        real.up()
        yield
    finally:
        real.remove()


@pytest.fixture(scope="module")
def installed(cluster):
    release.install()
    release.web()
    release.serves()


@pytest.fixture
def watched(installed):
    prometheus.begin()
    yield
    prometheus.end()


def test_three_managers_and_an_agent_on_every_node(installed):
    assert sorted(release.pods("manager").values()) == list(NODES)
    assert sorted(release.pods("agent").values()) == list(NODES)
    for pod in (*release.pods("manager"), *release.pods("agent")):
        found = json.loads(kubectl("get", "pod", pod, "--namespace", release.NAMESPACE, "-o", "json"))
        (state,) = found["status"]["containerStatuses"]
        assert (state["ready"], state["restartCount"]) == (True, 0), pod


def test_services_are_reached_through_both_routers_and_every_node(installed):
    drills.settled()
    for name in drills.SERVICES:
        (eip,) = wait_addresses(name)
        wait_fib(eip, list(NODES))
        for router in ROUTERS:
            got = fetch(router, eip, 30)
            assert got["errors"] == {}, (name, router)
            assert sorted(got["served"]) == [f"web-{node}" for node in NODES], (name, router)


def test_a_local_service_sees_the_clients_address(installed):
    (eip,) = addresses("web-local")
    source = client_source("router1")[0]
    assert f" sees {source}\n" in inside("client", "curl", "-s", "--interface", source, f"http://{eip}/")


def test_helm_test_says_whether_the_installation_is_whole(installed):
    said = release.helm("test", release.RELEASE)
    assert "Succeeded" in said
    assert "2 of 3" not in said
    assert "3 of 3 replicas have a session" in said


@pytest.mark.parametrize("drill", real_drills.ALL, ids=lambda drill: drill.name)
def test_the_promise_is_kept(installed, drill):
    result = drills.execute(drill)
    RESULTS.append(result)
    (ROOT / "build" / "real-drills.md").write_text(report.markdown(RESULTS))
    assert result.ok, msgspec.json.encode(result).decode()
    assert result.packets_sent > 0
    assert result.eips_changed == 0
    if drill.may_lose:
        assert result.packets_lost > 0, "a drill that breaks nothing shows nothing"


def test_the_processes_use_each_verb_that_they_were_given_and_ask_for_no_other(installed):
    """By the API server's audit log, after all that has happened. Only servers without streaming lists need `list`."""
    asked, refused = controlplane.audited(release.NAMESPACE)
    assert refused == []
    for account in ("porter-ha-manager", "porter-ha-agent"):
        unused = release.granted(account) - asked[account]
        assert {verb for verb in unused if verb[2] != "list"} == set(), account
        watched = {verb[:2] for verb in release.granted(account) if verb[2] == "watch"}
        assert {verb[:2] for verb in unused} <= watched, account


def test_the_right_alerts_fire_and_resolve(watched):
    """A node is switched off: an agent is missing, and nothing else is wrong: two managers are enough."""
    victim = drills.standby_node()
    real.power_off(victim)
    try:
        until("its alert", prometheus.firing, 60)
        assert list(prometheus.firing()) == ["PorterHAAgentMissing"]
    finally:
        real.power_on(victim)
    until("3 Ready nodes", lambda: real.ready_nodes() == list(NODES), 120)
    real_drills.whole()
    until("no alert", lambda: not prometheus.firing(), 90)


CUSTOM = ("eip.", "bgpconf.", "bgppeer.", "term.")
KEPT = {"namespace/porter-ha-system", "apiservice.apiregistration.k8s.io/v1.porter-ha.io"}


def ours_in_the_api() -> set[str]:
    """Every object that is ours by its name or kind, but for CRDs, which Helm leaves to people, and Events."""
    kinds = set(kubectl("api-resources", "--verbs=list", "-o", "name").split()) - {"events", "events.events.k8s.io"}
    kinds -= {"customresourcedefinitions.apiextensions.k8s.io"}
    found = kubectl("get", ",".join(sorted(kinds)), "--all-namespaces", "-o", "name").split()
    return {name for name in found if "porter" in name or name.startswith(CUSTOM)} - KEPT


def test_nothing_is_left_after_helm_uninstall(installed):
    """Routers forget at once, long before the restart time; nodes, API and routers have nothing of ours."""
    drills.settled()
    eips = [addresses(name)[0] for name in drills.SERVICES]
    said = release.uninstall()
    assert "withdrawn: no manager has a session any more" in said
    assert "nodes are clean" in said
    for router in ROUTERS:
        assert not routers.fib(router).keys() & set(eips), router
    assert [line for line in routers.vtysh("show bgp ipv4 unicast").splitlines() if "10.20" in line] == []
    for node in NODES:
        assert inside(node, "ip", "route", "show", "table", "4790", check=False) == ""
        assert "4790" not in inside(node, "ip", "rule", "show")
        assert "porter" not in inside(node, "nft", "list", "tables")
        until(f"no process of ours on {node}", lambda node=node: not real_drills.processes(node), 60)
    until("nothing of ours in the API", lambda: not ours_in_the_api(), 60)
    assert [addresses(name)[0] for name in drills.SERVICES] == eips, "whoever installs again finds them"


def test_who_installs_again_finds_everything_as_it_was(installed):
    eips = {name: addresses(name) for name in drills.SERVICES}
    release.install()
    release.serves()
    assert {name: addresses(name) for name in drills.SERVICES} == eips
    release.uninstall()
