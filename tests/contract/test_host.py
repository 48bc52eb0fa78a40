"""The machine under a replica: how many cores it may use, as Linux and a container's limit say."""

import os

import pytest

from porter_ha.manager import host


@pytest.mark.parametrize(
    ("limit", "most"),
    [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2), ("max 100000", None), ("", None), (None, None)],
)
def test_cores(limit, most, tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(f"{limit}\n")
    monkeypatch.setattr(host, "CPU_MAX", file)
    allowed = len(os.sched_getaffinity(0))
    assert host.Linux().cores() == (allowed if most is None else min(allowed, most))
