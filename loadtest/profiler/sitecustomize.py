"""Profiles every Python process that finds this folder on its PYTHONPATH (loadtest/profiles.py puts it there).

What the main thread has used so far, in its own processor time, is written each second to PORTER_PROFILE: processes of
ours do not end by themselves, they are killed.
"""

import cProfile
import marshal
import os
import threading
import time
from pathlib import Path


def _begin() -> None:
    profile = cProfile.Profile(time.thread_time)
    target = Path(os.environ["PORTER_PROFILE"]) / str(os.getpid())

    def write() -> None:
        while True:
            time.sleep(1.0)
            profile.snapshot_stats()
            part = target.with_suffix(".part")
            part.write_bytes(marshal.dumps(profile.stats))
            part.rename(target)

    threading.Thread(target=write, name="profiler", daemon=True).start()
    profile.enable()


if "PORTER_PROFILE" in os.environ:
    _begin()
