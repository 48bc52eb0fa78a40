"""`make demo`, as a newcomer runs it: everything it shows is so, and nothing of it is left behind."""

import os
import subprocess
from pathlib import Path

from tests.lab.shell import PYTHON, ROOT


def ours_in_this_machine() -> dict[str, str]:
    """What a lab that did not clean up would leave: namespaces, links, rules, routes, nftables, processes."""

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "tests.lab" in line or "/controlplane/" in line or "porter-ha " in line or "/run/porter-lab" in line:
                processes.append(line)
    return {
        "namespaces": "\n".join(n for n in said("ip", "netns", "list").splitlines() if n.startswith("porter-")),
        "links": "\n".join(line for line in said("ip", "-o", "link").splitlines() if "porter" in line),
        "rules": said("ip", "rule"),
        "routes": said("ip", "route", "show", "table", "all"),
        "nftables": said("nft", "list", "tables"),
        "processes": "\n".join(sorted(processes)),
        "files": "\n".join(p for p in ("/run/porter-lab-frr", str(ROOT / "build" / "lab")) if Path(p).exists()),
    }


def test_the_demo_keeps_its_promises_and_leaves_nothing():
    subprocess.run([str(PYTHON), "-m", "tests.lab", "down"], cwd=ROOT, check=True)
    before = ours_in_this_machine()
    done = subprocess.run(
        [str(PYTHON), "-m", "tests.lab", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "all as promised" in done.stdout
    assert ours_in_this_machine() == before
    assert before["namespaces"] == before["processes"] == before["files"] == ""
