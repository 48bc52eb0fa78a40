"""The fields of Kubernetes objects that Porter HA reads, as msgspec structs.

Only used fields are declared, so decoding costs what we use. Go writes `null` for empty lists and maps, so every
collection may be None. A field that is declared here and read nowhere is a defect (tests/tidy looks).
"""

import msgspec

from porter_ha.model import names


class Wire(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """Base of the structs that mirror API objects (camelCase on the wire)."""


class ObjectMeta(Wire, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def annotation(self, key: str) -> str:
        return (self.annotations or {}).get(key, "")

    def label(self, key: str) -> str:
        return (self.labels or {}).get(key, "")


class Condition(Wire, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


# --- Service -------------------------------------------------------------------------------------------------


class ServicePort(Wire, frozen=True):
    port: int = 0
    protocol: str = "TCP"


class ServiceSpec(Wire, frozen=True):
    type: str = "ClusterIP"
    load_balancer_class: str | None = None
    load_balancer_ip: str = msgspec.field(default="", name="loadBalancerIP")
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None
    external_traffic_policy: str = "Cluster"
    health_check_node_port: int = 0
    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None


class Ingress(Wire, frozen=True):
    ip: str = ""


class LoadBalancerStatus(Wire, frozen=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(Wire, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: list[Condition] | None = None


class Service(Wire, frozen=True):
    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses in status.loadBalancer.ingress, in their order."""
        return tuple(entry.ip for entry in self.status.load_balancer.ingress or () if entry.ip)


# --- EndpointSlice -------------------------------------------------------------------------------------------


class EndpointConditions(Wire, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class EndpointPort(Wire, frozen=True):
    port: int | None = None


class Endpoint(Wire, frozen=True):
    addresses: list[str] | None = None
    node_name: str | None = None
    conditions: EndpointConditions = EndpointConditions()


class EndpointSlice(Wire, frozen=True):
    metadata: ObjectMeta
    address_type: str = "IPv4"
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None

    @property
    def service_key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.label(names.SLICE_SERVICE_LABEL)}"


# --- Node, Namespace -----------------------------------------------------------------------------------------


class Taint(Wire, frozen=True):
    key: str = ""


class NodeSpec(Wire, frozen=True):
    taints: list[Taint] | None = None


class NodeAddress(Wire, frozen=True):
    type: str = ""
    address: str = ""


class NodeStatus(Wire, frozen=True):
    conditions: list[Condition] | None = None
    addresses: list[NodeAddress] | None = None


class Node(Wire, frozen=True):
    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def condition(self, kind: str) -> str:
        """The status ("True", "False", "Unknown") of a condition; empty when it is absent."""
        return next((c.status for c in self.status.conditions or () if c.type == kind), "")


class Namespace(Wire, frozen=True):
    metadata: ObjectMeta


class Secret(Wire, frozen=True):
    """`data` is in base64."""

    metadata: ObjectMeta
    data: dict[str, str] | None = None


# --- selectors -----------------------------------------------------------------------------------------------


class LabelSelectorRequirement(Wire, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class LabelSelector(Wire, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: list[LabelSelectorRequirement] | None = None


# --- Eip -----------------------------------------------------------------------------------------------------


class Advertisement(Wire, frozen=True):
    aggregation_length: int = 0
    communities: list[str] | None = None
    local_pref: int | None = None
    peers: list[str] | None = None


class EipSpec(Wire, frozen=True):
    address: str = ""
    protocol: str = "bgp"
    disable: bool = False
    using_known_ips: bool | None = msgspec.field(default=None, name="usingKnownIPs")
    priority: int = 0
    namespaces: list[str] | None = None
    namespace_selector: dict[str, str] | None = None
    service_selector: LabelSelector | None = None
    auto_assign: bool = True
    allocation_order: str = ""
    sharing: str = ""
    advertisements: list[Advertisement] | None = None


class Eip(Wire, frozen=True):
    metadata: ObjectMeta
    spec: EipSpec = EipSpec()


# --- BgpConf, BgpPeer (OpenELB's shapes; every optional part as the API server may leave it out) -------------


class GracefulRestart(Wire, frozen=True):
    enabled: bool | None = None
    restart_time: int | None = None
    helper_only: bool = False
    deferral_time: int | None = None
    notification_enabled: bool | None = None
    longlived_enabled: bool = False
    stale_routes_time: int | None = None
    peer_restart_time: int | None = None
    peer_restarting: bool = False
    local_restarting: bool = False
    mode: str = ""


class BgpConfSpec(Wire, frozen=True):
    as_: int = msgspec.field(default=0, name="as")
    as_per_rack: dict[str, int] | None = None
    router_id: str = ""
    listen_port: int = 179
    listen_addresses: list[str] | None = None
    families: list[int] | None = None
    use_multiple_paths: bool | None = None
    graceful_restart: GracefulRestart | None = None
    policy: str = ""
    communities: dict[str, str] | None = None


class BgpConf(Wire, frozen=True):
    metadata: ObjectMeta
    spec: BgpConfSpec = BgpConfSpec()


class SecretKey(Wire, frozen=True):
    name: str = ""
    key: str = "password"


class PeerConf(Wire, frozen=True):
    neighbor_address: str = ""
    peer_as: int = 0
    local_as: int = 0
    auth_password: str = ""
    auth_password_secret: SecretKey | None = None
    description: str = ""
    peer_group: str = ""
    peer_type: int = 0
    remove_private_as: str = ""
    route_flap_damping: bool = False
    send_community: int = 0
    neighbor_interface: str = ""
    vrf: str = ""
    allow_own_as: int = 0
    replace_peer_as: bool = False
    admin_down: bool = False


class EbgpMultihop(Wire, frozen=True):
    enabled: bool = False
    multihop_ttl: int = 0


class Transport(Wire, frozen=True):
    mtu_discovery: bool = False
    passive_mode: bool = False
    remote_address: str = ""
    remote_port: int = 179
    tcp_mss: int = 0


class TimersConfig(Wire, frozen=True):
    """OpenELB writes these as strings of seconds (anchors 1.3)."""

    connect_retry: str = ""
    hold_time: str = ""
    keepalive_interval: str = ""
    minimum_advertisement_interval: str = ""


class Timers(Wire, frozen=True):
    config: TimersConfig | None = None


class Family(Wire, frozen=True):
    afi: str = ""
    safi: str = ""


class AfiSafiConfig(Wire, frozen=True):
    family: Family = Family()
    enabled: bool = True


class AddPathsConfig(Wire, frozen=True):
    receive: bool = False


class AddPaths(Wire, frozen=True):
    config: AddPathsConfig | None = None


class AfiSafi(Wire, frozen=True):
    config: AfiSafiConfig | None = None
    add_paths: AddPaths | None = None


class BgpPeerSpec(Wire, frozen=True):
    conf: PeerConf | None = None
    ebgp_multihop: EbgpMultihop | None = None
    timers: Timers | None = None
    transport: Transport | None = None
    graceful_restart: GracefulRestart | None = None
    afi_safis: list[AfiSafi] | None = None
    node_selector: LabelSelector | None = None
    using_port_forward: bool = False
    ttl_security_hops: int = 0
    source_addresses: list[str] | None = None


class BgpPeerStatus(Wire, frozen=True):
    nodes_peer_status: dict[str, msgspec.Raw] | None = None


class BgpPeer(Wire, frozen=True):
    metadata: ObjectMeta
    spec: BgpPeerSpec = BgpPeerSpec()
    status: BgpPeerStatus = BgpPeerStatus()


# --- Lease ---------------------------------------------------------------------------------------------------


class LeaseSpec(Wire, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class Lease(Wire, frozen=True):
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()
