"""One lab for all integration tests: brought up by the first that asks, removed after the last."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import cluster
from tests.lab.controlplane import apply, kubectl
from tests.lab.shell import LOGS
from tests.lab.topology import NODES


@pytest.fixture(scope="session")
def lab() -> Iterator[cluster.Pods]:
    """The lab with Porter HA, and three pods `web-nodeN` with the label app=web."""
    try:
        cluster.up()
        pods = cluster.Pods()
        for node in NODES:
            pods.add(f"web-{node}", node, "web")
        yield pods
    finally:
        cluster.down()


@pytest.fixture
def clean(lab: cluster.Pods) -> Iterator[cluster.Pods]:
    """The lab, with the default namespace's Services of this test removed afterwards."""
    yield lab
    kubectl("delete", "services", "-l", "component!=apiserver", "--wait=true")
    kubectl("delete", "eip", "-l", "test", "--ignore-not-found")


@pytest.fixture
def eip(clean: cluster.Pods) -> str:
    """The EIP of a Service `web`, in both routers over all nodes, with every replica and session well."""
    apply(cluster.service("web"))
    (address,) = cluster.wait_addresses("web")
    cluster.settled()
    cluster.wait_fib(address, list(NODES))
    return address


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of every manager's and agent's log."""
    report = (yield).get_result()
    if report.failed and LOGS.exists():
        for log in sorted(LOGS.glob("node*-manager.log")) + sorted(LOGS.glob("node*-agent.log")):
            tail = subprocess.run(["tail", "-n", "25", str(log)], capture_output=True, text=True, check=False).stdout
            report.sections.append((log.name, tail))
