"""The Helm chart by helm itself: it lints, renders what it should for several values, and refuses nonsense."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from porter_ha.model import names
from porter_ha.model.advice import policies
from porter_ha.model.crds import definitions
from porter_ha.model.fence import policy

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "porter-ha"
HELM = ROOT / "build" / "helm"


def helm(*arguments, check=True):
    done = subprocess.run([str(HELM), *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def render(*values, namespace="porter-ha-system"):
    sets = [part for value in values for part in ("--set-json", value)]
    said = helm("template", "release", str(CHART), "--namespace", namespace, *sets).stdout
    return [document for document in yaml.safe_load_all(said) if document]


def one(documents, kind, name):
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def container(documents, kind, name):
    (found,) = one(documents, kind, name)["spec"]["template"]["spec"]["containers"]
    return found


def test_it_lints():
    helm("lint", "--strict", str(CHART))


def test_the_defaults_are_for_production():
    documents = render()
    manager = one(documents, "Deployment", "porter-ha-manager")["spec"]
    assert manager["replicas"] == 3
    assert manager["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    pod = manager["template"]["spec"]
    rule = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    labels = manager["template"]["metadata"]["labels"]
    assert rule["labelSelector"]["matchLabels"].items() <= labels.items(), "replicas keep apart from each other"
    assert manager["selector"]["matchLabels"].items() <= labels.items()
    assert one(documents, "PodDisruptionBudget", "porter-ha-manager")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("kind", "name", "capabilities"),
    [
        ("Deployment", "porter-ha-manager", ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]),
        ("DaemonSet", "porter-ha-agent", ["NET_ADMIN"]),
    ],
)
def test_a_container_may_do_what_it_must_and_no_more(kind, name, capabilities):
    found = container(render(), kind, name)
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
    }
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= found.keys()


def test_every_argument_is_one_that_the_command_knows():
    """The container's own words, read by the command line that it will start."""
    import click

    from porter_ha.cli import main

    for kind, name in (("Deployment", "porter-ha-manager"), ("DaemonSet", "porter-ha-agent")):
        found = container(render("defaultController=true"), kind, name)
        command, *arguments = found["args"]
        environment = {entry["name"] for entry in found["env"]}
        known = main.commands[command]
        node = ["--node", "n"] if "NODE_NAME" in environment else []
        context = known.make_context(command, [*arguments, *node], parent=click.Context(main))
        assert context.params["classless"] is True


def test_an_uninstallation_finds_the_workloads_by_these_names():
    documents = render()
    assert one(documents, "Deployment", names.MANAGER_WORKLOAD)
    assert container(documents, "DaemonSet", names.AGENT_WORKLOAD)["name"] == names.AGENT_CONTAINER


def test_the_policies_are_those_of_the_model_in_any_namespace():
    documents = render(namespace="elsewhere")
    for wanted in policy("elsewhere:porter-ha-manager"):
        assert one(documents, wanted["kind"], wanted["metadata"]["name"]) == wanted
    for wanted in policies():
        assert one(documents, wanted["kind"], wanted["metadata"]["name"]) == wanted
    assert not [d for d in render('fence={"create": false}', 'advice={"create": false}') if "Admission" in d["kind"]]


def test_who_may_reach_managers_with_pod_addresses():
    documents = render('networkPolicy={"bgpPorts": [17900]}')
    everybody, replicas = one(documents, "NetworkPolicy", "porter-ha")["spec"]["ingress"]
    assert [port["port"] for port in everybody["ports"]] == [7472, 179, 17900]
    assert [port["port"] for port in replicas["ports"]] == [7474]
    (allowed,) = replicas["from"]
    manager = one(documents, "Deployment", "porter-ha-manager")["spec"]["template"]["metadata"]["labels"]
    assert allowed["podSelector"]["matchLabels"].items() <= manager.items()
    assert not [d for d in render('networkPolicy={"create": false}') if d["kind"] == "NetworkPolicy"]


def test_objects_of_the_release():
    documents = render(
        'bgpConf={"as": 65001}',
        'bgpPeers={"rack": {"conf": {"neighborAddress": "10.0.0.1", "peerAs": 65010}}}',
        'eips={"public": {"address": "203.0.113.0/24"}}',
    )
    assert one(documents, "BgpConf", "default")["spec"] == {"as": 65001}
    assert one(documents, "BgpPeer", "rack")["spec"]["conf"]["peerAs"] == 65010
    assert one(documents, "Eip", "public")["spec"]["address"] == "203.0.113.0/24"


def test_monitoring_carries_the_alerts_and_the_dashboard():
    kinds = {"podMonitor": True, "prometheusRule": True, "dashboard": True, "labels": {"release": "prometheus"}}
    documents = render(f"monitoring={json.dumps(kinds)}")
    rule = one(documents, "PrometheusRule", "porter-ha")
    assert rule["spec"] == yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    dashboard = one(documents, "ConfigMap", "porter-ha-dashboard")["data"]["porter-ha.json"]
    assert json.loads(dashboard) == json.loads((CHART / "dashboards" / "porter-ha.json").read_text())
    monitors = [d for d in documents if d["kind"] == "PodMonitor"]
    for monitor in monitors:
        component = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
        pods = {"manager": ("Deployment", "porter-ha-manager"), "agent": ("DaemonSet", "porter-ha-agent")}[component]
        ports = {port["name"] for port in container(documents, *pods)["ports"]}
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in ports
    assert len(monitors) == 2


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('manager={"replica": 3}', "replica"),
        ('manager={"standby": "cold"}', "standby"),
        ('manager={"leaseDurationSeconds": 90}', "leaseDurationSeconds"),
        ('eips={"public": {"adress": "203.0.113.0/24"}}', "address"),
        ('monitoring={"interval": "often"}', "interval"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(value, says):
    done = helm("template", "release", str(CHART), "--set-json", value, check=False)
    assert done.returncode
    assert says in done.stderr


def test_the_plain_manifest_is_the_charts():
    done = subprocess.run([ROOT / "scripts/manifest.sh", "/dev/stdout"], capture_output=True, text=True, check=True)
    assert (ROOT / "deploy" / "porter-ha.yaml").read_text() == done.stdout, "run `make manifest`"
    crds = [d for d in yaml.safe_load_all(done.stdout) if d and d["kind"] == "CustomResourceDefinition"]
    assert {d["metadata"]["name"] for d in crds} == {d["metadata"]["name"] for d in definitions().values()}
