"""Porter HA on the real nodes, as a user installs it: the chart, by helm, and web servers as a DaemonSet."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.lab import drills
from tests.lab.cluster import MANIFESTS, settled
from tests.lab.controlplane import KUBECONFIG, Verb, apply, get, kubectl
from tests.lab.shell import ROOT, LabError, until

HELM = ROOT / "build" / "helm"
CHART = ROOT / "helm" / "porter-ha"
NAMESPACE = "porter-ha-system"
RELEASE = "porter-ha"
PATIENCE_S = 300
WAIT = ("--wait", "--timeout", f"{PATIENCE_S}s")


def helm(*arguments: str) -> str:
    """helm, in our namespace. Raises LabError with its own words."""
    whole = [str(HELM), "--namespace", NAMESPACE, *arguments]
    environment = {**os.environ, "KUBECONFIG": str(KUBECONFIG)}
    done = subprocess.run(
        whole, capture_output=True, text=True, timeout=PATIENCE_S + 30, check=False, env=environment, cwd=ROOT
    )
    if done.returncode:
        raise LabError(f"{' '.join(whole)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout + done.stderr


def values() -> dict[str, object]:
    """The release's objects: what tests/lab/manifests/bgp.yaml has."""
    names = {"BgpPeer": "bgpPeers", "Eip": "eips"}
    found: dict[str, dict[str, object]] = {"bgpPeers": {}, "eips": {}, "bgpConf": {}}
    for document in yaml.safe_load_all((MANIFESTS / "bgp.yaml").read_text()):
        if document["kind"] == "BgpConf":
            found["bgpConf"] = document["spec"]
        else:
            found[names[document["kind"]]][document["metadata"]["name"]] = document["spec"]
    return dict(found)


def install() -> str:
    text = yaml.safe_dump(values())
    path = ROOT / "build" / "lab" / "values.yaml"
    path.write_text(text)
    return helm("install", RELEASE, str(CHART), "--create-namespace", "--values", str(path), *WAIT)


def upgrade(*settings: str) -> str:
    """With other values; every manager and every agent is replaced when their pods are touched by these."""
    chosen = [part for one in settings for part in ("--set", one)]
    return helm("upgrade", RELEASE, str(CHART), "--reset-then-reuse-values", *chosen, *WAIT)


def rollback() -> str:
    return helm("rollback", RELEASE, *WAIT)


def uninstall() -> str:
    return helm("uninstall", RELEASE, *WAIT)


def pods(component: str) -> dict[str, str]:
    """Pod -> node, of managers or agents that are not on their way out."""
    chosen = f"app.kubernetes.io/name=porter-ha,app.kubernetes.io/component={component}"
    return {
        pod["metadata"]["name"]: pod["spec"].get("nodeName", "")
        for pod in _items("pods", "-l", chosen)
        if "deletionTimestamp" not in pod["metadata"]
    }


def manager_of(node: str) -> str:
    """The manager's pod on the node; empty when there is none."""
    return next((pod for pod, where in pods("manager").items() if where == node), "")


def web() -> None:
    """A web server on every node, and the Services that drills send traffic to."""
    script = Path(__file__).with_name("web.py").read_text()
    labels = {"app": "web"}
    name = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    container = {
        "name": "web",
        "image": f"ghcr.io/porter-ha/porter-ha:{_version()}",
        "command": ["python3", "/web/web.py", "web-$(NODE_NAME)"],
        "env": [name],
        "resources": {"requests": {"cpu": "500m"}},  # without, what starts beside it starves it, and its UDP is lost
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": "web", "mountPath": "/web"}],
    }
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "volumes": [{"name": "web", "configMap": {"name": "web"}}],
    }
    apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"web.py": script}},
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        *drills.services(),
    )
    kubectl("rollout", "status", "daemonset/web", "--timeout=60s")


def serves() -> None:
    """Wait until everything is as it should be after an installation."""
    settled()
    drills.routed()


def rolled_out() -> None:
    """Wait until every manager and every agent is there and ready."""

    def complete(kind: str, name: str) -> bool:
        said: dict[str, Any] = get(kind, name, "--namespace", NAMESPACE)
        status = said["status"]
        wanted = said["spec"].get("replicas", status.get("desiredNumberScheduled"))
        ready = status.get("readyReplicas", status.get("numberReady", 0))
        return bool(status.get("observedGeneration") == said["metadata"]["generation"] and ready == wanted)

    until("3 managers", lambda: complete("deployment", "porter-ha-manager"), PATIENCE_S)
    until("an agent on every node", lambda: complete("daemonset", "porter-ha-agent"), PATIENCE_S)


def granted(account: str) -> set[Verb]:
    """What the roles of a ServiceAccount allow it."""
    rules = []
    for kind in ("clusterrole", "role"):
        for role in _items(kind):
            if role["metadata"]["name"] == account:
                rules += role["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _items(*what: str) -> list[dict[str, Any]]:
    found = get(*what, "--namespace", NAMESPACE)["items"]
    assert isinstance(found, list)
    return found


def _version() -> str:
    found: str = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    return found
