"""Where a replica's processor time goes, by library and room, while it assigns EIPs to many Services.

Profiling makes calls dearer than they are: shares show what to look at, not what it costs.
"""

import asyncio
import contextlib
import marshal
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from loadtest import measure, place
from porter_ha.kube.client import Client
from tests.lab.shell import STATE

HERE = Path(__file__).parent / "profiler"
FOLDER = STATE / "profiles"
WRITTEN_S = 2.5  # the processes write what they used each second
_Function = tuple[str, int, str]
_Builtins = {"msgspec": "msgspec", "_ssl": "ssl", "orjson": "orjson", "socket": "socket", "uvloop": "uvloop"}


class Profile(msgspec.Struct):
    """One process while `services` Services came: milliseconds for each Service, and the share of each room in it."""

    services: int
    process: str
    ms_per_service: float
    rooms: dict[str, float]


def room(function: _Function) -> str:
    """The library, or our package, that a function belongs to."""
    file, _, name = function
    if file == "~":
        return next((room for part, room in _Builtins.items() if part in name), "builtins")
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    if "porter_ha" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("porter_ha") :][:2]).removesuffix(".py")
    return next((name for name in ("workers", "asyncio") if name in parts), "python's own")


@contextlib.contextmanager
def profiled() -> Iterator[None]:
    """What is started within is profiled."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    ours = {"PYTHONPATH": str(HERE), "PORTER_PROFILE": str(FOLDER)}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _used() -> dict[str, Counter[str]]:
    """Process name -> room -> seconds so far."""
    found: dict[str, Counter[str]] = {}
    for pid in place.pids("node1-manager"):
        with contextlib.suppress(OSError):  # not written yet
            stats = marshal.loads((FOLDER / str(pid)).read_bytes())
            rooms = found.setdefault(place.process_name(pid), Counter())
            for function, (_, _, own_s, _, _) in stats.items():
                rooms[room(function)] += own_s
    return found


async def take(client: Client, count: int) -> list[Profile]:
    """Of the manager and its workers, which `profiled` has started. In place."""
    await asyncio.sleep(WRITTEN_S)
    before = _used()
    await measure.assignment(client, count, ["node1-manager"])
    await asyncio.sleep(WRITTEN_S)
    found = []
    for process, rooms in sorted(_used().items()):
        rooms.subtract(before.get(process, Counter()))
        total = sum(rooms.values())
        if total > 0:
            shares = {name: round(spent / total, 3) for name, spent in rooms.most_common(8)}
            found.append(Profile(count, process, round(total / count * 1e3, 3), shares))
    return found
