"""The link between replicas: a plain TCP connection from each to each, beats on it, and what its end tells.

Replicas find each other by a Lease each writes for itself (`porter-ha-replica-NODE`, its address in an annotation).
Nothing that comes over the link is a decision: the API server's compare-and-swap is (core/handover.py).
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from porter_ha.core.handover import BEAT_S, Beat, Known
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, ApiError, Client, Unreachable
from porter_ha.kube.watch import Change, Watch
from porter_ha.manager.host import Host
from porter_ha.model import names
from porter_ha.model.objects import Lease
from porter_ha.obs.log import log

CONNECT_S = 0.3
REDIAL_S = 0.2
REMEMBERED = 16
_beats = msgspec.json.Decoder(Beat)


class Link:
    """`beat` gives what to tell; `on_news` is called whenever something heard may change a decision."""

    def __init__(
        self,
        host: Host,
        client: Client,
        namespace: str,
        address: str,
        port: int,
        beat: Callable[[], Beat],
        on_news: Callable[[], None],
    ) -> None:
        self.known: dict[str, Known] = {}
        self._host, self._client, self._collection = host, client, paths.leases(namespace)
        self._address, self._port = address, port
        self._beat, self._on_news = beat, on_news
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._watch = Watch(client, self._collection, self._replicas_changed, {"labelSelector": names.REPLICA_LABEL})
        self._decoder = msgspec.json.Decoder(Lease)

    def of(self, identity: str) -> Known | None:
        return self.known.get(identity)

    def living(self) -> dict[str, Known]:
        """The other replicas that are heard now."""
        now = self._host.now()
        return {i: k for i, k in self.known.items() if not k.dead and not k.silent(now)}

    def witnesses(self) -> dict[str, frozenset[str] | None]:
        """By node, what the other replicas that may live say is silent; None when they themselves are not heard. One
        that is not warm yet has seen nothing."""
        now = self._host.now()
        return {
            k.beat.node: None if k.silent(now) else frozenset(k.beat.silent)
            for k in self.known.values()
            if k.beat.warm and not k.dead
        }

    async def run(self) -> None:
        server = await self._host.listen(self._address, self._port, self._accepted)
        try:
            await self._register()
            await self._watch.run()
        finally:
            for task in self._dialers.values():
                task.cancel()
            server.close()

    async def _register(self) -> None:
        """Say where we are. Tried until it is written."""
        me = self._beat()
        name = f"{names.REPLICA_LEASE_PREFIX}{me.node}"
        meta = {
            "name": name,
            "labels": {names.REPLICA_LABEL: ""},
            "annotations": {names.REPLICA_ADDRESS_ANNOTATION: f"{self._address or 'localhost'} {self._port}"},
        }
        body = {"metadata": meta, "spec": {"holderIdentity": me.identity}}
        while True:
            try:
                try:
                    await self._client.request("PATCH", f"{self._collection}/{name}", body, content_type=MERGE)
                except ApiError as error:
                    if error.status != 404:
                        raise
                    whole = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body}
                    await self._client.request("POST", self._collection, whole)
                return
            except (ApiError, Unreachable) as error:
                log("replica not registered yet", error=str(error))
                await asyncio.sleep(1.0)

    def _replicas_changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kind == "SYNCED":
                continue
            if change.name in self._dialers:
                self._dialers.pop(change.name).cancel()
            if change.raw is None:
                continue
            lease = self._decoder.decode(change.raw)
            address, _, port = lease.metadata.annotation(names.REPLICA_ADDRESS_ANNOTATION).partition(" ")
            if lease.spec.holder_identity != self._beat().identity and port.isdigit():
                task = asyncio.create_task(self._dial(address, int(port)), name=f"link to {change.name}")
                self._dialers[change.name] = task

    async def _dial(self, address: str, port: int) -> None:
        """Keep a connection, and learn from how it ends."""
        last = ""
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await self._host.connect(address, port)
            except ConnectionRefusedError:
                self._died(last)  # the host lives and nobody listens: the process is gone
                last = ""
            except (TimeoutError, OSError):
                pass  # silence proves nothing by itself
            else:
                last = await self._converse(reader, writer, last)
                continue  # at once: a refusal now is the proof
            await asyncio.sleep(REDIAL_S)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the loop's end; asyncio.streams would print it as an error
            await self._converse(reader, writer, "")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, before: str) -> str:
        """Beats both ways until the connection ends; returns whom it was with. `before` was there before."""
        sender = asyncio.create_task(self._send(writer))
        identity = before
        try:
            while line := await reader.readline():
                beat = _beats.decode(line)
                if identity and beat.identity != identity:
                    self._died(identity)  # another process answers at its address
                identity = beat.identity
                self.known[identity] = Known(beat, self._host.now())
                self._on_news()
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log("link broken", with_=identity, error=str(error))
        finally:
            sender.cancel()
            writer.close()
        return identity

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(msgspec.json.encode(self._beat()) + b"\n")
            await asyncio.sleep(BEAT_S)

    def _died(self, identity: str) -> None:
        known = self.known.get(identity)
        if known is not None and not known.dead:
            log("replica is dead", replica=identity)
            self.known[identity] = msgspec.structs.replace(known, dead=True)
            for old in [i for i, k in self.known.items() if k.dead][:-REMEMBERED]:
                del self.known[old]
            self._on_news()
