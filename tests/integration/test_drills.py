"""`porter-ha drill`: the shortest drills, for the machinery; `make drill` runs all of them."""

import json
import subprocess

import msgspec
import pytest

from tests.lab import controlplane, drills, nodes, report
from tests.lab.cluster import addresses
from tests.lab.controlplane import apply, kubectl
from tests.lab.shell import LabError, inside
from tests.lab.topology import batch, lan


@pytest.fixture(scope="module")
def ready(lab):
    apply(*drills.services())
    drills.routed()
    yield
    kubectl("delete", "services", "-l", "component!=apiserver")


@pytest.mark.parametrize("name", ["leader-crash", "speaker-crash", "node-down"])
def test_the_promise_is_kept(ready, name):
    (drill,) = drills.chosen(name)
    result = drills.execute(drill)
    assert result.ok, msgspec.json.encode(result).decode()  # pytest would shorten the struct
    assert result.packets_sent > 0
    assert result.connections > 0
    assert result.eips_changed == 0
    if name == "leader-crash":
        assert result.leaders, "somebody took the Lease"
        assert result.assigns_s >= result.takeover_s, "and its API door is open later"
    if name == "node-down":
        assert result.packets_lost > 0, "a drill that breaks nothing shows nothing"
    page = report.html([result])
    assert name in page
    assert "http" not in page.replace("http-equiv", ""), "the report needs nothing from outside"


def test_a_broken_promise_is_seen(ready):
    """The counting bites: with a router that drops the EIP's packets, a drill that allows no loss fails."""
    table = "table inet thief { chain f { type filter hook forward priority 0; udp dport 80 drop; }; }"

    def steal() -> None:
        drills.inside("router1", "nft", "-f", "-", stdin=table)

    result = drills.execute(drills.Drill("theft", "nothing is lost", 3, steal, _stop_theft))
    assert not result.ok
    assert result.packets_lost > 0


def _stop_theft() -> None:
    drills.inside("router1", "nft", "delete", "table", "inet", "thief")


def test_an_unknown_drill_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(LabError, match="leader-crash"):
        drills.chosen("no-such-drill")
    done = subprocess.run([nodes.PORTER, "drill", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "there is no drill 'nonsense'" in done.stderr


def test_a_handover_on_a_cluster_in_use(ready):
    """As its users run it: from a machine that reaches the API server and, through a router, the EIPs."""
    eip, leader = addresses("web")[0], nodes.leader()
    live = ["drill", "planned-handover", "--live", "--kubeconfig", str(controlplane.KUBECONFIG)]
    batch([f"route add {eip}/32 via {lan('router1')[0]}"], "controlplane")
    try:
        found = json.loads(inside("controlplane", nodes.PORTER, *live, "--target", f"{eip}:80"))
    finally:
        batch([f"route del {eip}/32"], "controlplane")
    assert (found["ok"], found["connections_lost"], found["eips_changed"]) == (True, 0, 0), found
    assert found["connections"] > 100
    assert found["eips"] >= len(drills.SERVICES)
    assert leader in found["before"]
    assert leader not in found["after"]


def test_only_what_is_safe_runs_on_a_cluster_in_use():
    unsafe = [nodes.PORTER, "drill", "leader-crash", "--live"]
    done = subprocess.run(unsafe, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is planned-handover" in done.stderr
