"""The drill that is safe on a cluster in use: a planned handover, with what it changed counted from outside.

Reads Services and the Lease, asks for one handover, and where it is given an EIP opens bounded TCP connections to it
all the while. Writes nothing but the request on the Lease.
"""

import asyncio
import time

import msgspec

from porter_ha.kube import credentials, paths
from porter_ha.kube.client import Client
from porter_ha.manager.handover import hand_over
from porter_ha.model.objects import Service
from porter_ha.model.value import Value

CONNECTIONS_PER_S = 50.0
ANSWER_S = 2.0
AROUND_S = 2.0  # traffic before and after
LINGER_S = 8.0  # until the last leader has withdrawn, and a little more


class LiveResult(Value, frozen=True):
    """The fields of the lab's drill results that can be seen from outside."""

    name: str
    ok: bool
    before: str
    after: str
    takeover_s: float
    connections: int
    connections_lost: int
    eips: int
    eips_changed: int


class _Services(msgspec.Struct):
    items: list[Service]


class _Connections:
    """New TCP connections to `address`, one every 1 / CONNECTIONS_PER_S, each counted."""

    def __init__(self, address: str, port: int) -> None:
        self.made = self.lost = 0
        self._address, self._port = address, port

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._one())
                await asyncio.sleep(1 / CONNECTIONS_PER_S)

    async def _one(self) -> None:
        self.made += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                _, writer = await asyncio.open_connection(self._address, self._port)
            writer.close()
        except (OSError, TimeoutError):
            self.lost += 1


async def _eips(client: Client) -> dict[str, tuple[str, ...]]:
    raw = await client.request(
        "GET", paths.SERVICES, params={"fieldSelector": "spec.type=LoadBalancer"}, timeout_s=60.0
    )
    return {s.metadata.key: s.addresses for s in msgspec.json.decode(raw, type=_Services).items if s.addresses}


async def planned_handover(
    kubeconfig: str, namespace: str, target: tuple[str, int] | None, timeout_s: float
) -> LiveResult:
    """Let another replica lead. Raises ApiError or Unreachable."""
    async with Client(await credentials.read(kubeconfig)) as client:
        held = await _eips(client)
        connections = _Connections(*target) if target else None
        traffic = asyncio.create_task(connections.run()) if connections else None
        await asyncio.sleep(AROUND_S)
        began = time.monotonic()
        before, after = await hand_over(kubeconfig, namespace, timeout_s)
        takeover_s = round(time.monotonic() - began, 3)
        await asyncio.sleep(LINGER_S + AROUND_S)
        if traffic is not None:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)
        now = await _eips(client)
    changed = sum(now.get(key, addresses) != addresses for key, addresses in held.items())
    made, lost = (connections.made, connections.lost) if connections else (0, 0)
    ok = bool(after) and not changed and not lost
    return LiveResult("planned-handover", ok, before, after, takeover_s, made, lost, len(held), changed)
