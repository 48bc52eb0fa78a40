"""Where each kind lives in the API."""

from porter_ha.model.names import GROUP, OWN_GROUP, OWN_VERSION, VERSION

SERVICES = "/api/v1/services"
NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
ENDPOINT_SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
EIPS = f"/apis/{GROUP}/{VERSION}/eips"
BGP_CONFS = f"/apis/{GROUP}/{VERSION}/bgpconfs"
BGP_PEERS = f"/apis/{GROUP}/{VERSION}/bgppeers"
TERMS = f"/apis/{OWN_GROUP}/{OWN_VERSION}/terms"


def services(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/services"


def service(key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"{services(namespace)}/{name}"


def events(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"


def leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def workloads(namespace: str, kind: str) -> str:
    """`kind` is deployments or daemonsets."""
    return f"/apis/apps/v1/namespaces/{namespace}/{kind}"
