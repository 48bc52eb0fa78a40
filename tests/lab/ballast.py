"""Many EIPs that carry no traffic: Services whose status records an EIP already, as a cluster has them after a year.

They are put into etcd beneath the API server, because creating 50,000 through it takes this machine half an hour and
it is not what is measured; the API server serves them like any other, and the product announces them. kube-proxy is
told to leave them alone (service.kubernetes.io/service-proxy-name).

`python -m tests.lab.ballast COUNT` does the writing, inside the control plane's namespace.
"""

import asyncio
import base64
import ipaddress
import sys
import uuid
from collections.abc import Iterator

import aiohttp
import orjson

from tests.lab import routers
from tests.lab.controlplane import apply
from tests.lab.shell import PREFIX, PYTHON, run, until
from tests.lab.topology import NODES

NAMESPACE, POOL, FIRST = "ballast", "10.212.0.0-10.213.255.255", "10.212.0.0"
ETCD = "http://127.0.0.1:2379/v3/kv/put"
AT_ONCE = 32
_LABELS = {"service.kubernetes.io/service-proxy-name": "ballast"}


def _meta(name: str, **more: object) -> dict[str, object]:
    created = "2026-01-01T00:00:00Z"
    return {"name": name, "namespace": NAMESPACE, "uid": str(uuid.uuid4()), "creationTimestamp": created, **more}


def _objects(count: int) -> Iterator[tuple[str, dict[str, object]]]:
    first = ipaddress.IPv4Address(FIRST)
    for i in range(count):
        name, eip = f"b{i}", str(first + i)
        annotations = {"lb.kubesphere.io/v1alpha1": "porter", "porter-ha.io/eips": eip, "porter-ha.io/epoch": "1"}
        yield (
            f"/registry/services/specs/{NAMESPACE}/{name}",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": _meta(name, labels=_LABELS, annotations=annotations),
                "spec": {
                    "type": "LoadBalancer",
                    "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
                    "ipFamilies": ["IPv4"],
                    "ipFamilyPolicy": "SingleStack",
                    "externalTrafficPolicy": "Cluster",
                },
                "status": {"loadBalancer": {"ingress": [{"ip": eip, "ipMode": "VIP"}]}},
            },
        )
        yield (
            f"/registry/endpointslices/{NAMESPACE}/{name}",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": _meta(name, labels={**_LABELS, "kubernetes.io/service-name": name}),
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.244.1.250"], "nodeName": NODES[0], "conditions": {"ready": True}}],
                "ports": [{"port": 8080, "protocol": "TCP"}],
            },
        )


async def _write(count: int) -> None:
    """One write each: an API server relies on no two objects having the same revision."""
    waiting = _objects(count)

    async def some(session: aiohttp.ClientSession) -> None:
        for key, thing in waiting:
            words = [base64.b64encode(raw).decode() for raw in (key.encode(), orjson.dumps(thing))]
            async with session.post(ETCD, data=orjson.dumps(dict(zip(("key", "value"), words, strict=True)))) as answer:
                answer.raise_for_status()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*[some(session) for _ in range(AT_ONCE)])


def routes(router: str) -> int:
    """How many of them the router's kernel forwards."""
    text = run("ip", "-n", PREFIX + router, "route", "show", "proto", routers.PROTOCOLS[router])
    return text.count("\n10.212.") + text.count("\n10.213.") + text.startswith(("10.212.", "10.213."))


def load(count: int, timeout_s: float) -> None:
    """Until `count` more EIPs are in both routers' kernels."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    pool = {
        "apiVersion": "network.kubesphere.io/v1alpha2",
        "kind": "Eip",
        "metadata": {"name": NAMESPACE},
        "spec": {"address": POOL},
    }
    apply(space, pool)
    here = ("ip", "netns", "exec", f"{PREFIX}controlplane")
    run(*here, str(PYTHON), "-m", "tests.lab.ballast", str(count), timeout_s=timeout_s)
    until(f"{count} EIPs in both routers", lambda: all(routes(r) >= count for r in routers.PROTOCOLS), timeout_s)


if __name__ == "__main__":
    asyncio.run(_write(int(sys.argv[1])))
