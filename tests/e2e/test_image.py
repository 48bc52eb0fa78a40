"""The built image serves: a manager and an agent out of it, with what the chart gives them, lead and program a node."""

import json
import shutil
import signal

import pytest

from tests.lab import cluster, image, nodes, routers
from tests.lab.cluster import fetch, service, settled, wait_addresses, wait_fib
from tests.lab.controlplane import KUBECONFIG, apply
from tests.lab.shell import ROOT, inside, run, stop, until
from tests.lab.topology import NODES, ROUTERS

NODE = "node3"
NEEDED = 6 << 30  # podman's simplest storage keeps each layer whole


@pytest.fixture(scope="module")
def built():
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED:
        pytest.skip(f"building the image takes {NEEDED >> 30} GiB of disk; {free >> 30} GiB are free")
    tag = image.build()
    cluster.up()
    pods = cluster.Pods()
    for node in NODES:
        pods.add(f"web-{node}", node, "web")
    made = image.Image(tag)
    try:
        settled()
        stop(f"{NODE}-manager", grace_s=30.0)
        stop(f"{NODE}-agent", grace_s=30.0)
        made.start(NODE, "porter-ha-manager", "manager")
        made.start(NODE, "porter-ha-agent", "agent")
        settled()
        yield made
    finally:
        cluster.down()
        made.remove()
        image.forget()


def process(name):
    """The manager or agent itself, of those that run in the image on the node."""
    return run("pgrep", "-f", f"^/opt/porter-ha/bin/python.* /opt/porter-ha/bin/porter-ha {name}").split()[0]


def test_it_leads_assigns_and_announces(built):
    while nodes.leader() != NODE:
        run(nodes.PORTER, "handover", "--kubeconfig", str(KUBECONFIG))
        settled()
    apply(service("web"))
    (eip,) = wait_addresses("web")
    wait_fib(eip, list(NODES))
    for router in ROUTERS:
        assert fetch(router, eip, 30)["errors"] == {}
    assert json.loads(nodes.endpoint(NODE, "/readyz", nodes.AGENT_PORT))["routes"] == 1
    assert eip in inside(NODE, "ip", "route", "show", "table", "4790")
    assert "porter-ha" in inside(NODE, "nft", "list", "tables")
    assert routers.node_names(routers.fib("router1")[eip]) == list(NODES)


def test_it_runs_with_the_charts_capabilities_on_a_read_only_root(built):
    for name, allowed in (("manager", {"net_admin", "net_raw", "net_bind_service"}), ("agent", {"net_admin"})):
        status = run("cat", f"/proc/{process(name)}/status")
        effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)
        numbers = {"net_bind_service": 10, "net_admin": 12, "net_raw": 13}
        assert effective == sum(1 << numbers[one] for one in allowed), name
        assert "NoNewPrivs:\t1" in status
        mounts = run("cat", f"/proc/{process(name)}/mountinfo")
        assert next(line for line in mounts.splitlines() if line.split()[4] == "/").split()[5].startswith("ro")


def test_it_carries_the_licences_of_what_is_in_it(built):
    notices = (built.root / "opt" / "porter-ha" / "THIRD-PARTY-NOTICES").read_text()
    for package in ("exabgp", "httptools", "msgspec", "pyroute2", "uvloop"):
        assert f"\n{package} " in notices, package


def test_it_ends_at_once_when_it_is_told_to(built):
    """SIGTERM to PID 1 of the container: another leads before this one is gone, and no route is lost."""
    (eip,) = wait_addresses("web")
    manager = process("manager")
    run("kill", f"-{int(signal.SIGTERM)}", manager)
    until("another leader", lambda: nodes.leader() not in ("", NODE), 20)
    until("its end", lambda: manager not in run("pgrep", "-f", "porter-ha manager", check=False).split(), 30)
    settled()
    wait_fib(eip, list(NODES))
