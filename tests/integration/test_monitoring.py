"""A real Prometheus over the lab: the dashboard's queries have data, and the right alert fires and resolves, alone."""

import pytest

from tests.lab import prometheus, routers
from tests.lab.cluster import MANIFEST, service, settled, wait_addresses
from tests.lab.controlplane import apply, kubectl
from tests.lab.shell import until
from tests.lab.topology import NODES, ROUTER_AS, lan

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def watched(clean):
    apply(service("web"))
    wait_addresses("web")
    settled()
    prometheus.begin()
    yield
    prometheus.end()


def test_the_whole_manifest_is_taken_by_the_api_server(clean):
    """Deployment and DaemonSet, too, which the lab does not run."""
    said = kubectl("apply", "--server-side", "--dry-run=server", "-f", str(MANIFEST))
    assert "deployment.apps/porter-ha-manager serverside-applied" in said
    assert "daemonset.apps/porter-ha-agent serverside-applied" in said


def test_every_panel_has_data_and_nothing_fires_while_all_is_well(watched):
    for panel, queries in prometheus.dashboard_queries().items():
        for expression in queries:
            until(f"{panel}: {expression}", lambda expression=expression: prometheus.query(expression), 30)
    fired = prometheus.query("ALERTS{alertstate='firing'}")
    assert fired == []


def test_the_right_alert_fires_and_resolves_and_no_other_does(watched):
    bad = {"address": "10.299.0.0/24"}
    meta = {"name": "bad", "labels": {"test": "bad"}}
    apply({"apiVersion": "network.kubesphere.io/v1alpha2", "kind": "Eip", "metadata": meta, "spec": bad})
    alerts = until("an alert", prometheus.firing, 30)
    assert list(alerts) == ["PorterHAObjectRefused"]
    assert (alerts["PorterHAObjectRefused"]["kind"], alerts["PorterHAObjectRefused"]["reason"]) == (
        "Eip",
        "EipAddressInvalid",
    )
    kubectl("delete", "eip", "bad")
    until("no alert", lambda: not prometheus.firing(), 30)
    shut = [f"neighbor {lan(node)[0]} shutdown" for node in NODES]
    routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *shut)
    try:
        alerts = until("an alert", prometheus.firing, 30)
        assert {name: labels.get("peer") for name, labels in alerts.items()} == {"PorterHAPeerDown": "router1-frr"}
    finally:
        routers.vtysh("configure terminal", f"router bgp {ROUTER_AS}", *[f"no {line}" for line in shut])
    until("no alert", lambda: not prometheus.firing(), 60)
    settled()
