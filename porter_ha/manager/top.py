"""`porter-ha top`: the installation on one screen, drawn anew whenever the cluster changes. Only reads."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from porter_ha.core.why import Cluster
from porter_ha.kube import credentials, paths
from porter_ha.kube.client import Client
from porter_ha.kube.watch import Change, Watch
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Lease, Namespace, Node, Service

PERIOD_S = 0.5  # at most so often, however much changes; and half of a core at most
Struct = type[msgspec.Struct]


class _Followed:
    """The objects of one kind, as they are now. One that cannot be read hurts nobody else (I9)."""

    def __init__(self, client: Client, path: str, kind: Struct, changed: asyncio.Event) -> None:
        self.objects: dict[str, Any] = {}
        self.watch = Watch(client, path, self._deliver)
        self._decoder, self._changed = msgspec.json.Decoder(kind), changed

    def _deliver(self, changes: list[Change]) -> None:
        for change in changes:
            self.objects.pop(change.key, None)
            if change.raw is not None:
                try:
                    self.objects[change.key] = self._decoder.decode(change.raw)
                except msgspec.DecodeError:
                    continue
        self._changed.set()


async def follow(kubeconfig: str, namespace: str, show: Callable[[Cluster], None], seconds: float | None) -> None:
    """`show` the cluster now and after every change, for so many seconds, or until cancelled."""
    kinds: dict[str, tuple[str, Struct]] = {
        "services": (paths.SERVICES, Service),
        "slices": (paths.ENDPOINT_SLICES, EndpointSlice),
        "nodes": (paths.NODES, Node),
        "namespaces": (paths.NAMESPACES, Namespace),
        "eips": (paths.EIPS, Eip),
        "confs": (paths.BGP_CONFS, BgpConf),
        "peers": (paths.BGP_PEERS, BgpPeer),
        "leases": (paths.leases(namespace), Lease),
    }
    async with Client(await credentials.read(kubeconfig)) as client:
        await client.request("GET", paths.NODES, params={"limit": "1"})  # a server that is not there is told of at once
        changed = asyncio.Event()
        followed = {field: _Followed(client, path, kind, changed) for field, (path, kind) in kinds.items()}
        watches = [asyncio.create_task(one.watch.run()) for one in followed.values()]
        try:
            async with asyncio.timeout(seconds):
                for one in followed.values():
                    await one.watch.synced.wait()
                while True:
                    await changed.wait()
                    changed.clear()
                    began = time.monotonic()
                    show(Cluster(**{field: tuple(one.objects.values()) for field, one in followed.items()}))
                    await asyncio.sleep(max(PERIOD_S, time.monotonic() - began))
        except TimeoutError:
            return
        finally:
            for watch in watches:
                watch.cancel()
