"""An API server in memory: objects, optimistic concurrency, patches, watches, and the admission policy of the fence.

It does what the manager relies on and no more: one counter of resourceVersions, events per kind in order, 409 for a
stale resourceVersion or another uid, 410 for a version that is forgotten, streaming lists or (an older server) plain
ones, and a policy whose parameter is seen a little late, as by an informer.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import orjson

from porter_ha.kube.client import JSON_PATCH, STRATEGIC, ApiError
from porter_ha.model import names

Object = dict[str, Any]
Key = tuple[str, str]
FORGET = 400  # events that a watch may resume over
_INITIAL_END = {"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}}


class Request(msgspec.Struct, frozen=True):
    """What arrived: `plural` is the kind's, `sub` may be "status"."""

    user: str
    method: str
    plural: str
    namespace: str
    name: str
    sub: str
    body: Any
    content_type: str
    dry_run: bool
    sent_at: float
    wanted: Callable[[Object], bool]


class Write(msgspec.Struct, frozen=True):
    """A change that was accepted. `old` or `new` is None for a creation or a deletion."""

    request: Request | None
    plural: str
    key: Key
    old: Object | None
    new: Object | None


class WatchStream:
    """What one client follows; `push` gets the lines, `end` is told when the server ends it."""

    def __init__(
        self,
        plural: str,
        wanted: Callable[[Object], bool],
        push: Callable[[list[bytes]], None],
        end: Callable[[], None],
    ) -> None:
        self.plural, self.wanted, self.push, self.end = plural, wanted, push, end


def parse_path(path: str) -> tuple[str, str, str, str]:
    """(plural, namespace, name, subresource) of an API path."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    plural, name, sub = (*parts, "", "")[:3]
    return plural, namespace, name, sub


def merge(old: Any, patch: Any, strategic: bool) -> Any:
    """RFC 7386, and of strategic merge what we use: conditions are merged by their type."""
    if not isinstance(patch, dict):
        return patch
    out = dict(old) if isinstance(old, dict) else {}
    for field, value in patch.items():
        if value is None:
            out.pop(field, None)
        elif strategic and field == "conditions":
            kept = {c["type"]: c for c in out.get(field, [])}
            for one in value:
                kept.pop(one["type"], None)
                if one.get("$patch") != "delete":
                    kept[one["type"]] = one
            out[field] = list(kept.values())
        else:
            out[field] = merge(out.get(field), value, strategic)
    return out


class Apiserver:
    """`streaming` says whether it can stream lists, `fenced` whether the policy is installed. `observers` hear of
    every write, `asked` of every request before it is judged."""

    def __init__(self, random: Random, *, streaming: bool, fenced: bool) -> None:
        self.objects: dict[str, dict[Key, Object]] = {}
        self.observers: list[Callable[[Write], None]] = []
        self.asked: list[Callable[[Request], None]] = []
        self.refuse: Callable[[Request], ApiError | None] = lambda request: None
        self.streaming, self.fenced = streaming, fenced
        self.fence_epoch = 0
        self.now: Callable[[], float] = lambda: 0.0
        self.later: Callable[[float, Callable[[], None]], object] = lambda delay, do: do()
        self._random = random
        self._version = 100
        self._made = 0
        self._history: dict[str, list[tuple[int, str, Object]]] = {}
        self._watches: list[WatchStream] = []

    # -- what users and controllers do directly

    def table(self, plural: str) -> dict[Key, Object]:
        return self.objects.setdefault(plural, {})

    def create(self, plural: str, thing: Object, request: Request | None = None) -> Object:
        meta = thing["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        if key in self.table(plural):
            raise ApiError(409, "AlreadyExists", f"{plural} {key} already exists")
        self._made += 1
        stamp = f"2026-01-01T{self._made // 3600:02}:{self._made // 60 % 60:02}:{self._made % 60:02}Z"
        meta = {**meta, "uid": f"uid-{self._made}", "creationTimestamp": stamp}
        return self._store(plural, key, None, {**thing, "metadata": meta}, request)

    def change(self, plural: str, key: Key, patch: Object, request: Request | None = None) -> Object:
        old = self.table(plural)[key]
        return self._store(plural, key, old, merge(old, patch, False), request)

    def delete(self, plural: str, key: Key) -> None:
        old = self.table(plural).pop(key)
        self._version += 1
        gone = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self._version)}}
        self._tell("DELETED", plural, gone)
        self._observe(Write(None, plural, key, old, None))

    # -- what clients ask

    def handle(self, request: Request) -> bytes:
        """One request. Raises ApiError."""
        for hear in self.asked:
            hear(request)
        if error := self.refuse(request):
            raise error
        table, key = self.table(request.plural), (request.namespace, request.name)
        if request.method == "POST":
            return orjson.dumps(self._create(request))
        if not request.name:
            items = [thing for thing in table.values() if request.wanted(thing)]
            return orjson.dumps({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        if key not in table:
            raise ApiError(404, "NotFound", f"{request.plural} {key} not found")
        if request.method == "GET":
            return orjson.dumps(table[key])
        return orjson.dumps(self._patch(request, key, table[key]))

    def _create(self, request: Request) -> Object:
        body = request.body
        namespace = request.namespace or body["metadata"].get("namespace", "")
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{self._made}"
        meta = {**body["metadata"], "name": name, "namespace": namespace}
        return self.create(request.plural, {**body, "metadata": meta}, request)

    def _patch(self, request: Request, key: Key, old: Object) -> Object:
        if request.content_type == JSON_PATCH:
            new = dict(old)
            for step in request.body:
                new[step["path"].strip("/")] = step["value"]
        else:
            new = merge(old, request.body, request.content_type == STRATEGIC)
        wanted = request.body.get("metadata", {}) if isinstance(request.body, dict) else {}
        for field in ("uid", "resourceVersion"):
            if field in wanted and wanted[field] != old["metadata"][field]:
                raise ApiError(409, "Conflict", f"{request.plural} {key}: {field} is {old['metadata'][field]}")
        self._admit(request, key, old, new)
        if request.dry_run:
            return new
        return self._store(request.plural, key, old, new, request)

    def _admit(self, request: Request, key: Key, old: Object, new: Object) -> None:
        if request.plural == "terms" and new["spec"]["epoch"] < old["spec"]["epoch"]:
            raise ApiError(422, "Invalid", "a Term cannot go back")
        if (request.plural, request.sub) == ("services", "status") and self.fenced:
            text = new["metadata"].get("annotations", {}).get(names.EPOCH_ANNOTATION, "")
            if not text.isdigit() or int(text) < self.fence_epoch:
                raise ApiError(422, "Invalid", f"ValidatingAdmissionPolicy {names.FENCE_NAME} denied: epoch {text}")

    # -- watches

    def watch(self, stream: WatchStream, version: str) -> None:
        """Begin; "" sends everything first. Raises ApiError 410 when `version` is forgotten, 400 for an old server."""
        history = self._history.get(stream.plural, [])
        lines = []
        if not version:
            if not self.streaming:
                raise ApiError(400, "BadRequest", "sendInitialEvents is not supported")
            lines = [_line("ADDED", thing) for thing in self.table(stream.plural).values() if stream.wanted(thing)]
            end = {"metadata": {**_INITIAL_END["metadata"], "resourceVersion": str(self._version)}}
            lines.append(_line("BOOKMARK", end))
        elif len(history) >= FORGET and int(version) < history[-FORGET][0]:
            raise ApiError(410, "Expired", "too old resource version")
        else:
            lines = [_line(kind, thing) for at, kind, thing in history if at > int(version) and stream.wanted(thing)]
        self._watches.append(stream)
        if lines:
            stream.push(lines)

    def end_watches(self, plural: str = "") -> None:
        """As a server does that restarts, or has had enough of them."""
        ended = [w for w in self._watches if plural in ("", w.plural)]
        self._watches = [w for w in self._watches if w not in ended]
        for stream in ended:
            stream.end()

    def forget(self, plural: str) -> None:
        """Compaction: watches of the kind end, and cannot be resumed."""
        self._version += 1
        history = self._history.setdefault(plural, [])
        history += [(self._version, "BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}})] * FORGET
        self.end_watches(plural)

    def leave(self, stream: WatchStream) -> None:
        if stream in self._watches:
            self._watches.remove(stream)

    # -- within

    def _store(self, plural: str, key: Key, old: Object | None, new: Object, request: Request | None) -> Object:
        self._version += 1
        new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self._version)}}
        self.table(plural)[key] = new
        self._tell("ADDED" if old is None else "MODIFIED", plural, new)
        self._observe(Write(request, plural, key, old, new))
        if plural == "terms":
            epoch = new["spec"]["epoch"]
            self.later(self._random.uniform(0.0, 0.2), lambda: self._see_term(epoch))
        return new

    def _see_term(self, epoch: int) -> None:
        self.fence_epoch = max(self.fence_epoch, epoch)

    def _tell(self, kind: str, plural: str, thing: Object) -> None:
        self._history.setdefault(plural, []).append((self._version, kind, thing))
        line = None
        for stream in self._watches:
            if stream.plural == plural and stream.wanted(thing):
                line = line or _line(kind, thing)
                stream.push([line])

    def _observe(self, write: Write) -> None:
        for hear in self.observers:
            hear(write)


def _line(kind: str, thing: Object) -> bytes:
    return orjson.dumps({"type": kind, "object": thing})
