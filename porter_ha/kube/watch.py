"""Follow one kind of object: every change once, in order, with whatever went missing made good.

Uses streaming lists (KEP-3157, `sendInitialEvents`) where the server has them, else LIST and WATCH. After a gap that
the server no longer remembers (410 Gone) everything is listed again, and objects that are no more are reported as
deleted. Objects are passed on as raw bytes; only the key and the labels are decoded here.

Must never: skip an event, report an object twice as new, or give up.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal

import msgspec

from porter_ha.core.backoff import Backoff
from porter_ha.core.moderation import Moderation
from porter_ha.kube.client import ApiError, Client, Unreachable

PAGE = "500"
WATCH_S = 300
IDLE_S = 330.0
_INITIAL_END = "k8s.io/initial-events-end"


class Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Peek(msgspec.Struct):
    metadata: Meta = msgspec.field(default_factory=Meta)
    code: int = 0
    message: str = ""


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    cont: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct):
    """A part of a collection."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class Change(msgspec.Struct, frozen=True):
    """One object as it is now (`raw`), or no more (`raw` is None). A SYNCED change has neither key nor object:
    everything that existed when the watch began has been reported."""

    kind: Literal["SET", "DELETED", "SYNCED"]
    namespace: str = ""
    name: str = ""
    labels: Mapping[str, str] | None = None
    raw: bytes | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class _Gone(Exception):
    """The server no longer remembers our resourceVersion."""


_line = msgspec.json.Decoder(_Line)
_peek = msgspec.json.Decoder(_Peek)
_list = msgspec.json.Decoder(Page)


async def listed(client: Client, path: str, params: Mapping[str, str]) -> AsyncIterator[Page]:
    """The pages of a collection, as it is now. Raises ApiError or Unreachable."""
    cont = ""
    while True:
        more = {**params, "limit": PAGE, **({"continue": cont} if cont else {})}
        page = _list.decode(await client.request("GET", path, params=more, timeout_s=60))
        yield page
        cont = page.metadata.cont
        if not cont:
            return


class Watch:
    """`path` is the collection (/api/v1/services); `params` may hold selectors. With `gather`, changes that come in
    masses wait a little for each other, and are delivered together (core/moderation.py)."""

    def __init__(
        self,
        client: Client,
        path: str,
        deliver: Callable[[list[Change]], None],
        params: Mapping[str, str] | None = None,
        *,
        gather: bool = False,
    ) -> None:
        self._client, self.path, self._deliver = client, path, deliver
        self._moderation = Moderation() if gather else None
        self._task: asyncio.Task[None] | None = None
        self._params = dict(params or {})
        self._known: dict[tuple[str, str], Mapping[str, str] | None] = {}
        self._version = ""
        self._streaming_lists = True
        self.failures = 0
        self.synced = asyncio.Event()
        self.live = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever. Ends only by cancellation."""
        try:
            while True:
                self._task = asyncio.create_task(self._follow(), name=f"follow {self.path}")
                await asyncio.wait([self._task])
                if not self._task.cancelled():
                    self._task.result()  # a defect of ours: let it be seen
        finally:
            if self._task is not None:
                self._task.cancel()

    def restart(self) -> None:
        """List everything again, as if the watch had just begun."""
        self.synced.clear()
        self.live.clear()
        self._version = ""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        backoff = Backoff(0.1, 5.0, random.random)
        while True:
            try:
                if not self._version:
                    await self._start()
                async for lines in self._stream(self._version):
                    self.live.set()
                    self._apply(lines)
                    backoff.reset()
                    await self._gather(len(lines))
            except _Gone:
                self._version = ""
            except ApiError as error:
                if error.status == 410:  # said at once, and not in the stream
                    self._version = ""
                await self._pause(backoff.next())
            except Unreachable:
                await self._pause(backoff.next())
            except msgspec.DecodeError:  # a torn line, or not an API server: what was in that batch is not known
                self._version = ""
                await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        self.failures += 1
        self.live.clear()
        await self._client.reach.recovery(seconds)

    async def _gather(self, delivered: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._moderation and (wait_s := self._moderation.wait_s(now, delivered)):
            await asyncio.sleep(wait_s)

    def _stream(self, version: str, **extra: str) -> AsyncIterator[list[bytes]]:
        params = {
            **self._params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "resourceVersion": version,
            **extra,
        }
        return self._client.stream(self.path, params, idle_timeout_s=IDLE_S)

    async def _start(self) -> None:
        before = set(self._known)
        if self._streaming_lists:
            try:
                await self._start_streaming(before)
                return
            except ApiError as error:
                if error.status not in (400, 403, 422):
                    raise
                self._streaming_lists = False  # a server before 1.32 or without the feature
        await self._start_listing(before)

    async def _start_streaming(self, before: set[tuple[str, str]]) -> None:
        stream = self._stream("", sendInitialEvents="true", resourceVersionMatch="NotOlderThan")
        async for lines in stream:
            ended = self._apply(lines, before)
            if ended:
                self.synced.set()
                self.live.set()
            if self.live.is_set():
                await self._gather(len(lines))
        if not self._version:
            raise Unreachable(f"watch {self.path}: ended before everything was listed")

    async def _start_listing(self, before: set[tuple[str, str]]) -> None:
        version, changes = "", []
        async for page in listed(self._client, self.path, self._params):
            for raw in page.items or ():
                meta = _peek.decode(raw).metadata
                before.discard((meta.namespace, meta.name))
                changes.append(self._set(meta, bytes(raw)))
            version = page.metadata.resource_version
        self._finish(changes, before)
        self._version = version
        self._deliver(changes)
        self.synced.set()

    def _apply(self, lines: list[bytes], before: set[tuple[str, str]] | None = None) -> bool:
        """Deliver a batch. Returns whether it held the end of the initial events."""
        changes: list[Change] = []
        ended = False
        for text in lines:
            line = _line.decode(text)
            seen = _peek.decode(line.object)
            meta = seen.metadata
            if line.type == "ERROR":
                self._deliver(changes)
                if seen.code == 410:
                    raise _Gone
                raise ApiError(seen.code, "WatchError", seen.message)
            if line.type == "BOOKMARK":
                if (meta.annotations or {}).get(_INITIAL_END) == "true" and before is not None:
                    self._version, ended = meta.resource_version, True
                    self._finish(changes, before)
                elif self._version:
                    self._version = meta.resource_version
                continue
            if before is not None:
                before.discard((meta.namespace, meta.name))
            if line.type == "DELETED":
                self._known.pop((meta.namespace, meta.name), None)
                changes.append(Change("DELETED", meta.namespace, meta.name, meta.labels))
            else:
                changes.append(self._set(meta, bytes(line.object)))
            if self._version:
                self._version = meta.resource_version
        self._deliver(changes)
        return ended

    def _set(self, meta: Meta, raw: bytes) -> Change:
        self._known[meta.namespace, meta.name] = meta.labels
        return Change("SET", meta.namespace, meta.name, meta.labels, raw)

    def _finish(self, changes: list[Change], before: set[tuple[str, str]]) -> None:
        """What was known before the list and is not in it was deleted meanwhile."""
        for namespace, name in sorted(before):
            changes.append(Change("DELETED", namespace, name, self._known.pop((namespace, name), None)))
        before.clear()
        changes.append(Change("SYNCED"))
