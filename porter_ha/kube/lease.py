"""The Lease object: read, watched and compared-and-swapped. The decisions are core/lease.py's.

Where the API server has more than one address, a compare-and-swap that is not answered within HEDGE_S is sent to
another one as well. The two can refuse each other, so a refused one first reads whether it won.

`leaseTransitions` carries the epoch. Times in the object are for people and for other tools; we never compare them.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from porter_ha.core.lease import LeaseSettings, Record, Write
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, ApiError, Client
from porter_ha.model import names
from porter_ha.model.objects import Lease
from porter_ha.model.value import Value

HEDGE_S = 0.1
_decoder = msgspec.json.Decoder(Lease)


class Announced(Value, frozen=True):
    """The newest epoch of which every router has heard everything, and the node of the replica that said it."""

    epoch: int = 0
    node: str = ""


class Seen(NamedTuple):
    """A Lease as read: what core/lease.py decides by, what has been announced to routers, and whether somebody asks
    the holder to hand over, or every replica to withdraw."""

    record: Record
    announced: Announced
    hand_over: bool
    withdraw: bool


def seen(raw: bytes) -> Seen:
    """Raises msgspec.DecodeError, or ValueError for a resourceVersion that is no number."""
    lease = _decoder.decode(raw)
    spec = lease.spec
    record = Record(
        holder=spec.holder_identity or "",
        epoch=spec.lease_transitions or 0,
        version=int(lease.metadata.resource_version),
        duration_s=float(spec.lease_duration_seconds or 1),
    )
    epoch, _, node = lease.metadata.annotation(names.ANNOUNCED_ANNOTATION).partition(" ")
    hand_over, withdraw = (
        lease.metadata.annotation(key) == str(record.epoch)
        for key in (names.HANDOVER_ANNOTATION, names.WITHDRAW_ANNOTATION)
    )
    announced = Announced(int(epoch), node) if epoch.isascii() and epoch.isdigit() else Announced()
    return Seen(record, announced, hand_over, withdraw)


class LeaseStore:
    def __init__(self, client: Client, namespace: str, settings: LeaseSettings) -> None:
        self._client, self._settings = client, settings
        self._others: dict[str, Client] = {}
        self._collection = paths.leases(namespace)
        self._path = f"{self._collection}/{names.LEASE_NAME}"

    async def use(self, hosts: Iterable[str]) -> None:
        """The addresses (https://ADDRESS:PORT) of all API servers."""
        wanted = set(hosts) - {self._client.host}
        for host in self._others.keys() - wanted:
            await self._others.pop(host).close()
        for host in sorted(wanted - self._others.keys()):
            self._others[host] = self._client.sibling(host)

    async def read(self) -> Seen | None:
        """The Lease; None when there is none."""
        try:
            return seen(await self._request("GET", self._path))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def write(self, step: Write, holder: str, announced: Announced) -> Record:
        """Compare-and-swap. Raises ApiError 409 when somebody was faster, Unreachable when the fate is unknown."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, object] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(self._settings.duration_s),
            "leaseTransitions": step.epoch,
            "renewTime": now,
        }
        if step.acquire:
            spec["acquireTime"] = now
        meta: dict[str, object] = {"annotations": {names.ANNOUNCED_ANNOTATION: f"{announced.epoch} {announced.node}"}}
        if step.version:
            meta["resourceVersion"] = str(step.version)
            raw = await self._swap({"metadata": meta, "spec": spec}, holder, step.epoch)
        else:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": names.LEASE_NAME, **meta},
                "spec": spec,
            }
            raw = await self._request("POST", self._collection, body)
        return seen(raw).record

    async def _swap(self, body: dict[str, object], holder: str, epoch: int) -> bytes:
        """A PATCH that is sent to a second API server when the first is slow to answer."""
        tries = [asyncio.create_task(self._request("PATCH", self._path, body, MERGE))]
        try:
            done, _ = await asyncio.wait(tries, timeout=HEDGE_S)
            if done or not self._others:
                return await tries[0]
            other = next(iter(self._others.values()))
            tries.append(asyncio.create_task(self._request("PATCH", self._path, body, MERGE, other)))
            await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
            first = next(t for t in tries if t.done())
            error = first.exception()
            if error is None:
                return first.result()
            if isinstance(error, ApiError) and error.status == 409:
                raw = await self._request("GET", self._path, client=other)
                record = seen(raw).record
                if (record.holder, record.epoch) == (holder, epoch):
                    return raw  # the other copy of our own write was faster
                raise error
            return await next(t for t in tries if t is not first)
        finally:
            for one in tries:
                one.cancel()
            await asyncio.gather(*tries, return_exceptions=True)

    async def ask_to_hand_over(self, epoch: int) -> None:
        """Ask the leader of this term to let another replica lead."""
        await self._ask(names.HANDOVER_ANNOTATION, epoch)

    async def ask_to_withdraw(self, epoch: int) -> None:
        """Ask every replica to end its sessions for good, as before an uninstallation; later terms do not know."""
        await self._ask(names.WITHDRAW_ANNOTATION, epoch)

    async def _ask(self, annotation: str, epoch: int) -> None:
        await self._request("PATCH", self._path, {"metadata": {"annotations": {annotation: str(epoch)}}}, MERGE)

    async def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        client: Client | None = None,
    ) -> bytes:
        return await (client or self._client).request(
            method, path, body, content_type=content_type, timeout_s=self._settings.request_timeout_s
        )
