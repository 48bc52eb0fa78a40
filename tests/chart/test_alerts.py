"""Each alert by promtool: it fires when it should, and not a moment before or when all is well."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from porter_ha.obs.metrics import TABLE

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "porter-ha" / "rules" / "alerts.yaml"
ALERTS = {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
R = 'instance="n1:7472"'
TIMED = ("assign", "announce")
WELL = {  # series -> values every 15 s, of a cluster in which nothing is wrong
    f"porter_ha_leader{{{R}}}": "1x400",
    'porter_ha_leader{instance="n2:7472"}': "0x400",
    f"porter_ha_epoch{{{R}}}": "7x400",
    f"porter_ha_warm{{{R}}}": "1x400",
    'porter_ha_warm{instance="n2:7472"}': "1x400",
    f"porter_ha_fenced{{{R}}}": "1x400",
    f'porter_ha_bgp_session_up{{{R},peer="rack"}}': "1x400",
    'porter_ha_bgp_session_up{instance="n2:7472",peer="rack"}': "1x400",
    f'porter_ha_bgp_session_flaps_total{{{R},peer="rack"}}': "2x400",
    f'porter_ha_pool_addresses{{{R},pool="public"}}': "100x400",
    f'porter_ha_pool_addresses_used{{{R},pool="public"}}': "60x400",
    f'porter_ha_services{{{R},state="assigned",reason="Assigned"}}': "60x400",
    f'porter_ha_services{{{R},state="waiting",reason="PoolExhausted"}}': "0x400",
    f'porter_ha_objects_refused{{{R},kind="Eip",reason="EipInvalid"}}': "0x400",
    f'porter_ha_worker_events_total{{{R},worker="shard-0",event="write_errors"}}': "3x400",
    f'porter_ha_oldest_write_seconds{{{R},worker="shard-0"}}': "0x400",
    **{
        f'porter_ha_{n}_seconds_bucket{{{R},worker="w",le="{le}"}}': "0+5x400"
        for n in TIMED
        for le in ("0.1", "5", "+Inf")
    },
    f'porter_ha_worker_restarts_total{{{R},worker="shard-0"}}': "1x400",
    f"porter_ha_nodes_held{{{R}}}": "0x400",
    f'porter_ha_nodes{{{R},state="eligible",reason=""}}': "2x400",
    'porter_ha_agent_ready{instance="n1:7473"}': "1x400",
    'porter_ha_agent_ready{instance="n2:7473"}': "1x400",
    'porter_ha_agent_drift_total{instance="n1:7473"}': "4x400",
}
# alert -> what is different, and the labels of the alert that must have fired
BROKEN = {
    "PorterHANoLeader": ({f"porter_ha_leader{{{R}}}": "0x400"}, {}),
    "PorterHALeaderFlapping": ({f"porter_ha_epoch{{{R}}}": "7+1x400"}, {}),
    "PorterHANoStandby": ({'porter_ha_warm{instance="n2:7472"}': "0x400"}, {}),
    "PorterHANotFenced": ({f"porter_ha_fenced{{{R}}}": "0x400"}, {"instance": "n1:7472"}),
    "PorterHAPeerDown": (
        {
            f'porter_ha_bgp_session_up{{{R},peer="rack"}}': "0x400",
            'porter_ha_bgp_session_up{instance="n2:7472",peer="rack"}': "0x400",
        },
        {"peer": "rack"},
    ),
    "PorterHASessionDown": (
        {'porter_ha_bgp_session_up{instance="n2:7472",peer="rack"}': "0x400"},
        {"peer": "rack", "instance": "n2:7472"},
    ),
    "PorterHASessionFlapping": (
        {f'porter_ha_bgp_session_flaps_total{{{R},peer="rack"}}': "0+1x400"},
        {"peer": "rack", "instance": "n1:7472"},
    ),
    "PorterHAWritesStuck": (
        {f'porter_ha_oldest_write_seconds{{{R},worker="shard-0"}}': "0+15x400"},
        {"instance": "n1:7472"},
    ),
    "PorterHAAssignmentSlow": ({f'porter_ha_assign_seconds_bucket{{{R},worker="w",le="0.1"}}': "0+1x400"}, {}),
    "PorterHAAnnouncementSlow": (
        {f'porter_ha_announce_seconds_bucket{{{R},worker="w",le="0.1"}}': "0+1x400"},
        {"instance": "n1:7472"},
    ),
    "PorterHAPoolFull": ({f'porter_ha_pool_addresses_used{{{R},pool="public"}}': "100x400"}, {"pool": "public"}),
    "PorterHAPoolFilling": (
        {f'porter_ha_pool_addresses_used{{{R},pool="public"}}': "51+0.1x400"},
        {"pool": "public"},
    ),
    "PorterHAServicesWaiting": (
        {f'porter_ha_services{{{R},state="waiting",reason="PoolExhausted"}}': "2x400"},
        {"reason": "PoolExhausted"},
    ),
    "PorterHAObjectRefused": (
        {f'porter_ha_objects_refused{{{R},kind="Eip",reason="EipInvalid"}}': "1x400"},
        {"kind": "Eip", "reason": "EipInvalid"},
    ),
    "PorterHAWritesFail": (
        {f'porter_ha_worker_events_total{{{R},worker="shard-0",event="write_errors"}}': "0+1x400"},
        {"instance": "n1:7472", "worker": "shard-0", "event": "write_errors"},
    ),
    "PorterHAWorkerRestarting": (
        {f'porter_ha_worker_restarts_total{{{R},worker="shard-0"}}': "0+1x400"},
        {"instance": "n1:7472", "worker": "shard-0"},
    ),
    "PorterHANodesHeld": ({f"porter_ha_nodes_held{{{R}}}": "1x400"}, {}),
    "PorterHAAgentNotReady": ({'porter_ha_agent_ready{instance="n1:7473"}': "0x400"}, {"instance": "n1:7473"}),
    "PorterHAAgentMissing": ({'porter_ha_agent_ready{instance="n2:7473"}': None}, {}),
    "PorterHAAgentDrift": (
        {'porter_ha_agent_drift_total{instance="n1:7473"}': "0+1x400"},
        {"instance": "n1:7473"},
    ),
}


def promtool(tmp_path, changes, expected):
    """`expected` alerts with their labels fire after an hour and a half, and no other does."""
    series = {**WELL, **changes}
    test = {
        "rule_files": [str(without_summaries(tmp_path))],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": k, "values": v} for k, v in series.items() if v is not None],
                "alert_rule_test": [
                    {
                        "eval_time": "90m",
                        "alertname": name,
                        "exp_alerts": [
                            {"exp_labels": {"severity": ALERTS[name]["labels"]["severity"], **expected[name]}}
                        ]
                        if name in expected
                        else [],
                    }
                    for name in ALERTS
                ],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def without_summaries(tmp_path):
    """promtool compares annotations too; what they say is for people."""
    rules = yaml.safe_load(RULES.read_text())
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return path


def test_the_rules_are_well_formed():
    subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=True)


def test_nothing_fires_while_all_is_well(tmp_path):
    code, said = promtool(tmp_path, {}, {})
    assert code == 0, said


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_for_what_it_is_for_and_nothing_else_does(tmp_path, name):
    changes, labels = BROKEN[name]
    code, said = promtool(tmp_path, changes, {name: labels})
    assert code == 0, said


@pytest.mark.parametrize("name", ALERTS)
def test_it_can_be_looked_up(name):
    page = (ROOT / "docs" / "operations" / "alerts.md").read_text()
    assert f"\n## {name}\n" in page
    assert ALERTS[name]["annotations"]["summary"]


def test_every_metric_in_a_rule_or_on_the_dashboard_is_one_that_we_give():
    given = {f"porter_ha_{name}{part}" for name in TABLE for part in ("", "_total", "_bucket", "_sum", "_count")}
    dashboard = (ROOT / "helm" / "porter-ha" / "dashboards" / "porter-ha.json").read_text()
    used = set(re.findall(r"porter_ha_\w+", (ROOT / "helm/porter-ha/rules/alerts.yaml").read_text() + dashboard))
    assert used <= given
