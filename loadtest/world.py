"""What the load makes: Services with their EndpointSlices, by real API calls; and what is seen of them."""

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any, Self

import msgspec

from loadtest.place import NAMESPACE, ROUTER, node_name
from porter_ha.kube import paths
from porter_ha.kube.client import ApiError, Client, Unreachable
from porter_ha.kube.watch import Change, Watch
from porter_ha.model import names
from porter_ha.model.objects import Service
from tests.lab.shell import PREFIX

LOOK_S = 0.02


def service(name: str, *, local: bool = False) -> dict[str, object]:
    return {
        "metadata": {"name": name, "annotations": {names.OPT_IN_ANNOTATION: names.OPT_IN_VALUES[0]}},
        "spec": {
            "type": "LoadBalancer",
            "ports": [{"port": 80, "targetPort": 8080}],
            "allocateLoadBalancerNodePorts": False,
            "externalTrafficPolicy": "Local" if local else "Cluster",
        },
    }


def endpoint_slice(name: str, nodes: Iterable[int]) -> dict[str, object]:
    return {
        "metadata": {"name": name, "labels": {names.SLICE_SERVICE_LABEL: name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [f"10.244.{n >> 8}.{n & 255}"], "nodeName": node_name(n), "conditions": {"ready": True}}
            for n in nodes
        ],
    }


def slices(namespace: str = NAMESPACE) -> str:
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


async def post(client: Client, path: str, body: object) -> None:
    """Make it, also when the API server is slow to say that it did."""
    try:
        await client.request("POST", path, body)
    except Unreachable:
        try:
            await client.request("POST", path, body)
        except ApiError as error:
            if error.status != 409:  # the first request did
                raise


async def create(client: Client, name: str, nodes: Iterable[int] = (1, 2, 3), *, local: bool = False) -> float:
    """A Service that is served; returns when it was asked for."""
    await post(client, slices(), endpoint_slice(name, nodes))
    asked = time.perf_counter()
    await post(client, paths.services(NAMESPACE), service(name, local=local))
    return asked


async def delete(client: Client, name: str) -> None:
    for path in (f"{paths.services(NAMESPACE)}/{name}", f"{slices()}/{name}"):
        try:
            await client.request("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise


class Seen:
    """What the API server and the router's kernel show, and since when (time.perf_counter). An async context."""

    def __init__(self, client: Client, hops: int) -> None:
        self.eip: dict[str, str] = {}
        self.assigned: dict[str, float] = {}
        self.routed: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self._hops = hops
        self._decoder = msgspec.json.Decoder(Service)
        self._watch = Watch(client, paths.services(NAMESPACE), self._changed)
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        monitor = ("ip", "-n", PREFIX + ROUTER, "-o", "monitor", "route")
        self._monitor = await asyncio.create_subprocess_exec(
            "stdbuf", "-oL", *monitor, stdout=asyncio.subprocess.PIPE, limit=1 << 22
        )
        self._tasks = [asyncio.create_task(self._watch.run()), asyncio.create_task(self._read())]
        await self._watch.synced.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        self._monitor.kill()
        await self._monitor.wait()

    def _changed(self, changes: list[Change]) -> None:
        now = time.perf_counter()
        for change in changes:
            if change.raw is None:
                self.eip.pop(change.name, None)
                continue
            held = self._decoder.decode(change.raw).addresses
            if held and change.name not in self.eip:
                self.eip[change.name] = held[0]
                self.assigned[change.name] = now
            elif not held:
                self.eip.pop(change.name, None)
        self._news.set()

    async def _read(self) -> None:
        assert self._monitor.stdout is not None
        async for line in self._monitor.stdout:
            now, text = time.perf_counter(), line.decode()
            found = re.match(r"(Deleted )?(\d+\.\d+\.\d+\.\d+) ", text)
            if found is None:
                continue
            if found[1]:
                self.gone[found[2]] = now
                self.routed.pop(found[2], None)
            elif text.count(" via ") >= self._hops:
                self.routed.setdefault(found[2], now)
            self._news.set()

    async def until_routed(self, wanted: Iterable[str], timeout_s: float) -> bool:
        """Until these Services' EIPs are in the router's kernel with all their next hops."""
        return await self._until(lambda name: self.eip.get(name) in self.routed, wanted, timeout_s)

    async def until_assigned(self, wanted: Iterable[str], timeout_s: float) -> bool:
        return await self._until(lambda name: name in self.eip, wanted, timeout_s)

    async def until_released(self, wanted: Iterable[str], timeout_s: float) -> bool:
        return await self._until(lambda name: name not in self.eip, wanted, timeout_s)

    async def until_gone(self, eips: Iterable[str], timeout_s: float) -> bool:
        return await self._until(lambda eip: eip in self.gone, eips, timeout_s)

    async def _until(self, holds: Any, wanted: Iterable[str], timeout_s: float) -> bool:
        left = set(wanted)
        try:
            async with asyncio.timeout(timeout_s):
                while left := {name for name in left if not holds(name)}:
                    self._news.clear()
                    await self._news.wait()
                    await asyncio.sleep(
                        LOOK_S
                    )  # times are taken when news come; looking at each would cost what we measure
        except TimeoutError:
            return False
        return True
