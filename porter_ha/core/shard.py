"""Which shard owns a Service, and what a shard knows of its Services.

A Service and its EndpointSlices go to the same shard (design 2), so a shard alone can say what a Service asks for.
"""

from collections.abc import Iterable
from zlib import crc32

from porter_ha.core.eligibility import claim_of
from porter_ha.model.objects import EndpointSlice, Service
from porter_ha.model.plan import Claim


def shard_of(service_key: str, shards: int) -> int:
    """The shard of namespace/name; the same on every replica."""
    return crc32(service_key.encode()) % shards


def _version(service: Service) -> int:
    """resourceVersions of one kind can be compared (KEP-5504); what is no number is taken for old."""
    text = service.metadata.resource_version
    return int(text) if text.isascii() and text.isdigit() else 0


class ShardState:
    """The Services and EndpointSlices of one shard, and the claims that follow from them."""

    def __init__(self, classless: bool) -> None:
        self._classless = classless
        self._services: dict[str, Service] = {}
        self._slices: dict[str, dict[str, EndpointSlice]] = {}
        self._claims: dict[str, Claim] = {}
        self._touched: dict[str, None] = {}
        self._written: dict[str, int] = {}

    def set_service(self, key: str, service: Service | None) -> None:
        """As a watch brings it; what is older than our own last write to it is passed over."""
        if service is None:
            self._services.pop(key, None)
            self._written.pop(key, None)
        else:
            if key in self._written:
                if _version(service) < self._written[key] and self._same(key, service):
                    return
                del self._written[key]
            self._services[key] = service
        self._touched[key] = None

    def set_written(self, key: str, service: Service) -> bool:
        """As the answer to a write of ours shows it. Returns whether it is news, and the watch is still to bring it."""
        known = self._services.get(key)
        if known is None or not self._same(key, service) or _version(service) <= _version(known):
            return False
        self._services[key] = service
        self._written[key] = _version(service)
        self._touched[key] = None
        return True

    def _same(self, key: str, service: Service) -> bool:
        return self._services[key].metadata.uid == service.metadata.uid

    def set_slice(self, service_key: str, name: str, part: EndpointSlice | None) -> None:
        parts = self._slices.setdefault(service_key, {})
        if part is None:
            parts.pop(name, None)
        else:
            parts[name] = part
        if not parts:
            del self._slices[service_key]
        self._touched[service_key] = None

    def service(self, key: str) -> Service | None:
        return self._services.get(key)

    def drain(self) -> tuple[list[Claim], list[str]]:
        """(claims that became different, keys that claim nothing any more) since the last call."""
        changed: list[Claim] = []
        gone: list[str] = []
        for key in self._touched:
            service = self._services.get(key)
            claim = claim_of(service, self._parts(key), self._classless) if service is not None else None
            if claim is None:
                if self._claims.pop(key, None) is not None:
                    gone.append(key)
            elif self._claims.get(key) != claim:
                self._claims[key] = claim
                changed.append(claim)
        self._touched.clear()
        return changed, gone

    def _parts(self, key: str) -> Iterable[EndpointSlice]:
        return self._slices.get(key, {}).values()
