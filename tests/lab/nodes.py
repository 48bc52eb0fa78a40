"""The lab's nodes: real kube-proxy (nftables on two, iptables on one), the kubelet stand-in, our agent and manager."""

import contextlib
import json
import os
import signal

from tests.lab import topology
from tests.lab.controlplane import kubeconfig
from tests.lab.shell import PARTS, PIDS, PYTHON, STATE, LabError, inside, session_pids, start, stop
from tests.lab.topology import NODES, lan

PROXY_MODES = {"node1": "nftables", "node2": "iptables", "node3": "nftables"}
PORTER = str(PYTHON.parent / "porter-ha")
PLUGIN = str(PYTHON.parent / "kubectl-porter")
MANAGER_PORT, AGENT_PORT = 7472, 7473


def start_proxy(node: str) -> None:
    config = STATE / f"kube-proxy-{node}.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "hostnameOverride": node,
                "mode": PROXY_MODES[node],
                "clusterCIDR": "10.244.0.0/16,fd44::/16",
                "clientConnection": {"kubeconfig": str(kubeconfig("proxy"))},
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
                "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
                "nftables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
                "oomScoreAdj": 0,
            }
        )
    )
    start(f"{node}-kube-proxy", [str(PARTS / "kube-proxy"), f"--config={config}", "--v=1"], node)


def start_kubelet(node: str) -> None:
    command = [str(PYTHON), "-m", "tests.lab.kubelet", str(kubeconfig("kubelet")), node, ",".join(lan(node))]
    start(f"{node}-kubelet", command, node)


def start_agent(node: str) -> None:
    command = [PORTER, "agent", "--node", node, "--kubeconfig", str(kubeconfig("agent"))]
    start(f"{node}-agent", command, node, respawn=True)


def remove_agent(node: str) -> None:
    """Uninstall the agent, as the chart's hook would."""
    stop(f"{node}-agent")
    inside(node, PORTER, "agent", "--node", node, "--remove")


def start_manager(node: str, shards: int = 1) -> None:
    addresses = [part for address in lan(node) for part in ("--node-address", address)]
    command = [PORTER, "manager", "--node", node, *addresses, "--shards", str(shards)]
    command += ["--kubeconfig", str(kubeconfig("manager"))]
    start(f"{node}-manager", command, node, env={"POD_NAME": f"porter-ha-manager-{node}"}, respawn=True)


def start_node(node: str) -> None:
    start_kubelet(node)
    start_proxy(node)


def power_off(node: str) -> None:
    """Pull the cable and kill everything: what a dead machine looks like from outside."""
    topology.set_link(node, up=False)
    for part in ("manager", "agent", "kubelet", "kube-proxy"):
        stop(f"{node}-{part}", signal.SIGKILL)


def power_on(node: str) -> None:
    topology.set_link(node, up=True)
    start_node(node)
    start_agent(node)
    start_manager(node)


def endpoint(node: str, path: str, port: int = MANAGER_PORT) -> str:
    """What a pod process on the node answers over HTTP, whatever the status."""
    return inside(node, "curl", "-s", "-m", "2", f"http://127.0.0.1:{port}{path}")


def ready(node: str, port: int = MANAGER_PORT) -> dict[str, object]:
    """/readyz as JSON; empty while there is no answer."""
    try:
        found: dict[str, object] = json.loads(endpoint(node, "/readyz", port))
    except (LabError, ValueError):
        return {}
    return found


def pids(node: str) -> dict[str, int]:
    """Worker name -> process id of the manager on the node; empty while it does not answer."""
    found = ready(node).get("pids", {})
    assert isinstance(found, dict)
    return found


def leader() -> str:
    """The node whose manager leads; empty when none does."""
    return next((node for node in NODES if ready(node).get("leading")), "")


def manager_pids(node: str) -> list[int]:
    """The living processes of the manager on the node, the manager itself first."""
    wrapper = int((PIDS / f"{node}-manager").read_text())
    found = [pid for pid in session_pids(wrapper) if pid != wrapper]
    workers = set(pids(node).values())
    return sorted(found, key=lambda pid: (pid in workers, pid))


def kill_manager(node: str) -> None:
    """SIGKILL a manager and its workers, all at once; the wrapper starts it again, as a kubelet would."""
    for pid in manager_pids(node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
