"""The cluster as it arrives: one watch per kind, each change passed on to whoever needs it.

Services and EndpointSlices go to shards as raw bytes, filed by their Service's key. Nodes, Namespaces, Eips, BgpConfs,
BgpPeers and the Secrets of our own namespace are few and are decoded here; one that cannot be read is reported and left
out (I9).
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from porter_ha.kube import paths
from porter_ha.kube.client import Client
from porter_ha.kube.watch import Change, Watch
from porter_ha.model import names
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Namespace, Node, ObjectMeta, Secret, Service
from porter_ha.obs.log import log
from porter_ha.protocol import Raw

T = TypeVar("T")
API_SERVICE = "kubernetes"


class Table(Generic[T]):
    """The objects of one kind, decoded, by name; `on_change` is called once for every batch of changes. `changed`
    gathers their names until somebody takes them."""

    def __init__(self, client: Client, path: str, kind: type[T], on_change: Callable[[], None]) -> None:
        self.objects: dict[str, T] = {}
        self.changed: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.watch = Watch(client, path, self._deliver)
        self._decoder = msgspec.json.Decoder(kind)
        self._kind = kind.__name__
        self._on_change = on_change

    def _deliver(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kind == "SYNCED":
                continue
            self.changed.add(change.name)
            self.objects.pop(change.name, None)
            self.unreadable.pop(change.name, None)
            if change.raw is not None:
                try:
                    self.objects[change.name] = self._decoder.decode(change.raw)
                except msgspec.DecodeError as error:
                    self.unreadable[change.name] = str(error)
                    log("cannot read object", kind=self._kind, name=change.name, error=str(error))
        self._on_change()

    def take_changed(self) -> dict[str, T | None]:
        """What became different since the last call: object by name, None for what is gone."""
        changed, self.changed = self.changed, set()
        return {name: self.objects.get(name) for name in changed}


class Inputs:
    """All watches of a replica. `on_raws` gets what shards digest, `on_table` hears of decoded objects, `on_servers`
    of the addresses of the API servers."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        on_raws: Callable[[list[Raw]], None],
        on_table: Callable[[], None],
        on_barrier: Callable[[str], None],
        on_servers: Callable[[list[str]], None],
    ) -> None:
        self.nodes = Table(client, paths.NODES, Node, on_table)
        self.namespaces = Table(client, paths.NAMESPACES, Namespace, on_table)
        self.eips = Table(client, paths.EIPS, Eip, on_table)
        self.confs = Table(client, paths.BGP_CONFS, BgpConf, on_table)
        self.peers = Table(client, paths.BGP_PEERS, BgpPeer, on_table)
        self.secrets = Table(client, paths.secrets(namespace), Secret, on_table)
        self._services = Watch(client, paths.SERVICES, self._service_changes, gather=True)
        self._slices = Watch(client, paths.ENDPOINT_SLICES, self._slice_changes, gather=True)
        self._barrier_key = f"{namespace}/{names.BARRIER_SERVICE}"
        self._barrier = msgspec.json.Decoder(Service)
        self._on_raws, self._on_barrier, self._on_servers = on_raws, on_barrier, on_servers
        self._servers: dict[str, tuple[str, ...]] = {}
        self._slice = msgspec.json.Decoder(EndpointSlice)

    @property
    def watches(self) -> list[Watch]:
        tables = (self.nodes, self.namespaces, self.eips, self.confs, self.peers, self.secrets)
        return [*(table.watch for table in tables), self._services, self._slices]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for watch in self.watches:
                group.create_task(watch.run(), name=f"watch {watch.path}")

    async def synced(self) -> None:
        """Until every kind has been listed once."""
        for watch in self.watches:
            await watch.synced.wait()

    async def live(self) -> None:
        """Until every kind is being followed."""
        for watch in self.watches:
            await watch.live.wait()

    def relist(self) -> None:
        """Report every Service and EndpointSlice again: a shard lost what it knew."""
        self._services.restart()
        self._slices.restart()

    async def relisted(self) -> None:
        await self._services.synced.wait()
        await self._slices.synced.wait()

    def _service_changes(self, changes: list[Change]) -> None:
        raws = [Raw("Service", c.key, c.name, c.raw or b"") for c in changes if c.kind != "SYNCED"]
        if raws:
            self._on_raws(raws)
        for change in changes:
            if change.key == self._barrier_key and change.raw is not None:
                self._on_barrier(self._barrier.decode(change.raw).metadata.annotation(names.BARRIER_ANNOTATION))

    def _api_servers(self, change: Change) -> None:
        """The Service `default/kubernetes` names the API servers' own addresses."""
        part = self._slice.decode(change.raw) if change.raw is not None else EndpointSlice(ObjectMeta())
        ports = [port.port for port in part.ports or () if port.port]
        hosts = [address for endpoint in part.endpoints or () for address in endpoint.addresses or ()]
        form = "https://[{}]:{}" if part.address_type == "IPv6" else "https://{}:{}"
        self._servers[change.name] = tuple(form.format(host, port) for host in hosts for port in ports)
        self._on_servers(sorted(url for urls in self._servers.values() for url in urls))

    def _slice_changes(self, changes: list[Change]) -> None:
        raws = []
        for change in changes:
            owner = (change.labels or {}).get(names.SLICE_SERVICE_LABEL)
            if owner == API_SERVICE and change.namespace == "default":
                self._api_servers(change)
            elif owner and change.kind != "SYNCED":
                raws.append(Raw("EndpointSlice", f"{change.namespace}/{owner}", change.name, change.raw or b""))
        if raws:
            self._on_raws(raws)
