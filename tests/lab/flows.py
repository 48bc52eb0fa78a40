"""Traffic and route changes while something happens: started, left to run, and asked for what they saw."""

import json
import re
import subprocess
from datetime import UTC, datetime
from typing import Any

from tests.lab.shell import PREFIX, PYTHON
from tests.lab.topology import ROUTERS, client_source


class Flow:
    """Steady traffic from the client through one router (tests/lab/traffic.py)."""

    def __init__(
        self, router: str, eip: str, seconds: float, pages_per_s: float = 50, packets_per_s: float = 500
    ) -> None:
        source = client_source(router)[0]
        numbers = [str(n) for n in (seconds, pages_per_s, packets_per_s)]
        command = [str(PYTHON), "-m", "tests.lab.traffic", "flow", source, eip, *numbers]
        self._seconds = seconds
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", PREFIX + "client", *command], stdout=subprocess.PIPE, text=True
        )

    def result(self) -> dict[str, Any]:
        output, _ = self._process.communicate(timeout=self._seconds + 60)
        found: dict[str, Any] = json.loads(output)
        return found


class RouteMonitor:
    """Every change of an EIP's route in both routers' kernels, as the kernels tell it."""

    def __init__(self, eip: str) -> None:
        self._eip = eip
        self._monitors = [
            subprocess.Popen(
                ["ip", "-ts", "-o", "-n", PREFIX + router, "monitor", "route"], stdout=subprocess.PIPE, text=True
            )
            for router in ROUTERS
        ]
        self._seen: list[str] | None = None

    def lines(self) -> list[str]:
        """The changes so far; ends the watching."""
        if self._seen is None:
            self._seen = []
            for monitor in self._monitors:
                monitor.terminate()
                output, _ = monitor.communicate()
                self._seen += [line for line in output.splitlines() if f"{self._eip} " in line]
        return self._seen

    def times(self) -> list[float]:
        """When they happened (Unix seconds)."""
        stamps = [re.match(r"\[(\S+)\]", line) for line in self.lines()]
        return sorted(datetime.fromisoformat(s[1]).astimezone(UTC).timestamp() for s in stamps if s)
