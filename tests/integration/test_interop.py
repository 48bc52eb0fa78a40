"""Every way in which a router and we can meet, on three routers: the session, all next hops, restart, withdrawal.

docs/interop.md has what these tests saw; build/interop.md is written by their run.
"""

import os
import signal
import subprocess

import pytest

from tests.lab import interop
from tests.lab.interop import HOPS, HOPS6, WAYS
from tests.lab.shell import PIDS, PREFIX, ROOT, session_pids, until

TABLE = ROOT / "build" / "interop.md"


@pytest.fixture(scope="module")
def verdicts():
    """(router, way) -> what was seen; written as a table at the end."""
    found = {}
    yield found
    routers = list(interop.ROUTERS)
    lines = ["| session | " + " | ".join(routers) + " |", "|---" * (len(routers) + 1) + "|"]
    lines += [f"| {way} | " + " | ".join(found.get((r, way), "not run") for r in routers) + " |" for way in WAYS]
    TABLE.write_text("\n".join(lines) + "\n")


@pytest.fixture
def router(request):
    interop.create()
    try:
        interop.begin(request.param)
        interop.speak()
        yield request.param
    finally:
        interop.hush()
        interop.end(request.param)
        interop.destroy()


def good(way, found):
    """Whether the router has all next hops of both EIPs; one of them where it takes one path only."""
    for eip, hops in zip(way.eips, (HOPS, HOPS6), strict=True):
        seen = found.get(eip, frozenset())
        if way.add_path and seen != frozenset(hops):
            return False
        if not way.add_path and not (len(seen) == 1 and seen <= frozenset(hops)):
            return False
    return True


def lacking(router):
    found = interop.hops(router)
    return [str(way) for way in WAYS if not good(way, found)]


def speaker_pid():
    wrapper = int((PIDS / "interop-speaker").read_text())
    return max(session_pids(wrapper))


@pytest.mark.parametrize("router", list(interop.ROUTERS), indirect=True)
def test_every_way(router, verdicts):
    until("all sessions and next hops", lambda: not lacking(router), 60)
    monitor = subprocess.Popen(
        ["ip", "-n", PREFIX + interop.ROUTER, "monitor", "route"], stdout=subprocess.PIPE, text=True
    )
    os.kill(speaker_pid(), signal.SIGKILL)
    interop.hush()
    assert lacking(router) == [], "graceful restart keeps the routes"
    interop.speak()
    until("all sessions again", lambda: established(router) == len(WAYS), 60)
    assert lacking(router) == []
    monitor.terminate()
    deleted = [line for line in monitor.communicate()[0].splitlines() if line.startswith("Deleted") and "210" in line]
    assert deleted == [], "nothing was lost on the way"
    os.kill(speaker_pid(), signal.SIGUSR1)
    until("everything withdrawn", lambda: not set(interop.hops(router)) & {eip for way in WAYS for eip in way.eips}, 20)
    verdicts.update({(router, way): "yes" for way in WAYS})


def established(router):
    """How many of the speaker's connections with the router are up."""
    said = subprocess.run(
        ["ip", "netns", "exec", PREFIX + interop.SPEAKER, "ss", "-tnH", "state", "established"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return len(said.splitlines())


def test_the_table_of_the_documentation_is_what_was_seen(verdicts):
    assert verdicts, "run together with the rest of this file"
    page = (ROOT / "docs" / "interop.md").read_text()
    for way in WAYS:
        row = f"| {way} | " + " | ".join(verdicts[router, way] for router in interop.ROUTERS) + " |"
        assert row in page, row
