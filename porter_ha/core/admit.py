"""Eips, BgpConf and BgpPeers: from what users wrote to settings that are known to be good, or a Refusal each.

Invariants
  I9  one bad object is refused alone; the others are used as if it were not there.
  Of two objects that contradict each other the older one wins, whatever order they are seen in.
  A field that this version does not act on is named in a Refusal or in `unsupported`; none is silently ignored.
"""

import ipaddress
from collections.abc import Iterable
from zlib import crc32

import msgspec

from porter_ha.core import selectors
from porter_ha.core.allocate import PoolSettings
from porter_ha.model import names
from porter_ha.model.net import V4, V6, family_of, parse_address, parse_ranges, to_text
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, GracefulRestart, LabelSelector, ObjectMeta
from porter_ha.model.plan import PeerSettings, Refusal
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value

HOLD_TIME_S = 30
CONNECT_RETRY_S = 5
RESTART_TIME_S = 120
MAX_RESTART_TIME_S = 4095  # 12 bits on the wire (RFC 4724)
ORDERS = ("Ascending", "Descending")
_FAMILY_OF_GOBGP = {0: V4, 1: V6}  # gobgp numbers address families this way in Global.families
_FAMILY_OF_AFI = {"AFI_IP": V4, "AFI_IP6": V6}


class Problem(Exception):
    """What is wrong with a field: its path, and what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")


def _age(meta: ObjectMeta) -> tuple[str, str]:
    return (meta.creation_timestamp, meta.name)


# --- Eip -----------------------------------------------------------------------------------------------------


class Pools(Value, frozen=True):
    """The Eips in use, and why others are not."""

    accepted: tuple[PoolSettings, ...]
    refused: dict[str, Refusal]


def admit_eips(eips: Iterable[Eip]) -> Pools:
    accepted: list[PoolSettings] = []
    refused: dict[str, Refusal] = {}
    defaults: set[int] = set()
    for eip in sorted(eips, key=lambda e: _age(e.metadata)):
        name = eip.metadata.name
        try:
            ranges = parse_ranges(eip.spec.address)
        except ValueError as error:
            refused[name] = Refusal(Reason.EIP_ADDRESS_INVALID, f"spec.address: {error}")
            continue
        if eip.spec.allocation_order not in ("", *ORDERS):
            text = f"spec.allocationOrder: {eip.spec.allocation_order!r} is none of {', '.join(ORDERS)}"
            refused[name] = Refusal(Reason.EIP_INVALID, text)
            continue
        if eip.spec.service_selector is not None and (wrong := selectors.check(eip.spec.service_selector)):
            refused[name] = Refusal(Reason.EIP_INVALID, f"spec.serviceSelector.{wrong}")
            continue
        if eip.spec.protocol not in ("", "bgp"):
            refused[name] = Refusal(
                Reason.PROTOCOL_UNSUPPORTED, f"spec.protocol: {eip.spec.protocol!r} is not supported; use bgp"
            )
            continue
        rival = next((p for p in accepted if any(r.overlaps(own) for r in p.ranges for own in ranges)), None)
        if rival is not None:
            refused[name] = Refusal(
                Reason.EIP_OVERLAPS, f"spec.address: {eip.spec.address!r} overlaps the older Eip {rival.name}"
            )
            continue
        family = ranges[0].family
        is_default = eip.metadata.annotation(names.DEFAULT_EIP_ANNOTATION) == "true" and family not in defaults
        defaults |= {family} if is_default else set()
        accepted.append(
            PoolSettings(
                name=name,
                ranges=ranges,
                disabled=eip.spec.disable,
                default=is_default,
                skip_boundaries=eip.spec.using_known_ips is False,
                priority=eip.spec.priority,
                namespaces=tuple(eip.spec.namespaces or ()),
                namespace_selector=tuple(sorted((eip.spec.namespace_selector or {}).items())),
                service_selector=eip.spec.service_selector,
                auto=eip.spec.auto_assign,
                descending=eip.spec.allocation_order == "Descending",
            )
        )
    return Pools(tuple(accepted), refused)


# --- BgpConf and BgpPeer -------------------------------------------------------------------------------------


class Speaking(Value, frozen=True):
    """Who we are to the routers: the name and addresses of the node that this replica runs on."""

    node: str
    addresses: tuple[str, ...]


class Peers(Value, frozen=True):
    """The sessions to hold, the scope of each group, and a verdict for every object."""

    accepted: tuple[PeerSettings, ...]
    scopes: dict[str, LabelSelector | None]
    refused: dict[str, Refusal]
    unsupported: dict[str, tuple[str, ...]]
    conf_refusals: dict[str, Refusal]
    conf_unsupported: tuple[str, ...]


def admit_bgp(confs: Iterable[BgpConf], peers: Iterable[BgpPeer], replica: Speaking) -> Peers:
    """BgpConf `default` and every BgpPeer, as sessions of this replica."""
    conf_refusals: dict[str, Refusal] = {}
    conf: BgpConf | None = None
    for candidate in confs:
        name = candidate.metadata.name
        if name != names.BGP_CONF_NAME:
            conf_refusals[name] = Refusal(
                Reason.CONF_IGNORED, f"metadata.name: {name!r} is not used; the BgpConf in use is named default"
            )
            continue
        try:
            _check_conf(candidate)
            conf = candidate
        except Problem as problem:
            conf_refusals[name] = Refusal(Reason.CONF_INVALID, str(problem))
    accepted: dict[str, PeerSettings] = {}
    scopes: dict[str, LabelSelector | None] = {}
    refused: dict[str, Refusal] = {}
    unsupported: dict[str, tuple[str, ...]] = {}
    for peer in sorted(peers, key=lambda p: _age(p.metadata)):
        name = peer.metadata.name
        try:
            if conf is None:
                raise Problem("BgpConf", "there is no usable BgpConf named default")
            settings = _peer_settings(conf, peer, replica)
        except Problem as problem:
            refused[name] = Refusal(Reason.NO_BGP_CONF if conf is None else Reason.PEER_INVALID, str(problem))
            continue
        twin = accepted.get(settings.address)
        if twin is not None:
            refused[name] = Refusal(
                Reason.PEER_DUPLICATE,
                f"spec.conf.neighborAddress: {settings.address} is the neighbour of the older BgpPeer {twin.name}",
            )
            continue
        accepted[settings.address] = settings
        scopes[settings.group] = peer.spec.node_selector
        if fields := _unsupported_of_peer(peer):
            unsupported[name] = fields
    ordered = tuple(sorted(accepted.values(), key=lambda s: s.name))
    return Peers(ordered, scopes, refused, unsupported, conf_refusals, _unsupported_of_conf(conf) if conf else ())


def _check_conf(conf: BgpConf) -> None:
    _check_as("spec.as", conf.spec.as_)
    if conf.spec.router_id:
        _router_id(conf.spec.router_id)
    for i, number in enumerate(conf.spec.families or ()):
        if number not in _FAMILY_OF_GOBGP:
            raise Problem(f"spec.families[{i}]", f"{number} is neither 0 (IPv4 unicast) nor 1 (IPv6 unicast)")
    _restart_time(conf.spec.graceful_restart)


def _peer_settings(conf: BgpConf, peer: BgpPeer, replica: Speaking) -> PeerSettings:
    spec = peer.spec
    if spec.conf is None or not spec.conf.neighbor_address:
        raise Problem("spec.conf.neighborAddress", "is missing; give the router's address")
    try:
        address = to_text(*parse_address(spec.conf.neighbor_address))
    except ValueError as error:
        raise Problem("spec.conf.neighborAddress", str(error)) from None
    _check_as("spec.conf.peerAs", spec.conf.peer_as)
    local_as = spec.conf.local_as or conf.spec.as_
    _check_as("spec.conf.localAs", local_as)
    if spec.conf.admin_down:
        raise Problem("spec.conf.adminDown", "true: the session is held down as asked")
    if spec.transport and spec.transport.passive_mode:
        raise Problem("spec.transport.passiveMode", "true is not supported yet; this version dials the router itself")
    port = spec.transport.remote_port if spec.transport else 179
    if not 1 <= port <= 65535:
        raise Problem("spec.transport.remotePort", f"{port} is not a port; give 1-65535, 179 is BGP's")
    if spec.node_selector is not None and (wrong := selectors.check(spec.node_selector)):
        raise Problem("spec.nodeSelector", wrong)
    hold, keepalive, retry = _timers(peer)
    # Peers that see the same nodes share one Adj-RIB-Out; the group's name is the same on every replica.
    group = "all" if spec.node_selector is None else f"scope-{crc32(msgspec.json.encode(spec.node_selector)):08x}"
    return PeerSettings(
        name=peer.metadata.name,
        address=address,
        port=port,
        peer_as=spec.conf.peer_as,
        local_as=local_as,
        router_id=conf.spec.router_id or _own_router_id(replica),
        hold_time_s=hold,
        keepalive_s=keepalive,
        connect_retry_s=retry,
        families=_families(conf, peer),
        restart_time_s=_restart_time(spec.graceful_restart or conf.spec.graceful_restart),
        ttl=_ttl(peer, local_as),
        password=spec.conf.auth_password,
        group=group,
    )


def _check_as(field: str, number: int) -> None:
    if not 1 <= number <= 0xFFFFFFFE or number == 23456:
        raise Problem(field, f"{number} is not an AS number; give 1-4294967294, for example 65001")


def _router_id(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise Problem("spec.routerId", f"{text!r} is not an IPv4 address; write for example 10.0.0.1") from None


def _own_router_id(replica: Speaking) -> str:
    v4 = next((a for a in replica.addresses if family_of(a) == V4), None)
    return v4 or str(ipaddress.IPv4Address(crc32(replica.node.encode()) or 1))


def _families(conf: BgpConf, peer: BgpPeer) -> tuple[int, ...]:
    if peer.spec.afi_safis:
        found = set()
        for i, entry in enumerate(peer.spec.afi_safis):
            if entry.config is None or not entry.config.enabled:
                continue
            family = entry.config.family
            if family.afi not in _FAMILY_OF_AFI or family.safi != "SAFI_UNICAST":
                raise Problem(
                    f"spec.afiSafis[{i}].config.family",
                    f"{family.afi}/{family.safi} is not supported; use AFI_IP or AFI_IP6 with SAFI_UNICAST",
                )
            found.add(_FAMILY_OF_AFI[family.afi])
        if not found:
            raise Problem("spec.afiSafis", "enables no family; enable AFI_IP or AFI_IP6 with SAFI_UNICAST")
        return tuple(sorted(found))
    if conf.spec.families:
        return tuple(sorted({_FAMILY_OF_GOBGP[n] for n in conf.spec.families}))
    return (V4, V6)


def _ttl(peer: BgpPeer, local_as: int) -> int:
    """The TTL of our packets: 1 to a directly connected eBGP router (RFC 4271), else as asked or the most."""
    multihop = peer.spec.ebgp_multihop
    if multihop is not None and multihop.enabled:
        if not 0 <= multihop.multihop_ttl <= 255:
            raise Problem("spec.ebgpMultihop.multihopTtl", f"{multihop.multihop_ttl} is not a TTL; give 1-255")
        return multihop.multihop_ttl or 255
    return 255 if peer.spec.conf is not None and peer.spec.conf.peer_as == local_as else 1


def _restart_time(restart: GracefulRestart | None) -> int:
    """Seconds that routers keep our paths after we are gone; 0 turns graceful restart off."""
    if restart is None or restart.enabled is None:
        return RESTART_TIME_S
    if not restart.enabled:
        return 0
    seconds = restart.restart_time if restart.restart_time is not None else RESTART_TIME_S
    if not 1 <= seconds <= MAX_RESTART_TIME_S:
        raise Problem("spec.gracefulRestart.restartTime", f"{seconds} s is out of range; give 1-{MAX_RESTART_TIME_S}")
    return seconds


def _timers(peer: BgpPeer) -> tuple[int, int, int]:
    """(hold, keepalive, connect retry) in seconds."""
    config = peer.spec.timers.config if peer.spec.timers else None
    if config is None:
        return HOLD_TIME_S, HOLD_TIME_S // 3, CONNECT_RETRY_S
    hold = _seconds("holdTime", config.hold_time, HOLD_TIME_S, 3, 65535)
    keepalive = _seconds("keepaliveInterval", config.keepalive_interval, max(1, hold // 3), 1, 21845)
    retry = _seconds("connectRetry", config.connect_retry, CONNECT_RETRY_S, 1, 65535)
    return hold, min(keepalive, max(1, hold // 3)), retry


def _seconds(field: str, text: str, default: int, low: int, high: int) -> int:
    if not text:
        return default
    path = f"spec.timers.config.{field}"
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise Problem(
            path, f"{text!r} is not a number of seconds as a string; give {low}-{high}, for example '{default}'"
        )
    return int(text)


def _set_fields(given: msgspec.Struct | None, prefix: str, fields: Iterable[str]) -> list[str]:
    """The camelCase paths of `fields` that differ from their defaults."""
    if given is None:
        return []
    infos = {f.name: f for f in msgspec.structs.fields(given)}
    return [
        f"{prefix}.{infos[f].encode_name}" for f in fields if getattr(given, f) not in (infos[f].default, None, [], {})
    ]


_GR_UNSUPPORTED = [
    "helper_only",
    "deferral_time",
    "notification_enabled",
    "longlived_enabled",
    "stale_routes_time",
    "peer_restart_time",
    "peer_restarting",
    "local_restarting",
    "mode",
]


def _unsupported_of_conf(conf: BgpConf) -> tuple[str, ...]:
    spec = conf.spec
    found = _set_fields(spec, "spec", ["as_per_rack", "listen_port", "listen_addresses", "policy"])
    found += ["spec.useMultiplePaths"] if spec.use_multiple_paths is False else []
    return tuple(found + _set_fields(spec.graceful_restart, "spec.gracefulRestart", _GR_UNSUPPORTED))


def _unsupported_of_peer(peer: BgpPeer) -> tuple[str, ...]:
    spec = peer.spec
    found = _set_fields(
        spec.conf,
        "spec.conf",
        [
            "peer_group",
            "peer_type",
            "remove_private_as",
            "route_flap_damping",
            "send_community",
            "neighbor_interface",
            "vrf",
            "allow_own_as",
            "replace_peer_as",
        ],
    )
    found += _set_fields(spec.transport, "spec.transport", ["mtu_discovery", "remote_address", "tcp_mss"])
    if spec.timers is not None:
        found += _set_fields(spec.timers.config, "spec.timers.config", ["minimum_advertisement_interval"])
    for i, entry in enumerate(spec.afi_safis or ()):
        config = entry.add_paths.config if entry.add_paths else None
        if config is not None and config.receive:
            found.append(f"spec.afiSafis[{i}].addPaths.config.receive")
    return tuple(found + _set_fields(spec.graceful_restart, "spec.gracefulRestart", _GR_UNSUPPORTED))
