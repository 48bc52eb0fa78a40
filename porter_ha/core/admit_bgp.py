"""BgpConf and BgpPeers: from what users wrote to sessions that are known to be good, or a Refusal each.

Invariants
  I9  one bad object is refused alone; the others are used as if it were not there.
  Of two objects that contradict each other the older one wins, whatever order they are seen in.
  A field that this version does not act on is named in a Refusal or in `unsupported`; none is silently ignored.
"""

import base64
import ipaddress
from collections.abc import Container, Iterable, Mapping
from zlib import crc32

import msgspec

from porter_ha.core import selectors
from porter_ha.core.problem import Problem, age
from porter_ha.model import names
from porter_ha.model.net import V4, V6, family_of, parse_address, to_text
from porter_ha.model.objects import BgpConf, BgpPeer, GracefulRestart, LabelSelector, PeerConf, Secret, Transport
from porter_ha.model.plan import Listening, PeerSettings, Redirect, Refusal, Scope
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value

HOLD_TIME_S = 30
CONNECT_RETRY_S = 5
RESTART_TIME_S = 120
BGP_PORT, NO_PORT = 179, -1
MAX_RESTART_TIME_S = 4095  # 12 bits on the wire (RFC 4724)
_FAMILY_OF_GOBGP = {0: V4, 1: V6}  # gobgp numbers address families this way in Global.families
_FAMILY_OF_AFI = {"AFI_IP": V4, "AFI_IP6": V6}


class Speaking(Value, frozen=True):
    """Who we are to the routers: the name and addresses of the node that this replica runs on."""

    node: str
    addresses: tuple[str, ...]


class Peers(Value, frozen=True):
    """The sessions to hold, the scope of each group, and a verdict for every object."""

    accepted: tuple[PeerSettings, ...] = ()
    scopes: Mapping[str, Scope] = {}
    refused: Mapping[str, Refusal] = {}
    unsupported: Mapping[str, tuple[str, ...]] = {}
    conf_refusals: Mapping[str, Refusal] = {}
    conf_unsupported: tuple[str, ...] = ()
    listening: Listening = Listening()

    @property
    def redirects(self) -> tuple[Redirect, ...]:
        """How routers that dial BGP's own port get to where we listen."""
        forwarded = [peer for peer in self.accepted if peer.forwarded]
        return tuple(Redirect(peer.address, BGP_PORT, self.listening.port, peer.sources) for peer in forwarded)


def community_aliases(confs: Iterable[BgpConf]) -> Mapping[str, str]:
    """The names of communities that Eips may use."""
    return next((c.spec.communities or {} for c in confs if c.metadata.name == names.BGP_CONF_NAME), {})


def admit_bgp(
    confs: Iterable[BgpConf],
    peers: Iterable[BgpPeer],
    replica: Speaking,
    named: Container[str] = (),
    secrets: Mapping[str, Secret] | None = None,
) -> Peers:
    """BgpConf `default` and every BgpPeer, as sessions of this replica. `named` are peers that an Eip names, `secrets`
    those of our own namespace (None: unknown, and no matter here)."""
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
    scopes: dict[str, Scope] = {}
    refused: dict[str, Refusal] = {}
    unsupported: dict[str, tuple[str, ...]] = {}
    for peer in sorted(peers, key=lambda p: age(p.metadata)):
        name = peer.metadata.name
        try:
            if conf is None:
                raise Problem("BgpConf", "there is no usable BgpConf named default")
            scope = _scope(peer, name if name in named else "")
            settings = _peer_settings(conf, peer, replica, _group(scope), secrets)
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
        scopes[settings.group] = scope
        if fields := _unsupported_of_peer(peer):
            unsupported[name] = fields
    listens = conf is not None and any(settings.passive for settings in accepted.values())
    return Peers(
        accepted=tuple(sorted(accepted.values(), key=lambda s: s.name)),
        scopes=scopes,
        refused=refused,
        unsupported=unsupported,
        conf_refusals=conf_refusals,
        conf_unsupported=_unsupported_of_conf(conf) if conf else (),
        listening=_listening(conf) if conf and listens else Listening(),
    )


def _check_conf(conf: BgpConf) -> None:
    _check_as("spec.as", conf.spec.as_)
    if conf.spec.router_id:
        _router_id(conf.spec.router_id)
    for i, number in enumerate(conf.spec.families or ()):
        if number not in _FAMILY_OF_GOBGP:
            raise Problem(f"spec.families[{i}]", f"{number} is neither 0 (IPv4 unicast) nor 1 (IPv6 unicast)")
    _restart_time(conf.spec.graceful_restart)
    for rack, number in sorted((conf.spec.as_per_rack or {}).items()):
        _check_as(f"spec.asPerRack[{rack}]", number)
    if conf.spec.listen_port != NO_PORT:
        _port("spec.listenPort", conf.spec.listen_port)
    _addresses("spec.listenAddresses", conf.spec.listen_addresses)


def _listening(conf: BgpConf) -> Listening:
    addresses = _addresses("spec.listenAddresses", conf.spec.listen_addresses)
    return Listening(conf.spec.listen_port, tuple(sorted(addresses)))


def _scope(peer: BgpPeer, name: str) -> Scope:
    """Which nodes the peer sees: those of its nodeSelector, and of its rack where it is labelled with one."""
    selector = peer.spec.node_selector
    selectors.check("spec.nodeSelector", selector)
    for label in names.RACK_LABELS:
        if rack := peer.metadata.label(label):
            chosen = selector or LabelSelector()
            selector = LabelSelector({**(chosen.match_labels or {}), label: rack}, chosen.match_expressions)
    return Scope(selector, name)


def _group(scope: Scope) -> str:
    """Peers that see the same share one Adj-RIB-Out; its name is the same on every replica."""
    if scope.peer:
        return f"peer-{scope.peer}"
    return "all" if scope.nodes is None else f"scope-{crc32(msgspec.json.encode(scope.nodes)):08x}"


def _rack_as(conf: BgpConf, peer: BgpPeer) -> int:
    """Our AS number towards a router of a rack (OpenELB's asPerRack); 0 when that says nothing about it."""
    chosen = peer.spec.node_selector
    labels = {**((chosen.match_labels if chosen else None) or {}), **(peer.metadata.labels or {})}
    racks = [labels[label] for label in names.RACK_LABELS if label in labels]
    return next((found for rack in racks if (found := (conf.spec.as_per_rack or {}).get(rack))), 0)


def _peer_settings(
    conf: BgpConf, peer: BgpPeer, replica: Speaking, group: str, secrets: Mapping[str, Secret] | None
) -> PeerSettings:
    spec = peer.spec
    if spec.conf is None or not spec.conf.neighbor_address:
        raise Problem("spec.conf.neighborAddress", "is missing; give the router's address")
    try:
        address = to_text(*parse_address(spec.conf.neighbor_address))
    except ValueError as error:
        raise Problem("spec.conf.neighborAddress", str(error)) from None
    _check_as("spec.conf.peerAs", spec.conf.peer_as)
    local_as = spec.conf.local_as or _rack_as(conf, peer) or conf.spec.as_
    _check_as("spec.conf.localAs", local_as)
    if spec.conf.admin_down:
        raise Problem("spec.conf.adminDown", "true: the session is held down as asked")
    transport = spec.transport or Transport()
    password = _password(spec.conf, secrets)
    _check_passive(conf, peer, transport, password)
    hold, keepalive, retry = _timers(peer)
    sources = _addresses("spec.sourceAddresses", spec.source_addresses)
    if wrong := [source for source in sources if family_of(source) != family_of(address)]:
        raise Problem("spec.sourceAddresses", f"{wrong[0]} is not of the family of the neighbour {address}")
    return PeerSettings(
        name=peer.metadata.name,
        address=address,
        port=_port("spec.transport.remotePort", transport.remote_port),
        peer_as=spec.conf.peer_as,
        local_as=local_as,
        router_id=conf.spec.router_id or _own_router_id(replica),
        hold_time_s=hold,
        keepalive_s=keepalive,
        connect_retry_s=retry,
        families=_families(conf, peer),
        restart_time_s=_restart_time(spec.graceful_restart or conf.spec.graceful_restart),
        ttl=_ttl(peer, local_as),
        password=password,
        group=group,
        min_ttl=256 - spec.ttl_security_hops if spec.ttl_security_hops else 0,
        passive=transport.passive_mode,
        forwarded=spec.using_port_forward,
        sources=sources,
    )


def _check_passive(conf: BgpConf, peer: BgpPeer, transport: Transport, password: str) -> None:
    """Whether the router could dial in at all."""
    if transport.passive_mode and conf.spec.listen_port == NO_PORT:
        raise Problem("spec.transport.passiveMode", "true needs a port to listen at; BgpConf's spec.listenPort is -1")
    if not peer.spec.using_port_forward:
        return
    if not transport.passive_mode:
        raise Problem("spec.usingPortForward", "true needs spec.transport.passiveMode: true; else we dial the router")
    if conf.spec.listen_port == BGP_PORT:
        text = "true needs another port to forward 179 to; set BgpConf's spec.listenPort, for example to 17900"
        raise Problem("spec.usingPortForward", text)
    if password:
        text = "true excludes a password: TCP MD5 (RFC 2385) signs the port, and a forwarded one is another"
        raise Problem("spec.usingPortForward", text)


def _port(field: str, number: int) -> int:
    if not 1 <= number <= 65535:
        raise Problem(field, f"{number} is not a port; give 1-65535, {BGP_PORT} is BGP's")
    return number


def _addresses(field: str, given: Iterable[str] | None) -> tuple[str, ...]:
    found = []
    for i, text in enumerate(given or ()):
        try:
            found.append(to_text(*parse_address(text)))
        except ValueError as error:
            raise Problem(f"{field}[{i}]", str(error)) from None
    return tuple(found)


def _password(conf: PeerConf, secrets: Mapping[str, Secret] | None) -> str:
    """The TCP MD5 key: by value, or out of a Secret in our own namespace."""
    asked = conf.auth_password_secret
    if asked is None or not asked.name or secrets is None:
        return conf.auth_password
    field = "spec.conf.authPasswordSecret"
    if conf.auth_password:
        raise Problem(field, "excludes spec.conf.authPassword; give one of them")
    secret = secrets.get(asked.name)
    if secret is None:
        raise Problem(f"{field}.name", f"there is no Secret {asked.name!r} in Porter HA's own namespace; create it")
    encoded = (secret.data or {}).get(asked.key)
    if encoded is None:
        known = ", ".join(sorted(secret.data or {})) or "nothing"
        raise Problem(f"{field}.key", f"Secret {asked.name} has no {asked.key!r}; it has: {known}")
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        raise Problem(f"{field}.key", f"{asked.key!r} of Secret {asked.name} is no text in UTF-8") from None


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
    hops, multihop = peer.spec.ttl_security_hops, peer.spec.ebgp_multihop
    if not 0 <= hops <= 254:
        raise Problem(
            "spec.ttlSecurityHops", f"{hops} is out of range; give 1 for a router on our own link, at most 254"
        )
    if hops and multihop is not None and multihop.enabled:
        raise Problem(
            "spec.ttlSecurityHops", "excludes spec.ebgpMultihop, which sends with a low TTL; give one of them"
        )
    if hops:
        return 255
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
    found = _set_fields(spec, "spec", ["policy"])
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
