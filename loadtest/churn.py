"""`python -m loadtest.churn`: Service churn by locust in the bench's cluster, three replicas, a leader that dies.

Prints locust's own tables; writes build/loadtest.json with all that was asked and observed, build/loadtest.html with
locust's report. Exit status 1 when anything failed, was doubled or leaked, or when no leader took over.
"""

import subprocess
import sys
import threading
from typing import Any

import click
import orjson
import uvloop

from loadtest import place
from porter_ha.kube.client import Client
from tests.lab import nodes
from tests.lab.controlplane import HOST_SERVER, PKI, kubectl
from tests.lab.shell import ROOT, until

REPORT = ROOT / "build" / "loadtest"
ENDING_S = 120


async def _nodes() -> None:
    async with Client(place.access()) as client:
        await place.set_nodes(client, 3)


def _locust(users: int, rate: float, seconds: int, shape: str) -> int:
    command = [str(ROOT / ".venv" / "bin" / "locust"), "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"]
    command += ["-u", str(users), "-t", f"{seconds}s", "--host", HOST_SERVER, "--ca", str(PKI / "ca.crt")]
    command += ["--rate", str(rate), "--shape", shape, "--only-summary", "--html", f"{REPORT}.html"]
    return subprocess.run([*command, "--json-file", str(REPORT)], timeout=seconds + ENDING_S, check=False).returncode


def _table(found: list[dict[str, Any]]) -> str:
    """Locust's figures, in short; milliseconds."""
    lines = [f"{'':24}{'count':>8}{'failed':>8}{'p50':>8}{'p99':>8}{'most':>8}"]
    for entry in found:
        times = sorted((float(ms), count) for ms, count in entry["response_times"].items())
        each = [ms for ms, count in times for _ in range(count)] or [0.0]
        p50, p99 = (each[min(len(each) - 1, int(p * len(each)))] for p in (0.5, 0.99))
        counts = f"{entry['num_requests']:8}{entry['num_failures']:8}"
        lines.append(f"{entry['name']:24}{counts}{p50:8.0f}{p99:8.0f}{entry['max_response_time'] or 0:8.0f}")
    return "\n".join(lines)


def _kill_leader(said: list[str]) -> None:
    old = nodes.leader()
    nodes.kill_manager(old)
    until("another leader", lambda: nodes.leader() not in ("", old), 30)
    said.append(f"the leader on {old} was killed in the middle; {nodes.leader()} leads")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=300, show_default=True)
@click.option("--users", default=20, show_default=True)
@click.option("--rate", default=30.0, show_default=True, help="Operations a second of each user, at most.")
@click.option("--shape", type=click.Choice(["steady", "wave", "burst"]), default="steady", show_default=True)
@click.option("--kill/--no-kill", default=True, show_default=True, help="Kill the leader in the middle.")
def main(seconds: int, users: int, rate: float, shape: str, kill: bool) -> None:
    """Churn Services, and see that nothing is lost."""
    said: list[str] = []
    REPORT.parent.mkdir(exist_ok=True)
    place.up()
    try:
        kubectl("create", "namespace", "churn")
        uvloop.run(_nodes())
        place.start_porter(replicas=3)
        killer = threading.Timer(seconds / 2, _kill_leader, [said])
        if kill:
            killer.start()
        code = _locust(users, rate, seconds, shape)
        killer.cancel()
    finally:
        place.down()
    found = orjson.loads(REPORT.with_suffix(".json").read_bytes())
    click.echo(_table(found))
    failed = sum(entry["num_failures"] for entry in found)
    total = sum(entry["num_requests"] for entry in found)
    click.echo("\n".join([*said, f"{total} requests and observations, {failed} failed; build/loadtest.html"]))
    sys.exit(code or (kill and not said))


if __name__ == "__main__":
    main()
