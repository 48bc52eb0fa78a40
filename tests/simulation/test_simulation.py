"""The real manager under seeded faults: many seeds that keep every promise, and planted bugs that are seen to break it.

`porter-ha simulate --seed N` replays a run of the first test.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from porter_ha.testing.simulate import run
from tests.simulation.bugs import BUGS, NEVER_DONE

ROOT = Path(__file__).parents[2]
SEEDS = 500


def simulate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "porter_ha.cli", "simulate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_seed_keeps_every_promise():
    found = simulate("--seeds", str(SEEDS))
    assert found.returncode == 0, found.stdout + found.stderr
    last = found.stdout.splitlines()[-1]
    takeovers, writes, changes = map(int, re.search(r"(\d+) takeovers, (\d+) writes, (\d+) changes", last).groups())
    assert (takeovers > 2 * SEEDS, writes > 100 * SEEDS, changes > 30 * SEEDS) == (True, True, True), last


@pytest.mark.parametrize("seed", [0, 7, 8, 9])
def test_a_seed_is_a_run(seed):
    first, second = simulate("--seed", str(seed)), simulate("--seed", str(seed))
    assert first.returncode == 0
    assert first.stdout == second.stdout
    assert "fault" in first.stdout


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_checkers_see_a_planted_bug(bug):
    def sabotage(world):
        bug.prepare(world)
        bug.sabotage(world)

    for seed in range(bug.seeds):
        with bug.plant():
            found = run(seed, bug.plan, sabotage)
        seen = {violation.invariant for violation in found.violations} | ({NEVER_DONE} if found.unconverged else set())
        if seen & bug.expect:
            break
    else:
        pytest.fail(f"{bug.name} was not seen in {bug.seeds} runs")
    healthy = run(seed, bug.plan, bug.prepare)
    assert healthy.ok, f"the same run without the bug: {healthy.violations[:3]} {healthy.unconverged}"
