"""Other load balancers' settings as ours: MetalLB's and Porter's v1alpha1 objects to Eips, BgpConf and BgpPeers.

Invariants
  Nothing is widened: a pool whose limits cannot be carried over serves only who names it.
  Nothing is dropped in silence: what has no equal here is told, by object and field.
Pure: documents in, documents and remarks out. Whether ours are accepted is core/admit_eip.py and admit_bgp.py's to say.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec

from porter_ha.core import selectors
from porter_ha.model import names
from porter_ha.model.net import V4, parse_range
from porter_ha.model.objects import LabelSelector, Wire

Document = dict[str, Any]
T = TypeVar("T")
METALLB = "metallb.io"
_OLD = f"{names.GROUP}/v1alpha1"
_OURS = f"{names.GROUP}/{names.VERSION}"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}  # of Go's durations
_OWN_ROUTER_ID = "each replica's is its own node's address, for they are several speakers"


class _Meta(Wire, frozen=True):
    name: str = ""
    labels: dict[str, str] | None = None


class _Envelope(Wire, frozen=True):
    """What every object has, and a list of objects."""

    api_version: str
    kind: str
    metadata: _Meta | None = None
    spec: Document | None = None
    items: list[Any] | None = None


class Migration(msgspec.Struct):
    """Our objects, and what of the old ones is not in them ("Kind/name: field: why")."""

    documents: list[Document] = []
    remarks: list[str] = []

    def remark(self, source: Document, text: str) -> None:
        self.remarks.append(f"{_title(source)}: {text}")


def migrate(documents: Iterable[Document]) -> Migration:
    """All of them together: what one means can depend on others. Raises ValueError for what is no such object."""
    found: dict[str, list[Document]] = {}
    for document in _flat(documents):
        found.setdefault(f"{document['apiVersion'].partition('/')[0]}/{document['kind']}", []).append(document)
    made = Migration()
    aliases = _aliases(found.get(f"{METALLB}/Community", []))
    _pools(made, found.pop(f"{METALLB}/IPAddressPool", []), found.get(f"{METALLB}/BGPAdvertisement"), aliases)
    _peers(made, found.pop(f"{METALLB}/BGPPeer", []))
    for document in found.pop(f"{METALLB}/BGPAdvertisement", []):
        if _spec(document).get("nodeSelectors"):
            made.remark(document, "spec.nodeSelectors: not supported; a BgpPeer's spec.nodeSelector limits next hops")
    for document in found.pop(f"{METALLB}/Community", []):
        made.remark(document, "its names are put in the place where they are used")
    for kind, convert in (("Eip", _old_eip), ("BgpConf", _old_conf), ("BgpPeer", _old_peer)):
        for document in found.pop(f"{names.GROUP}/{kind}", []):
            old = document["apiVersion"] == _OLD
            made.documents.append(convert(made, document) if old else _object(kind, _name(document), _spec(document)))
    for others in found.values():
        for document in others:
            made.remark(document, f"{document['apiVersion']} {document['kind']} has no equal here")
    return made


def _flat(documents: Iterable[object]) -> Iterable[Document]:
    for document in documents:
        try:
            envelope = msgspec.convert(document, _Envelope)
        except msgspec.ValidationError as error:
            raise ValueError(f"{str(document)[:60]!r} is no Kubernetes object: {error}") from None
        if envelope.items is not None:
            yield from _flat(envelope.items)
        else:
            yield cast(Document, document)


def _title(document: Document) -> str:
    return f"{document['kind']}/{_name(document)}"


def _name(document: Document) -> str:
    return str((document.get("metadata") or {}).get("name", ""))


def _spec(document: Document) -> Document:
    return dict(document.get("spec") or {})


def _read(document: Document, kind: type[T]) -> T:
    """Its spec. Raises ValueError that names the object, the field, and what would be right."""
    try:
        return msgspec.convert(_spec(document), kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{_title(document)}: {error}") from None


def _object(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": _OURS, "kind": kind, "metadata": {"name": name}, "spec": spec}


# --- MetalLB -------------------------------------------------------------------------------------------------


class _Allocation(Wire, frozen=True):
    priority: int = 0
    namespaces: list[str] | None = None
    namespace_selectors: list[LabelSelector] | None = None
    service_selectors: list[LabelSelector] | None = None


class _Pool(Wire, frozen=True):
    addresses: list[str] | None = None
    auto_assign: bool | None = None
    avoid_buggy_ips: bool = msgspec.field(default=False, name="avoidBuggyIPs")
    service_allocation: _Allocation | None = None


class _Advertisement(Wire, frozen=True):
    ip_address_pools: list[str] | None = None
    ip_address_pool_selectors: list[LabelSelector] | None = None
    aggregation_length: int = 32
    aggregation_length_v6: int = msgspec.field(default=128, name="aggregationLengthV6")
    communities: list[str] | None = None
    local_pref: int = 0
    peers: list[str] | None = None
    node_selectors: list[LabelSelector] | None = None


class _SecretName(Wire, frozen=True):
    name: str = ""


class _Peer(Wire, frozen=True):
    my_asn: int = msgspec.field(default=0, name="myASN")
    peer_asn: int = msgspec.field(default=0, name="peerASN")
    peer_address: str = ""
    peer_port: int = 179
    password: str = ""
    password_secret: _SecretName | None = None
    src_address: str = ""
    ebgp_multi_hop: bool = False
    hold_time: str = ""
    keepalive_time: str = ""
    connect_time: str = ""
    node_selectors: list[LabelSelector] | None = None


_PEER_FIELDS = {
    "routerID": _OWN_ROUTER_ID,
    "bfdProfile": "BFD is not supported; the sessions' hold time and our probes do its work",
    "vrf": "not supported",
    "interface": "unnumbered sessions are not supported",
    "disableMP": "not supported; choose families in spec.afiSafis",
}


def _pools(
    made: Migration,
    documents: list[Document],
    advertisements: list[Document] | None,
    aliases: Mapping[str, str],
) -> None:
    pools = [_read(document, _Pool) for document in documents]
    advertised = [_read(document, _Advertisement) for document in advertisements or ()]
    allocations = [pool.service_allocation or _Allocation() for pool in pools]
    last = max((allocation.priority for allocation in allocations), default=0)
    for document, pool, allocation in zip(documents, pools, allocations, strict=True):
        more: Document = {"priority": allocation.priority or last + 1} if last else {}  # 0 is last there, first here
        if pool.avoid_buggy_ips:
            more["usingKnownIPs"] = False
        if not _limits(made, document, allocation, more) or pool.auto_assign is False:
            more["autoAssign"] = False
        told = [one for one in advertised if _selects(one, document)]
        if advertisements is not None and not told:
            more["disable"] = True
            made.remark(document, "no BGPAdvertisement selects it, so its Eip has spec.disable: true")
        by_family: dict[int, list[str]] = {}
        for text in pool.addresses or ():
            try:
                by_family.setdefault(parse_range(text).family, []).append(text)
            except ValueError as error:
                made.remark(document, f"spec.addresses: {error}")
        for family, ranges in sorted(by_family.items()):
            suffix = "" if len(by_family) == 1 else f"-ipv{family}"
            spec = {"address": ",".join(ranges), "sharing": "Cluster", **more}
            if routes := _advertisements(told, family, aliases):
                spec["advertisements"] = routes
            made.documents.append(_object("Eip", _name(document) + suffix, spec))


def _limits(made: Migration, document: Document, allocation: _Allocation, into: Document) -> bool:
    """Whose Services the pool is for. Returns whether all of that could be said."""
    good = True
    if allocation.namespaces:
        into["namespaces"] = allocation.namespaces
    by_label = allocation.namespace_selectors or []
    if len(by_label) == 1 and not by_label[0].match_expressions:
        into["namespaceSelector"] = by_label[0].match_labels or {}
    elif by_label:
        made.remark(document, "spec.serviceAllocation.namespaceSelectors: only one with matchLabels can be said")
        good = False
    by_service = allocation.service_selectors or []
    if len(by_service) == 1:
        into["serviceSelector"] = msgspec.to_builtins(by_service[0])
    elif by_service:
        made.remark(document, "spec.serviceAllocation.serviceSelectors: only one can be said; make an Eip for each")
        good = False
    if not good:
        made.remark(document, "its Eip serves only Services that name it (spec.autoAssign: false)")
    return good


def _selects(advertisement: _Advertisement, pool: Document) -> bool:
    by_name, by_label = advertisement.ip_address_pools or [], advertisement.ip_address_pool_selectors or []
    labels = (pool.get("metadata") or {}).get("labels") or {}
    return (
        not (by_name or by_label) or _name(pool) in by_name or any(selectors.matches(one, labels) for one in by_label)
    )


def _peers(made: Migration, documents: list[Document]) -> None:
    peers = [_read(document, _Peer) for document in documents]
    if not peers:
        return
    own = [peer.my_asn for peer in peers]
    common = max(sorted(set(own)), key=own.count)
    made.documents.append(_object("BgpConf", names.BGP_CONF_NAME, {"as": common}))
    for document, peer in zip(documents, peers, strict=True):
        if not peer.peer_asn:
            made.remark(document, "spec.dynamicASN: the router's AS number must be given here; no BgpPeer was made")
            continue
        conf: Document = {"neighborAddress": peer.peer_address, "peerAs": peer.peer_asn}
        if peer.my_asn != common:
            conf["localAs"] = peer.my_asn
        if peer.password:
            conf["authPassword"] = peer.password
        ours: Document = {"conf": conf}
        if peer.password_secret is not None and peer.password_secret.name:
            conf["authPasswordSecret"] = {"name": peer.password_secret.name}
            made.remark(document, f"spec.passwordSecret: copy Secret {peer.password_secret.name} into our namespace")
        if peer.peer_port != 179:
            ours["transport"] = {"remotePort": peer.peer_port}
        if peer.src_address:
            ours["sourceAddresses"] = [peer.src_address]
        if peer.ebgp_multi_hop:
            ours["ebgpMultihop"] = {"enabled": True}
        if timers := _timers(made, document, peer):
            ours["timers"] = {"config": timers}
        chosen = peer.node_selectors or []
        if len(chosen) == 1:
            ours["nodeSelector"] = msgspec.to_builtins(chosen[0])
        elif chosen:
            made.remark(document, "spec.nodeSelectors: only one can be said; all nodes are next hops at this router")
        for field, why in _PEER_FIELDS.items():
            if _spec(document).get(field):
                made.remark(document, f"spec.{field}: {why}")
        made.documents.append(_object("BgpPeer", _name(document), ours))


def _timers(made: Migration, document: Document, peer: _Peer) -> Document:
    """Go's durations as strings of seconds."""
    found = {}
    given = {"holdTime": peer.hold_time, "keepaliveTime": peer.keepalive_time, "connectTime": peer.connect_time}
    ours = {"holdTime": "holdTime", "keepaliveTime": "keepaliveInterval", "connectTime": "connectRetry"}
    for field, text in given.items():
        seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text))
        if seconds >= 1:
            found[ours[field]] = str(round(seconds))
        elif text:
            made.remark(document, f"spec.{field}: {text!r} is no duration of a second or more")
    return found


def _advertisements(found: list[_Advertisement], family: int, aliases: Mapping[str, str]) -> list[Document]:
    """What routers are told of a pool; nothing when it is only what they are told anyway."""
    out: list[Document] = []
    for one in found:
        length = one.aggregation_length if family == V4 else one.aggregation_length_v6
        said: Document = {} if length in (32, 128) else {"aggregationLength": length}
        if one.communities:
            said["communities"] = [aliases.get(text, text) for text in one.communities]
        if one.local_pref:
            said["localPref"] = one.local_pref
        if one.peers:
            said["peers"] = one.peers
        out.append(said)
    return out if any(out) else []


def _aliases(communities: list[Document]) -> dict[str, str]:
    """Of MetalLB's Community objects."""
    entries = (entry for one in communities for entry in _spec(one).get("communities") or ())
    return {str(entry.get("name")): str(entry.get("value")) for entry in entries if isinstance(entry, dict)}


# --- Porter v1alpha1 -----------------------------------------------------------------------------------------


class _OldConf(Wire, frozen=True):
    as_: int = msgspec.field(default=0, name="as")
    router_id: str = msgspec.field(default="", name="routerID")
    port: int = 179


def _old_eip(made: Migration, document: Document) -> Document:
    spec = _spec(document)
    if spec.get("protocol") not in (None, "", "bgp"):
        made.remark(document, f"spec.protocol: {spec['protocol']!r} is not supported; its Eip will be refused")
    return _object("Eip", _name(document), spec)


def _old_conf(made: Migration, document: Document) -> Document:
    spec = _read(document, _OldConf)
    if spec.router_id:
        made.remark(document, f"spec.routerID: {_OWN_ROUTER_ID}")
    return _object("BgpConf", names.BGP_CONF_NAME, {"as": spec.as_, "listenPort": spec.port})


def _old_peer(made: Migration, document: Document) -> Document:
    spec = _spec(document)
    ours: Document = {"conf": spec.get("config")}
    if spec.get("transport"):
        ours["transport"] = spec["transport"]
    if spec.get("usingPortForward"):
        ours["usingPortForward"] = True
        ours["transport"] = {**(ours.get("transport") or {}), "passiveMode": True}
    return _object("BgpPeer", _name(document), ours)
