"""The Term object: raised by a new leader before it writes, compared by the API server with every status write."""

import asyncio

import msgspec

from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, STRATEGIC, ApiError, Client
from porter_ha.model import names

CHECK_TRIES = 20
CHECK_PAUSE_S = 0.05  # measured: the API server's own watch of Terms shows a change within 50 ms


class _Spec(msgspec.Struct):
    epoch: int = 0


class _Term(msgspec.Struct):
    spec: _Spec


class TermStore:
    """Raises ApiError and Unreachable as they come, but for what is said at each method."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._path = f"{paths.TERMS}/{names.TERM_NAME}"

    async def read(self) -> int:
        """The newest term; 0 when there is no Term yet, or no such kind."""
        try:
            raw = await self._client.request("GET", self._path, timeout_s=2.0)
        except ApiError as error:
            if error.status == 404:
                return 0
            raise
        return msgspec.json.decode(raw, type=_Term).spec.epoch

    async def raise_to(self, epoch: int) -> None:
        """From now on older terms are refused. ApiError 422: a newer term has begun. 404: the kind is not installed."""
        spec = {"spec": {"epoch": epoch}}
        try:
            await self._client.request("PATCH", self._path, spec, content_type=MERGE, timeout_s=2.0)
        except ApiError as error:
            if error.status != 404:
                raise
            body = {
                "apiVersion": f"{names.OWN_GROUP}/{names.OWN_VERSION}",
                "kind": "Term",
                "metadata": {"name": names.TERM_NAME},
                **spec,
            }
            await self._client.request("POST", paths.TERMS, body, timeout_s=2.0)

    async def fenced(self, epoch: int, service_key: str) -> bool:
        """Whether the API server refuses a write of the term before `epoch`: tried, without effect, on a Service of
        ours."""
        stale = {"metadata": {"annotations": {names.EPOCH_ANNOTATION: str(epoch - 1)}}}
        for _ in range(CHECK_TRIES):
            try:
                await self._client.request(
                    "PATCH",
                    paths.service(service_key) + "/status",
                    stale,
                    params={"dryRun": "All"},
                    content_type=STRATEGIC,
                    timeout_s=2.0,
                )
            except ApiError as error:
                if error.status in (403, 422) and names.FENCE_NAME in error.message:
                    return True
                raise
            await asyncio.sleep(CHECK_PAUSE_S)
        return False
