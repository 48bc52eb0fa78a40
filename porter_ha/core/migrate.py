"""Other load balancers' settings as ours: MetalLB's and Porter's v1alpha1 objects to Eips, BgpConf and BgpPeers.

Invariants
  Nothing is widened: a pool whose limits cannot be carried over serves only who names it.
  Nothing is dropped in silence: what has no equal here is told, by object and field.
Pure: documents in, documents and remarks out. Says nothing about whether ours are accepted; core/admit.py does.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from porter_ha.core import selectors
from porter_ha.model import names
from porter_ha.model.net import parse_range
from porter_ha.model.objects import LabelSelector

Document = dict[str, Any]
METALLB = "metallb.io"
_OLD = f"{names.GROUP}/v1alpha1"
_OURS = f"{names.GROUP}/{names.VERSION}"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PREFIX_LENGTHS = {"aggregationLength": 32, "aggregationLengthV6": 128}


class Migration(msgspec.Struct):
    """Our objects, and what of the old ones is not in them ("Kind/name: field: why")."""

    documents: list[Document] = []
    remarks: list[str] = []

    def remark(self, source: Document, text: str) -> None:
        self.remarks.append(f"{source.get('kind')}/{_name(source)}: {text}")


def migrate(documents: Iterable[Document]) -> Migration:
    """All of them together: what one means can depend on others. Raises ValueError for what is no Kubernetes object."""
    found: dict[str, list[Document]] = {}
    for document in _flat(documents):
        found.setdefault(f"{document['apiVersion'].partition('/')[0]}/{document['kind']}", []).append(document)
    made = Migration()
    _pools(made, found.pop(f"{METALLB}/IPAddressPool", []), found.get(f"{METALLB}/BGPAdvertisement"))
    _peers(made, found.pop(f"{METALLB}/BGPPeer", []))
    for document in found.pop(f"{METALLB}/BGPAdvertisement", []):
        _advertisement(made, document)
    for kind, convert in (("Eip", _old_eip), ("BgpConf", _old_conf), ("BgpPeer", _old_peer)):
        for document in found.pop(f"{names.GROUP}/{kind}", []):
            old = document["apiVersion"] == _OLD
            made.documents.append(convert(made, document) if old else _object(kind, _name(document), _spec(document)))
    for others in found.values():
        for document in others:
            made.remark(document, f"{document['apiVersion']} {document['kind']} has no equal here")
    return made


def _flat(documents: Iterable[Document]) -> Iterable[Document]:
    for document in documents:
        if not isinstance(document, dict) or not {"apiVersion", "kind"} <= document.keys():
            raise ValueError(f"{str(document)[:60]!r} is no Kubernetes object: apiVersion and kind are missing")
        if document["kind"].endswith("List") and "items" in document:
            yield from _flat(document["items"])
        else:
            yield document


def _name(document: Document) -> str:
    return str((document.get("metadata") or {}).get("name", ""))


def _spec(document: Document) -> Document:
    return dict(document.get("spec") or {})


def _object(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": _OURS, "kind": kind, "metadata": {"name": name}, "spec": spec}


# --- MetalLB -------------------------------------------------------------------------------------------------


def _pools(made: Migration, pools: list[Document], advertisements: list[Document] | None) -> None:
    numbers = [(_spec(p).get("serviceAllocation") or {}).get("priority") or 0 for p in pools]
    for pool, priority in zip(pools, numbers, strict=True):
        spec, limits = _spec(pool), _spec(pool).get("serviceAllocation") or {}
        more: Document = {}
        if any(numbers):
            more["priority"] = priority or max(numbers) + 1  # there 0 means last, here it is the first
        if spec.get("avoidBuggyIPs"):
            more["usingKnownIPs"] = False
        narrowed = _limits(made, pool, limits, more)
        if spec.get("autoAssign") is False or not narrowed:
            more["autoAssign"] = False
        if advertisements is not None and not _advertised(pool, advertisements):
            more["disable"] = True
            made.remark(
                pool, "no BGPAdvertisement selects it, so its Eip is disabled; spec.disable: false announces it"
            )
        by_family: dict[int, list[str]] = {}
        for text in spec.get("addresses") or ():
            try:
                by_family.setdefault(parse_range(text).family, []).append(text)
            except ValueError as error:
                made.remark(pool, f"spec.addresses: {error}")
        for family, ranges in sorted(by_family.items()):
            suffix = "" if len(by_family) == 1 else f"-ipv{family}"
            made.documents.append(_object("Eip", _name(pool) + suffix, {"address": ",".join(ranges), **more}))


def _limits(made: Migration, pool: Document, limits: Document, into: Document) -> bool:
    """Whose Services the pool is for. Returns whether all of that could be said."""
    good = True
    if limits.get("namespaces"):
        into["namespaces"] = limits["namespaces"]
    by_label = limits.get("namespaceSelectors") or []
    if len(by_label) == 1 and not by_label[0].get("matchExpressions"):
        into["namespaceSelector"] = by_label[0].get("matchLabels") or {}
    elif by_label:
        made.remark(pool, "spec.serviceAllocation.namespaceSelectors: only one selector with matchLabels can be said")
        good = False
    by_service = limits.get("serviceSelectors") or []
    if len(by_service) == 1:
        into["serviceSelector"] = by_service[0]
    elif by_service:
        made.remark(
            pool, "spec.serviceAllocation.serviceSelectors: only one selector can be said; make an Eip for each"
        )
        good = False
    if not good:
        made.remark(pool, "its Eip serves only Services that name it (spec.autoAssign: false)")
    return good


def _advertised(pool: Document, advertisements: list[Document]) -> bool:
    labels = (pool.get("metadata") or {}).get("labels") or {}
    for advertisement in advertisements:
        spec = _spec(advertisement)
        chosen, by_label = spec.get("ipAddressPools") or [], spec.get("ipAddressPoolSelectors") or []
        if not chosen and not by_label:
            return True
        if _name(pool) in chosen:
            return True
        if any(selectors.matches(msgspec.convert(given, LabelSelector), labels) for given in by_label):
            return True
    return False


def _peers(made: Migration, peers: list[Document]) -> None:
    if not peers:
        return
    own = [_spec(peer).get("myASN", 0) for peer in peers]
    common = max(set(own), key=own.count)
    made.documents.append(_object("BgpConf", names.BGP_CONF_NAME, {"as": common}))
    for peer in peers:
        spec = _spec(peer)
        if not spec.get("peerASN"):
            made.remark(peer, "spec.dynamicASN: the router's AS number must be given here; no BgpPeer was made")
            continue
        conf: Document = {"neighborAddress": spec.get("peerAddress", ""), "peerAs": spec["peerASN"]}
        if spec.get("myASN") != common:
            conf["localAs"] = spec.get("myASN")
        if spec.get("password"):
            conf["authPassword"] = spec["password"]
        ours: Document = {"conf": conf}
        if spec.get("peerPort", 179) != 179:
            ours["transport"] = {"remotePort": spec["peerPort"]}
        if spec.get("ebgpMultiHop"):
            ours["ebgpMultihop"] = {"enabled": True}
        timers = _timers(made, peer, spec)
        if timers:
            ours["timers"] = {"config": timers}
        chosen = spec.get("nodeSelectors") or []
        if len(chosen) == 1:
            ours["nodeSelector"] = chosen[0]
        elif chosen:
            made.remark(
                peer, "spec.nodeSelectors: only one selector can be said; all nodes are next hops at this router"
            )
        for field, why in _PEER_FIELDS.items():
            if spec.get(field):
                made.remark(peer, f"spec.{field}: {why}")
        made.documents.append(_object("BgpPeer", _name(peer), ours))


_PEER_FIELDS = {
    "passwordSecret": "not supported yet; write the key into spec.conf.authPassword",
    "routerID": "each replica's is its own node's address, for they are several speakers",
    "srcAddress": "not supported yet",
    "bfdProfile": "BFD is not supported; the sessions' hold time and our probes do its work",
    "vrf": "not supported",
    "interface": "unnumbered sessions are not supported",
    "disableMP": "not supported; choose families in spec.afiSafis",
}


def _timers(made: Migration, peer: Document, spec: Document) -> Document:
    found = {}
    for theirs, ours in (
        ("holdTime", "holdTime"),
        ("keepaliveTime", "keepaliveInterval"),
        ("connectTime", "connectRetry"),
    ):
        if text := spec.get(theirs):
            seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([\d.]+)(ms|h|m|s)", str(text)))
            if seconds >= 1:
                found[ours] = str(round(seconds))
            else:
                made.remark(peer, f"spec.{theirs}: {text!r} is no duration of a second or more")
    return found


def _advertisement(made: Migration, document: Document) -> None:
    spec = _spec(document)
    for field, whole in _PREFIX_LENGTHS.items():
        if spec.get(field, whole) != whole:
            made.remark(document, f"spec.{field}: EIPs are announced one by one, as /{whole}")
    for field in ("communities", "localPref", "peers", "nodeSelectors"):
        if spec.get(field):
            made.remark(document, f"spec.{field}: not supported yet; every router hears every EIP, without it")


# --- Porter v1alpha1 -----------------------------------------------------------------------------------------


def _old_eip(made: Migration, document: Document) -> Document:
    spec = _spec(document)
    if spec.get("protocol") not in (None, "", "bgp"):
        made.remark(document, f"spec.protocol: {spec['protocol']!r} is not supported; its Eip will be refused")
    return _object("Eip", _name(document), spec)


def _old_conf(made: Migration, document: Document) -> Document:
    spec = _spec(document)
    ours = {"as": spec.get("as"), "listenPort": spec.get("port")}
    if spec.get("routerID"):
        made.remark(document, "spec.routerID: each replica's is its own node's address, for they are several speakers")
    return _object("BgpConf", names.BGP_CONF_NAME, {key: value for key, value in ours.items() if value is not None})


def _old_peer(made: Migration, document: Document) -> Document:
    spec = _spec(document)
    ours: Document = {"conf": dict(spec.get("config") or {})}
    if spec.get("transport"):
        ours["transport"] = spec["transport"]
    if spec.get("usingPortForward"):
        made.remark(document, "spec.usingPortForward: not supported yet; let the router listen, and us dial")
    return _object("BgpPeer", _name(document), ours)
