"""Raw requests to the API server: bytes out, bytes in, over one kept-alive connection pool.

Every request has a deadline. Errors are ApiError with the server's own words; a request that got no answer is
Unreachable, and its fate is unknown.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Self
from urllib.parse import urlencode
from weakref import WeakSet

import msgspec
import orjson

from porter_ha.http.client import Broken, Pool
from porter_ha.model.access import Access

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json"
IN_FLIGHT = 32  # measured: more than this many PATCHes at once gain nothing on a 2-core API server


class ApiError(Exception):
    """The API server refused: HTTP status, its reason, its message, and when to come again (Retry-After; 0: unsaid)."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message, self.retry_after_s = status, reason, message, retry_after_s


class Unreachable(Exception):
    """No answer came in time, or the connection broke: whether the request was carried out is unknown."""


class Reach:
    """Whether the API server answers. What waits out a failure is woken when it answers anybody again."""

    def __init__(self) -> None:
        self._lost = False
        self._waiting: dict[asyncio.Future[None], None] = {}  # woken in the order in which they came

    def lost(self) -> None:
        self._lost = True

    def answered(self) -> None:
        if self._lost:
            self._lost = False
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)

    async def recovery(self, most_s: float) -> None:
        """Until the server answers again after it did not, and at most so long."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            async with asyncio.timeout(most_s):
                await future
        except TimeoutError:
            pass
        finally:
            del self._waiting[future]


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""


def _error(status: int, body: bytes, retry_after: str = "") -> ApiError:
    wait_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    try:
        said = msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:
        return ApiError(status, "", body[:200].decode("utf-8", "replace"), wait_s)
    return ApiError(status, said.reason, said.message, wait_s)


def _tls(access: Access) -> ssl.SSLContext | None:
    if not access.host.startswith("https"):
        return None
    context = ssl.create_default_context(cafile=access.ca_file or None)
    if access.cert_file:
        context.load_cert_chain(access.cert_file, access.key_file or None)
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _target(path: str, params: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(params)}" if params else path


class Client:
    """One API server, as one identity. Use as an async context manager."""

    def __init__(self, access: Access, timeout_s: float = 10.0) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self.reach = Reach()
        self._siblings: WeakSet[Client] = WeakSet()
        self._pool = Pool(access.host, IN_FLIGHT * 2, _tls(access), timeout_s)

    @property
    def host(self) -> str:
        return self._access.host

    def sibling(self, host: str) -> "Client":
        """The same identity at another address of the API server. It is renewed and closed with this one."""
        made = Client(msgspec.structs.replace(self._access, host=host), self._timeout_s)
        self._siblings.add(made)
        return made

    async def close(self) -> None:
        for sibling in self._siblings:
            await sibling.close()
        await self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def renew(self, access: Access) -> None:
        """Use a rotated token from the next request on."""
        self._access = access
        for sibling in self._siblings:
            sibling.renew(msgspec.structs.replace(access, host=sibling.host))

    def _headers(self, content_type: str) -> str:
        headers = f"Accept: {JSON}\r\nUser-Agent: porter-ha\r\n"
        if self._access.authorization:
            headers += f"Authorization: {self._access.authorization}\r\n"
        return f"{headers}Content-Type: {content_type}\r\n" if content_type else headers

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = JSON,
        timeout_s: float | None = None,
    ) -> bytes:
        """One request. Raises ApiError or Unreachable."""
        data = None if body is None else orjson.dumps(body)
        try:
            headers = self._headers(content_type if data is not None else "")
            answer = await self._pool.exchange(method, _target(path, params), headers, data, timeout_s)
        except Broken as error:
            self.reach.lost()
            raise Unreachable(f"{method} {path}: {error}") from error
        self.reach.answered()
        if answer.status >= 400:
            raise _error(answer.status, answer.body, answer.header(b"retry-after"))
        return answer.body

    async def stream(
        self, path: str, params: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncIterator[list[bytes]]:
        """The lines of a watch, in batches as they arrive; the first batch is empty and says that the server has begun.

        Ends when the server ends it; raises like `request`.
        """
        try:
            async with self._pool.stream(_target(path, params), self._headers(""), idle_timeout_s) as (status, parts):
                if status >= 400:
                    raise _error(status, b"".join([part async for part in parts]))
                self.reach.answered()
                yield []
                rest = b""
                async for part in parts:
                    *lines, rest = (rest + part if rest else part).split(b"\n")
                    if lines:
                        yield lines
        except Broken as error:
            self.reach.lost()
            raise Unreachable(f"watch {path}: {error}") from error
