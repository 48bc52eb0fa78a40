"""The Lease object: read, watched and compared-and-swapped. The decisions are core/lease.py's.

`leaseTransitions` carries the epoch. Times in the object are for people and for other tools; we never compare them.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from porter_ha.core.lease import LeaseSettings, Record, Write
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, ApiError, Client
from porter_ha.model import names
from porter_ha.model.objects import Lease

_decoder = msgspec.json.Decoder(Lease)


class Seen(NamedTuple):
    """A Lease as read: what core/lease.py decides by, the epoch that its holder has announced to routers, and whether
    somebody asks the holder to hand over."""

    record: Record
    announced_epoch: int
    hand_over: bool


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
    announced = lease.metadata.annotation(names.ANNOUNCED_ANNOTATION)
    asked = lease.metadata.annotation(names.HANDOVER_ANNOTATION)
    epoch = int(announced) if announced.isascii() and announced.isdigit() else 0
    return Seen(record, epoch, asked == str(record.epoch))


class LeaseStore:
    def __init__(self, client: Client, namespace: str, settings: LeaseSettings) -> None:
        self._client, self._settings = client, settings
        self._collection = paths.leases(namespace)
        self._path = f"{self._collection}/{names.LEASE_NAME}"

    async def read(self) -> Seen | None:
        """The Lease; None when there is none."""
        try:
            return seen(await self._request("GET", self._path))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def write(self, step: Write, holder: str, announced_epoch: int) -> Record:
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
        meta: dict[str, object] = {"annotations": {names.ANNOUNCED_ANNOTATION: str(announced_epoch)}}
        if step.version:
            meta["resourceVersion"] = str(step.version)
            raw = await self._request("PATCH", self._path, {"metadata": meta, "spec": spec}, MERGE)
        else:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": names.LEASE_NAME, **meta},
                "spec": spec,
            }
            raw = await self._request("POST", self._collection, body)
        return seen(raw).record

    async def ask_to_hand_over(self, epoch: int) -> None:
        """Ask the leader of this term to let another replica lead."""
        asked = {names.HANDOVER_ANNOTATION: str(epoch)}
        await self._request("PATCH", self._path, {"metadata": {"annotations": asked}}, MERGE)

    async def _request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> bytes:
        return await self._client.request(
            method, path, body, content_type=content_type, timeout_s=self._settings.request_timeout_s
        )
