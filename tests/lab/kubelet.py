"""A stand-in for the kubelet, one per node: the lab's nodes run no containers, so this is all that is left of it.

It keeps the Node and its Lease fresh, reports the pods that the lab runs as processes (addresses and readiness from
their annotations), and listens on the kubelet's port. The controllers that react to it are the real ones.
"""

import asyncio
import sys
from datetime import UTC, datetime

import msgspec

from porter_ha.kube import credentials
from porter_ha.kube.client import MERGE, STRATEGIC, ApiError, Client, Unreachable
from porter_ha.kube.watch import Change, Watch

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
BEAT_S = 1.0


class Meta(msgspec.Struct):
    name: str
    namespace: str = ""
    annotations: dict[str, str] = {}


class Pod(msgspec.Struct):
    metadata: Meta


def now(form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return datetime.now(UTC).strftime(form)


def ready_condition(ready: bool) -> dict[str, str]:
    return {"type": "Ready", "status": "True" if ready else "False", "reason": "Lab", "lastTransitionTime": now()}


class Kubelet:
    def __init__(self, client: Client, node: str, addresses: list[str]) -> None:
        self._client, self._node, self._addresses = client, node, addresses
        self._pods: asyncio.Queue[Pod] = asyncio.Queue()

    async def run(self) -> None:
        await asyncio.start_server(lambda _, writer: writer.close(), None, 10250)
        await self._register()
        watch = Watch(self._client, "/api/v1/pods", self._changed, {"fieldSelector": f"spec.nodeName={self._node}"})
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.run())
            group.create_task(self._report())
            group.create_task(self._beat())

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.raw is not None:
                self._pods.put_nowait(msgspec.json.decode(change.raw, type=Pod))

    async def _register(self) -> None:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._node}}
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._node, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self._node, "leaseDurationSeconds": 5},
        }
        for path, made in (("/api/v1/nodes", body), (LEASES, lease)):
            try:
                await self._client.request("POST", path, made)
            except ApiError as error:
                if error.status != 409:
                    raise
        await self._node_status()

    async def _node_status(self) -> None:
        status = {
            "addresses": [{"type": "InternalIP", "address": a} for a in self._addresses],
            "conditions": [{**ready_condition(True), "lastHeartbeatTime": now()}],
        }
        path = f"/api/v1/nodes/{self._node}/status"
        await self._client.request("PATCH", path, {"status": status}, content_type=MERGE, timeout_s=2)

    async def _beat(self) -> None:
        while True:
            try:
                spec = {"spec": {"renewTime": now("%Y-%m-%dT%H:%M:%S.%fZ")}}
                await self._client.request("PATCH", f"{LEASES}/{self._node}", spec, content_type=MERGE, timeout_s=2)
                await self._node_status()
            except (ApiError, Unreachable) as error:
                print("beat:", error)
            await asyncio.sleep(BEAT_S)

    async def _report(self) -> None:
        while True:
            pod = await self._pods.get()
            said = pod.metadata.annotations
            ready = said.get("lab/ready", "true") == "true"
            status = {
                "phase": "Running",
                "podIP": said["lab/ips"].split(",")[0],
                "podIPs": [{"ip": ip} for ip in said["lab/ips"].split(",")],
                "conditions": [ready_condition(ready)],
            }
            path = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}/status"
            try:
                await self._client.request("PATCH", path, {"status": status}, content_type=STRATEGIC)
            except ApiError as error:
                if error.status != 404:
                    print("pod:", error)
            except Unreachable:
                self._pods.put_nowait(pod)


async def main(kubeconfig: str, node: str, addresses: list[str]) -> None:
    async with Client(await credentials.read(kubeconfig)) as client:
        await Kubelet(client, node, addresses).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3].split(",")))
