"""Debian's Prometheus in the lab: it scrapes every manager and agent, and judges the chart's alerts."""

import json
from pathlib import Path

import yaml

from tests.lab.nodes import AGENT_PORT, MANAGER_PORT
from tests.lab.shell import STATE, inside, start, stop, until
from tests.lab.topology import NODES, lan

CHART = Path(__file__).parents[2] / "helm" / "porter-ha"
WHERE = "127.0.0.1:9090"
SOON = "2s"  # instead of each alert's own patience


def begin() -> None:
    rules = yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text())
    for rule in rules["groups"][0]["rules"]:
        if "for" in rule:
            rule["for"] = SOON
    (STATE / "alerts.yaml").write_text(yaml.safe_dump(rules))
    targets = [f"{lan(node)[0]}:{port}" for node in NODES for port in (MANAGER_PORT, AGENT_PORT)]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(STATE / "alerts.yaml")],
        "scrape_configs": [{"job_name": "porter-ha", "static_configs": [{"targets": targets}]}],
    }
    (STATE / "prometheus.yaml").write_text(yaml.safe_dump(config))
    flags = [f"--config.file={STATE / 'prometheus.yaml'}", f"--storage.tsdb.path={STATE / 'prometheus'}"]
    start("prometheus", ["prometheus", *flags, f"--web.listen-address={WHERE}"], "controlplane")
    until("Prometheus to see everything", lambda: len(query("up == 1")) == len(targets), 60)
    # Before its first scrapes it saw no leader, and nobody is as patient here as the rules are.
    until("what it could not know at first to be over", lambda: not firing(), 30)


def end() -> None:
    stop("prometheus")


def _ask(path: str, *form: str) -> object:
    said = json.loads(inside("controlplane", "curl", "-s", "-G", f"http://{WHERE}/api/v1/{path}", *form))
    assert said["status"] == "success", said
    return said["data"]


def query(expression: str) -> list[dict[str, object]]:
    """The series that an expression gives now."""
    data = _ask("query", "--data-urlencode", f"query={expression}")
    assert isinstance(data, dict)
    found: list[dict[str, object]] = data["result"]
    return found


def firing() -> dict[str, dict[str, str]]:
    """Alert -> labels, of those that fire now."""
    data = _ask("alerts")
    assert isinstance(data, dict)
    return {a["labels"]["alertname"]: a["labels"] for a in data["alerts"] if a["state"] == "firing"}


def dashboard_queries() -> dict[str, list[str]]:
    """Panel -> its expressions, of the Grafana dashboard."""
    board = json.loads((CHART / "dashboards" / "porter-ha.json").read_text())
    return {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in board["panels"]}
