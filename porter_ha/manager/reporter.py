"""Writes what the replica knows into the status of Eips, BgpConfs and BgpPeers, and events when a verdict changes.

Writes are coalesced: at most one pass every PERIOD_S, and only documents that became different. An Eip's status is the
leader's alone and is replaced as a whole. Of BgpConf and BgpPeer the leader writes the verdicts, and every replica its
own entry of nodesPeerStatus and nodesConfStatus (a merge patch of its own key, so replicas never undo each other);
the leader takes out entries of nodes that are no more.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from heapq import nsmallest

import orjson

from porter_ha.core.pool import Pool
from porter_ha.kube import paths, status
from porter_ha.kube.client import JSON_PATCH, MERGE, ApiError, Client, Unreachable
from porter_ha.manager.replica import Replica
from porter_ha.model.names import GROUP, VERSION
from porter_ha.model.net import V4, to_text
from porter_ha.model.objects import BgpConf, BgpPeer, Eip
from porter_ha.model.plan import Refusal
from porter_ha.model.reasons import Reason
from porter_ha.obs.log import log
from porter_ha.protocol import SessionReport

PERIOD_S = 1.0
REVIEW_S = 10.0
USED_SHOWN = 256  # status.used is for people and old tools; a pool may have 16 million addresses
_KINDS = {"Eip": paths.EIPS, "BgpConf": paths.BGP_CONFS, "BgpPeer": paths.BGP_PEERS}
Documents = dict[tuple[str, str], dict[str, object]]


class Reporter:
    def __init__(self, replica: Replica, client: Client) -> None:
        self._replica, self._client = replica, client
        self._written: dict[tuple[str, str], bytes] = {}
        self._verdicts: dict[tuple[str, str], Refusal | None] = {}
        self._since: dict[tuple[str, str, str], tuple[str, tuple[str, str]]] = {}
        self._seen: dict[str, tuple[bool, int]] = {}  # of each session when it was looked at last: up? how often lost?
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # some of what is said ends by time alone
                async with asyncio.timeout(REVIEW_S):
                    await self._replica.changed.wait()
            self._replica.changed.clear()
            documents = self._own_entries()
            if self._replica.leadership.acting_epoch:
                _merge(documents, self._verdict_documents())
            else:
                self._verdicts.clear()
            await self._write(documents)
            await asyncio.sleep(PERIOD_S)

    async def _write(self, documents: Documents) -> None:
        for (kind, name), document in documents.items():
            comparable = orjson.dumps(_without_times(document), option=orjson.OPT_SORT_KEYS)
            if self._written.get((kind, name)) == comparable:
                continue
            try:
                path = f"{_KINDS[kind]}/{name}/status"
                if kind == "Eip":
                    whole = [{"op": "add", "path": "/status", "value": document}]
                    await self._client.request("PATCH", path, whole, content_type=JSON_PATCH)
                else:
                    await self._client.request("PATCH", path, {"status": document}, content_type=MERGE)
                self._written[kind, name] = comparable
            except ApiError as error:
                if error.status != 404:
                    log("status not written", kind=kind, name=name, error=str(error))
            except Unreachable:
                self._replica.changed.set()  # try again after PERIOD_S
                return
        for key in self._written.keys() - documents.keys():
            del self._written[key]

    # -- every replica

    def _own_entries(self) -> Documents:
        replica = self._replica
        node = replica.settings.node
        documents: Documents = {}
        for name in replica.inputs.peers.objects:
            report = replica.leadership.bgp.sessions.get(name)
            self._tell_session(name, report)
            documents["BgpPeer", name] = {"nodesPeerStatus": {node: _session(report) if report else None}}
        accepted = replica.peers.accepted
        if accepted:
            entry = {"routerId": accepted[0].router_id, "as": accepted[0].local_as}
            documents["BgpConf", "default"] = {"nodesConfStatus": {node: entry}}
        return documents

    # -- the leader

    def _verdict_documents(self) -> Documents:
        replica = self._replica
        documents: Documents = {}
        for name in replica.inputs.eips.objects:
            refusal = replica.pools.refused.get(name)
            documents["Eip", name] = {"conditions": self._conditions("Eip", name, refusal), **self._usage(name)}
        for name in replica.inputs.confs.objects:
            unsupported = replica.peers.conf_unsupported if name == "default" else ()
            refusal = replica.peers.conf_refusals.get(name)
            documents["BgpConf", name] = {"conditions": self._conditions("BgpConf", name, refusal, unsupported)}
        for name, peer in replica.inputs.peers.objects.items():
            refusal = replica.peers.refused.get(name)
            fields = replica.peers.unsupported.get(name, ())
            report = replica.leadership.bgp.sessions.get(name)
            extra = [status.condition(kind, found) for kind, found in self._warnings(name, report)]
            conditions = self._conditions("BgpPeer", name, refusal, fields) + extra
            gone = {
                node: None for node in peer.status.nodes_peer_status or () if node not in replica.inputs.nodes.objects
            }
            documents["BgpPeer", name] = {"conditions": conditions, "nodesPeerStatus": gone}
        return documents

    def _warnings(self, name: str, report: SessionReport | None) -> Iterator[tuple[str, Refusal]]:
        """What the owner of a session should know, as condition type and Refusal; nothing when all is well."""
        leadership, lease_s = self._replica.leadership, self._replica.settings.lease_duration_s
        if report is not None and report.state == "Established":
            if set(report.families) - set(report.add_path):
                yield "AddPath", Refusal(Reason.NO_ADD_PATH, Reason.NO_ADD_PATH.doc)
            if 0 < report.hold_time_s <= lease_s:
                times = f"the Lease lasts {lease_s:g} s, the negotiated hold time is {report.hold_time_s} s"
                yield "HoldTime", Refusal(Reason.LEASE_TOO_LONG, times)
        if report is not None and report.collided:
            yield "Collision", Refusal(Reason.BGP_COLLISION, f"{Reason.BGP_COLLISION.doc} It said: {report.last_error}")
        if self._replica.redirect_failure and any(p.forwarded for p in self._replica.peers.accepted if p.name == name):
            yield "Redirected", Refusal(Reason.NO_REDIRECT, self._replica.redirect_failure)
        if gone := sorted(leadership.left_behind()):
            nodes = f"routers may keep paths of the replicas that were on {', '.join(gone)}"
            yield "StalePaths", Refusal(Reason.STALE_PATH_POSSIBLE, nodes)

    def _conditions(
        self, kind: str, name: str, refusal: Refusal | None, unsupported: tuple[str, ...] = ()
    ) -> list[dict[str, object]]:
        self._tell(kind, name, refusal)
        found = [status.condition("Accepted", refusal)]
        if unsupported:
            message = f"this version does not act on: {', '.join(unsupported)}"
            found.append(status.condition("FieldsSupported", Refusal(Reason.FIELDS_UNSUPPORTED, message)))
        for one in found:  # the time is that of the last change, not of the last writing
            key = (kind, name, str(one["type"]))
            verdict = (str(one["status"]), str(one["reason"]))
            since, before = self._since.get(key, (str(one["lastTransitionTime"]), verdict))
            if before == verdict:
                one["lastTransitionTime"] = since
            self._since[key] = (str(one["lastTransitionTime"]), verdict)
        return found

    def _tell(self, kind: str, name: str, refusal: Refusal | None) -> None:
        """An event when the verdict became different."""
        before = self._verdicts.get((kind, name))
        self._verdicts[kind, name] = refusal
        if refusal is not None and refusal != before:
            self._post(kind, name, refusal, warning=True)

    def _tell_session(self, name: str, report: SessionReport | None) -> None:
        """Events when this replica's session was lost or came up, also when both happened since the last look."""
        was_up, losses = self._seen.get(name, (False, 0))
        if report is None:
            self._seen.pop(name, None)
            return
        up = report.state == "Established"
        self._seen[name] = up, report.flaps
        lost = was_up and (not up or report.flaps != losses)
        node = self._replica.settings.node
        if lost:
            why = report.last_error or "lost, and back at once"
            self._post("BgpPeer", name, Refusal(Reason.SESSION_DOWN, f"{node}: {why}"), warning=True)
        if up and (lost or not was_up):
            agreed = f"hold time {report.hold_time_s} s, add-path for {len(report.add_path)} of {len(report.families)}"
            self._post("BgpPeer", name, Refusal(Reason.SESSION_UP, f"{node}: {agreed} families"), warning=False)

    def _post(self, kind: str, name: str, news: Refusal, *, warning: bool) -> None:
        inputs = self._replica.inputs
        tables: dict[str, Mapping[str, Eip | BgpConf | BgpPeer]] = {
            "Eip": inputs.eips.objects,
            "BgpConf": inputs.confs.objects,
            "BgpPeer": inputs.peers.objects,
        }
        uid = tables[kind][name].metadata.uid
        involved = {"kind": kind, "apiVersion": f"{GROUP}/{VERSION}", "name": name, "uid": uid}
        task = asyncio.create_task(self._event(involved, news, warning))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _event(self, involved: Mapping[str, str], news: Refusal, warning: bool) -> None:
        try:
            node = self._replica.settings.node
            await status.post_event(self._client, involved, news.reason, news.message, warning=warning, reporter=node)
        except (ApiError, Unreachable) as error:
            log("event not written", object=involved["name"], error=str(error))

    def _usage(self, name: str) -> dict[str, object]:
        pool = self._replica.reconciler.allocator.pools.get(name)
        if pool is None:
            return {"ready": False, "poolSize": 0, "usage": 0, "occupied": False, "used": None}
        family, ranges = pool.settings.family, pool.settings.ranges
        allocator = self._replica.reconciler.allocator
        shown = {address: ";".join(allocator.holders(address)) for address in self._shown(pool)}
        return {
            "ready": True,
            "poolSize": min(pool.capacity, 2**63 - 1),
            "usage": len(pool.used),
            "occupied": len(pool.used) >= pool.capacity,
            "firstIP": to_text(family, min(covered.first for covered in ranges)),
            "lastIP": to_text(family, max(covered.last for covered in ranges)),
            "v4": family == V4,
            "used": shown,
        }

    @staticmethod
    def _shown(pool: Pool) -> Iterator[str]:
        return (to_text(pool.settings.family, number) for number in nsmallest(USED_SHOWN, pool.used))


def _session(report: SessionReport) -> dict[str, object]:
    families = [f"IPv{f}" for f in report.families]
    return {
        "peerState": {
            "sessionState": report.state.upper(),
            "flops": report.flaps,
        },
        "timersState": {"negotiatedHoldTime": f"{report.hold_time_s}s"},
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(report.since)),
        "families": families,
        "addPath": [f"IPv{f}" for f in report.add_path],
        "gracefulRestart": report.graceful,
        "prefixes": report.prefixes,
        "lastError": report.last_error,
    }


def _merge(into: Documents, more: Documents) -> None:
    """Two documents of one object become one; maps in them are united."""
    for key, document in more.items():
        known = into.setdefault(key, {})
        for field, value in document.items():
            old = known.get(field)
            known[field] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value


def _without_times(document: object) -> object:
    if isinstance(document, dict):
        return {k: _without_times(v) for k, v in document.items() if k != "lastTransitionTime"}
    if isinstance(document, list):
        return [_without_times(v) for v in document]
    return document
