"""Who is ours: which Services ask Porter HA for an EIP, and which nodes may be a next hop.

Pure functions from objects to values. Bad input never raises: it becomes a Refusal inside the Claim.
"""

from collections.abc import Iterable

from porter_ha.model import names
from porter_ha.model.net import V4, V6, family_of, parse_address, to_text
from porter_ha.model.objects import EndpointSlice, Node, Service
from porter_ha.model.plan import Claim, NodeView, Refusal, Serving, Sharing
from porter_ha.model.reasons import Reason

_FAMILY_NUMBERS = {"IPv4": V4, "IPv6": V6}


def opted_in(service: Service, classless: bool) -> bool:
    """Whether the Service asks for an EIP of ours (design 2.6).

    A load balancer class decides when it is set. Otherwise the annotation does, or `classless`: the setting that
    makes every Service without a class ours.
    """
    if service.spec.type != "LoadBalancer":
        return False
    if service.spec.load_balancer_class:
        return service.spec.load_balancer_class == names.LOAD_BALANCER_CLASS
    value = service.metadata.annotation(names.OPT_IN_ANNOTATION)
    return value in names.OPT_IN_VALUES if value else classless


def recorded_addresses(service: Service) -> tuple[str, ...]:
    """The addresses that Porter HA itself wrote into the status."""
    return tuple(filter(None, service.metadata.annotation(names.EIPS_ANNOTATION).split(",")))


def claim_of(service: Service, slices: Iterable[EndpointSlice], classless: bool) -> Claim | None:
    """What the Service asks for, or None when it asks nothing and holds nothing."""
    meta = service.metadata
    wants = opted_in(service, classless) and not meta.deletion_timestamp
    held = service.addresses
    recorded = bool(held) and set(held) <= set(recorded_addresses(service))
    refusal = _misspelt(service) if not wants else None
    if not wants:
        if not held and refusal is None:
            return None
        return Claim(
            key=meta.key,
            uid=meta.uid,
            created=meta.creation_timestamp,
            wants=False,
            held=held,
            recorded=recorded,
            sharing=_sharing(service),
            refusal=refusal,
        )
    wanted, refusal = _wanted_addresses(service)
    return Claim(
        key=meta.key,
        uid=meta.uid,
        created=meta.creation_timestamp,
        wants=True,
        families=tuple(_FAMILY_NUMBERS.get(f, V4) for f in service.spec.ip_families or ["IPv4"]),
        all_families=service.spec.ip_family_policy != "PreferDualStack",
        wanted_addresses=wanted,
        wanted_pool=meta.annotation(names.WANTED_POOL_ANNOTATION),
        held=held,
        recorded=recorded,
        local=service.spec.external_traffic_policy == "Local",
        health_port=service.spec.health_check_node_port,
        serving=serving(slices),
        labels=tuple(sorted((meta.labels or {}).items())),
        sharing=_sharing(service),
        refusal=refusal,
    )


def _sharing(service: Service) -> Sharing | None:
    key = next(filter(None, map(service.metadata.annotation, reversed(names.SHARING_KEY_ANNOTATIONS))), "")
    if not key:
        return None
    backends, spec = "", service.spec
    if spec.external_traffic_policy == "Local":  # without a selector its endpoints are whatever somebody wrote
        pods = ",".join(f"{label}={value}" for label, value in sorted((spec.selector or {}).items()))
        backends = f"{service.metadata.namespace}:{pods}" if pods else service.metadata.key
    return Sharing(key, tuple(sorted((port.protocol, port.port) for port in spec.ports or ())), backends)


def _misspelt(service: Service) -> Refusal | None:
    value = service.metadata.annotation(names.MISSPELT_OPT_IN_ANNOTATION)
    if service.spec.type != "LoadBalancer" or value not in names.OPT_IN_VALUES:
        return None
    return Refusal(
        Reason.MISSPELT_ANNOTATION,
        f"annotation {names.MISSPELT_OPT_IN_ANNOTATION}: {value} is misspelt; write {names.OPT_IN_ANNOTATION}: {value}",
    )


def _wanted_addresses(service: Service) -> tuple[tuple[str, ...], Refusal | None]:
    field, text = "spec.loadBalancerIP", service.spec.load_balancer_ip
    for key in names.WANTED_ADDRESS_ANNOTATIONS:
        if service.metadata.annotation(key):
            field, text = f"annotation {key}", service.metadata.annotation(key)
    wanted = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            wanted.append(to_text(*parse_address(part)))
        except ValueError as error:
            return (), Refusal(Reason.ADDRESS_INVALID, f"{field}: {error}")
    families = [family_of(a) for a in wanted]
    if len(set(families)) != len(families):
        return (), Refusal(
            Reason.ADDRESS_INVALID, f"{field}: {text!r} names two addresses of one family; name one per family"
        )
    return tuple(wanted), None


def serving(slices: Iterable[EndpointSlice]) -> tuple[Serving, ...]:
    """The families in which anything serves, and the nodes that do, as kube-proxy sees it.

    Ready endpoints count; only when a family has none at all, those that still serve while terminating do (KEP-1669).
    A missing `ready` means ready, as the API says.
    """
    ready: dict[int, set[str]] = {}
    draining: dict[int, set[str]] = {}
    for part in slices:
        family = _FAMILY_NUMBERS.get(part.address_type)
        if family is None:
            continue  # FQDN: kube-proxy does not serve it either
        for endpoint in part.endpoints or ():
            conditions = endpoint.conditions
            if conditions.ready is not False and not conditions.terminating:
                ready.setdefault(family, set()).add(endpoint.node_name or "")
            elif conditions.terminating and conditions.serving is not False:
                draining.setdefault(family, set()).add(endpoint.node_name or "")
    found = {**draining, **ready}
    return tuple(Serving(family, tuple(sorted(found[family] - {""}))) for family in sorted(found))


def node_view(node: Node) -> NodeView:
    """A node as a next hop, with the Reason when it may be none (design 2.4). Cordoning changes nothing."""
    meta = node.metadata
    refusal: Reason | None = None
    ready = node.condition("Ready")
    if not meta.deletion_timestamp and ready == "Unknown":
        refusal = Reason.NODE_UNKNOWN  # a kubelet that does not report; our own probes may vouch for the node
    elif meta.deletion_timestamp or ready != "True":
        refusal = Reason.NODE_NOT_READY
    elif node.condition("NetworkUnavailable") == "True":
        refusal = Reason.NODE_NETWORK_UNAVAILABLE
    elif names.EXCLUDE_NODE_LABEL in (meta.labels or {}):
        refusal = Reason.NODE_EXCLUDED
    elif names.DRAIN_NODE_ANNOTATION in (meta.annotations or {}) or any(
        taint.key in names.DRAIN_TAINTS for taint in node.spec.taints or ()
    ):
        refusal = Reason.NODE_DRAINING
    internal = []
    for entry in node.status.addresses or ():
        if entry.type == "InternalIP":
            try:
                internal.append(to_text(*parse_address(entry.address)))
            except ValueError:
                continue  # a node's odd address is no next hop; its others still are
    return NodeView(meta.name, tuple(internal), tuple(sorted((meta.labels or {}).items())), refusal)
