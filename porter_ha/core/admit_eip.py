"""Eips: from what users wrote to pools that are known to be good, or a Refusal each.

Invariants
  I9  one bad Eip is refused alone; the others are used as if it were not there.
  Of two that overlap the older one wins, whatever order they are seen in.
"""

from collections.abc import Iterable, Mapping

from porter_ha.core import selectors
from porter_ha.core.next_hops import GRACEFUL_SHUTDOWN, HOST_ROUTE, Offer, Route
from porter_ha.core.pool import PoolSettings
from porter_ha.core.problem import Problem, age
from porter_ha.model import names
from porter_ha.model.net import V4, AddressRange, parse_ranges
from porter_ha.model.objects import Advertisement, Eip
from porter_ha.model.plan import Refusal, Tags
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value

ORDERS = ("Ascending", "Descending")
SHARING = ("Namespace", "Cluster")
WELL_KNOWN = {  # RFC 1997, 3765, 7999, 8326
    "no-export": 0xFFFFFF01,
    "no-advertise": 0xFFFFFF02,
    "local-as": 0xFFFFFF03,
    "no-peer": 0xFFFFFF04,
    "blackhole": 0xFFFF029A,
    "graceful-shutdown": GRACEFUL_SHUTDOWN,
}


class Pools(Value, frozen=True):
    """The Eips in use, and why others are not."""

    accepted: tuple[PoolSettings, ...]
    refused: dict[str, Refusal]

    @property
    def named_peers(self) -> frozenset[str]:
        """The BgpPeers that some Eip treats unlike others."""
        offers = (offer for pool in self.accepted for route in pool.routes for offer in route.offers)
        return frozenset(name for offer in offers for name in offer.peers)


def admit_eips(eips: Iterable[Eip], aliases: Mapping[str, str] | None = None) -> Pools:
    """`aliases` are BgpConf's names of communities."""
    accepted: list[PoolSettings] = []
    refused: dict[str, Refusal] = {}
    defaults: set[int] = set()
    for eip in sorted(eips, key=lambda e: age(e.metadata)):
        name = eip.metadata.name
        try:
            ranges = parse_ranges(eip.spec.address)
        except ValueError as error:
            refused[name] = Refusal(Reason.EIP_ADDRESS_INVALID, f"spec.address: {error}")
            continue
        if eip.spec.protocol not in ("", "bgp"):
            text = f"spec.protocol: {eip.spec.protocol!r} is not supported; use bgp"
            refused[name] = Refusal(Reason.PROTOCOL_UNSUPPORTED, text)
            continue
        rival = next((p for p in accepted if any(r.overlaps(own) for r in p.ranges for own in ranges)), None)
        if rival is not None:
            text = f"spec.address: {eip.spec.address!r} overlaps the older Eip {rival.name}"
            refused[name] = Refusal(Reason.EIP_OVERLAPS, text)
            continue
        family = ranges[0].family
        is_default = eip.metadata.annotation(names.DEFAULT_EIP_ANNOTATION) == "true" and family not in defaults
        try:
            accepted.append(_pool(eip, ranges, is_default, aliases or {}))
        except Problem as problem:
            refused[name] = Refusal(Reason.EIP_INVALID, str(problem))
            continue
        defaults |= {family} if is_default else set()
    return Pools(tuple(accepted), refused)


def _pool(eip: Eip, ranges: tuple[AddressRange, ...], default: bool, aliases: Mapping[str, str]) -> PoolSettings:
    spec = eip.spec
    _one_of("spec.allocationOrder", spec.allocation_order, ORDERS)
    _one_of("spec.sharing", spec.sharing, SHARING)
    selectors.check("spec.serviceSelector", spec.service_selector)
    return PoolSettings(
        name=eip.metadata.name,
        ranges=ranges,
        disabled=spec.disable,
        default=default,
        skip_boundaries=spec.using_known_ips is False,
        priority=spec.priority,
        namespaces=tuple(spec.namespaces or ()),
        namespace_selector=tuple(sorted((spec.namespace_selector or {}).items())),
        service_selector=spec.service_selector,
        auto=spec.auto_assign,
        descending=spec.allocation_order == "Descending",
        share_across=spec.sharing == "Cluster",
        routes=_routes(spec.advertisements or [], ranges[0].family, aliases),
    )


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in ("", *known):
        raise Problem(field, f"{value!r} is none of {', '.join(known)}")


# --- what routers are told -----------------------------------------------------------------------------------


def _routes(wanted: list[Advertisement], family: int, aliases: Mapping[str, str]) -> tuple[Route, ...]:
    """Advertisements of one prefix length are offers of one route."""
    offers: dict[int, list[Offer]] = {}
    longest = 32 if family == V4 else 128
    for i, one in enumerate(wanted):
        field = f"spec.advertisements[{i}]"
        if not 0 <= one.aggregation_length <= longest:
            text = f"{one.aggregation_length} is no prefix length; give 1-{longest}, default {longest}"
            raise Problem(f"{field}.aggregationLength", text)
        length = one.aggregation_length % longest
        if one.local_pref is not None and not 0 <= one.local_pref <= 0xFFFFFFFF:
            raise Problem(f"{field}.localPref", f"{one.local_pref} is out of range; give 0-4294967295, for example 100")
        tags = _tags(field, one, aliases)
        offers.setdefault(length, []).append(Offer(tuple(sorted(one.peers or ())), tags))
    return tuple(Route(length, tuple(offered)) for length, offered in offers.items()) or (HOST_ROUTE,)


def _tags(field: str, one: Advertisement, aliases: Mapping[str, str]) -> Tags:
    plain: set[int] = set()
    large: set[tuple[int, int, int]] = set()
    for i, text in enumerate(one.communities or ()):
        parts = _community(f"{field}.communities[{i}]", text, aliases)
        if len(parts) == 3:
            large.add((parts[0], parts[1], parts[2]))
        else:
            plain.add(parts[0] << 16 | parts[1] if len(parts) == 2 else parts[0])
    return Tags(tuple(sorted(plain)), tuple(sorted(large)), one.local_pref)


def _community(field: str, text: str, aliases: Mapping[str, str]) -> tuple[int, ...]:
    """Its numbers: one of a well-known community, two of a standard one, three of a large one."""
    meant = aliases.get(text, text)
    if meant in WELL_KNOWN:
        return (WELL_KNOWN[meant],)
    parts = meant.removeprefix("large:").split(":")
    numbers = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    most = {2: 0xFFFF, 3: 0xFFFFFFFF}.get(len(parts), -1)
    if len(numbers) == len(parts) and all(number <= most for number in numbers):
        return numbers
    known = ", ".join([*WELL_KNOWN, *sorted(aliases)])
    raise Problem(field, f"{text!r} is no community; write 65001:100, 65001:1:2 (large), or one of: {known}")
