"""`make loadtest`, for a moment: real API calls through locust, three replicas, a leader that dies meanwhile."""

import json
import subprocess

from tests.lab.shell import PYTHON, ROOT

SECONDS = 24


def test_churn_loses_doubles_and_leaks_nothing():
    command = [str(PYTHON), "-m", "loadtest.churn", "--seconds", str(SECONDS), "--users", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "was killed in the middle" in done.stdout
    found = {entry["name"]: entry for entry in json.loads((ROOT / "build" / "loadtest.json").read_text())}
    assert found["time to EIP"]["num_requests"] > 5 * SECONDS, "it did work"
    assert found["time to FIB"]["num_requests"] > 5 * SECONDS
    assert sum(entry["num_failures"] for entry in found.values()) == 0
