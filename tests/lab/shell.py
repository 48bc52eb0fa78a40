"""Running things in namespaces, and ending them again.

Every long-lived process is its own session, logs to build/lab/log/NAME.log, and is recorded in build/lab/pids, so a
later run can end what a crashed one left behind. Only recorded processes, and those inside our namespaces, are ended.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "build" / "lab"
LOGS = STATE / "log"
PIDS = STATE / "pids"
PARTS = ROOT / "build" / "controlplane"
PYTHON = ROOT / ".venv" / "bin" / "python"
PREFIX = "porter-"
T = TypeVar("T")
_children: dict[str, "subprocess.Popen[bytes]"] = {}


class LabError(Exception):
    """Something in the lab is not as it must be; says what, and where to look."""


def run(*command: str, stdin: str = "", check: bool = True, timeout_s: float = 60) -> str:
    """Run to the end; returns stdout. Raises LabError with the command's own words."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def inside(namespace: str, *command: str, stdin: str = "", check: bool = True) -> str:
    """`run`, inside one of our network namespaces."""
    return run("ip", "netns", "exec", PREFIX + namespace, *command, stdin=stdin, check=check)


def start(
    name: str, command: Sequence[str], namespace: str = "", env: Mapping[str, str] | None = None, respawn: bool = False
) -> None:
    """Start a daemon. With `respawn` it is started again when it ends, as a kubelet would."""
    LOGS.mkdir(parents=True, exist_ok=True)
    PIDS.mkdir(parents=True, exist_ok=True)
    whole = list(command)
    if respawn:
        whole = ["bash", "-c", 'while :; do "$@"; sleep 0.5; done', "respawn", *whole]
    if namespace:
        whole = ["ip", "netns", "exec", PREFIX + namespace, *whole]
    if name in _children:  # ended by another process, as `make lab-down` in another shell does
        _children.pop(name).wait(timeout=10)
    with (LOGS / f"{name}.log").open("ab") as log:
        process = _children[name] = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
    (PIDS / name).write_text(str(process.pid))


def session_pids(leader: int) -> list[int]:
    """The living processes of a session that `start` made."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def stop(name: str, how: signal.Signals = signal.SIGTERM, grace_s: float = 5.0) -> None:
    """End a daemon and everything in its session; kill what does not listen."""
    record = PIDS / name
    if not record.exists():
        return
    leader = int(record.read_text())
    record.unlink()
    deadline = time.monotonic() + grace_s
    while pids := session_pids(leader):
        late = time.monotonic() > deadline
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else how)
        if name in _children:
            _children[name].poll()  # a zombie is not a living process
        time.sleep(0.05)
    child = _children.pop(name, None)
    if child is not None:
        child.wait()


def daemons() -> list[str]:
    return sorted(p.name for p in PIDS.iterdir()) if PIDS.exists() else []


def until(what: str, probe: Callable[[], T], timeout_s: float = 30.0, pause_s: float = 0.1) -> T:
    """Wait for a truthy answer. Raises LabError that names what was awaited, and the last answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answer = probe()
            if answer:
                return answer
            last: object = answer
        except (LabError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:.0f} s for {what}; last: {last}")
        time.sleep(pause_s)
