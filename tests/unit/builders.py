"""Small makers of values, so that tests say only what matters to them."""

from porter_ha.core.pool import PoolSettings
from porter_ha.model.net import parse_ranges
from porter_ha.model.objects import Condition, Node, NodeAddress, NodeStatus, ObjectMeta
from porter_ha.model.plan import Claim, NodeView, PeerSettings, Serving


def claim(key: str = "default/web", **more: object) -> Claim:
    base: dict[str, object] = {
        "uid": f"uid-{key}",
        "created": "2026-01-01T00:00:00Z",
        "wants": True,
        "families": (4,),
        "serving": (Serving(4), Serving(6)),
    }
    return Claim(key=key, **{**base, **more})  # type: ignore[arg-type]


def pool(name: str = "pool", address: str = "10.0.0.0/24", **more: object) -> PoolSettings:
    return PoolSettings(name, parse_ranges(address), **more)  # type: ignore[arg-type]


def view(name: str, number: int, **more: object) -> NodeView:
    return NodeView(name, (f"10.1.{number >> 8}.{number & 255}", f"fd01::{number:x}"), **more)  # type: ignore[arg-type]


def node(name: str, ready: str = "True", **meta: object) -> Node:
    return Node(
        ObjectMeta(name=name, **meta),  # type: ignore[arg-type]
        status=NodeStatus([Condition("Ready", ready)], [NodeAddress("InternalIP", "10.1.0.1")]),
    )


def peer(**more: object) -> PeerSettings:
    base: dict[str, object] = {
        "name": "router",
        "address": "10.9.0.1",
        "port": 179,
        "peer_as": 65010,
        "local_as": 65001,
        "router_id": "10.1.0.1",
        "hold_time_s": 30,
        "keepalive_s": 10,
        "connect_retry_s": 5,
        "families": (4, 6),
        "restart_time_s": 120,
        "ttl": 1,
        "password": "",
        "group": "all",
    }
    return PeerSettings(**{**base, **more})  # type: ignore[arg-type]
