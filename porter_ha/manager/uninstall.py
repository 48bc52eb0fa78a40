"""`porter-ha uninstall`: take an installation out of the network before its pods go. The chart's hook runs it.

In this order, so that no router sends to a node that no longer answers: every replica ends its sessions with a
NOTIFICATION, and routers forget our routes at once; managers stop; agents take everything of ours off their nodes; then
Lease, Term and barrier go. Users' objects and the addresses in Service status stay: whoever installs again finds them.

Must never: wait for ever for a node that is off. What could not be done is told, and the rest is done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from porter_ha.core.lease import LeaseSettings
from porter_ha.kube import credentials, paths
from porter_ha.kube.client import MERGE, STRATEGIC, ApiError, Client
from porter_ha.kube.lease import LeaseStore
from porter_ha.kube.watch import Change, Watch, listed
from porter_ha.model import names
from porter_ha.model.objects import BgpPeer

Say = Callable[[str], None]
Raws = Mapping[str, bytes]
SELECTOR = f"app.kubernetes.io/name={names.COMPONENT},app.kubernetes.io/component="


class _Meta(msgspec.Struct):
    name: str
    generation: int = 0


class _Named(msgspec.Struct):
    metadata: _Meta


class _Container(msgspec.Struct):
    name: str
    args: list[str] = []


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    containers: list[_Container] = []


class _Template(msgspec.Struct):
    spec: _PodSpec


class _SetSpec(msgspec.Struct):
    template: _Template


class _SetStatus(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0


class _DaemonSet(msgspec.Struct):
    metadata: _Meta
    spec: _SetSpec
    status: _SetStatus


class _Pod(msgspec.Struct):
    spec: _PodSpec


async def uninstall(kubeconfig: str, namespace: str, patience_s: float, say: Say) -> bool:
    """Whether all of it was done; each step may take `patience_s`. Raises ApiError or Unreachable."""
    async with Client(await credentials.read(kubeconfig)) as client:
        steps = _Uninstallation(client, namespace, patience_s, say)
        return all(
            [await steps.withdraw(), await steps.stop_managers(), await steps.clean_nodes(), await steps.forget()]
        )


class _Uninstallation:
    def __init__(self, client: Client, namespace: str, patience_s: float, say: Say) -> None:
        self._client, self._namespace, self._patience_s, self._say = client, namespace, patience_s, say
        self._pods = paths.pods(namespace)

    async def withdraw(self) -> bool:
        """Every replica ends its sessions, and says so in the status of the BgpPeers."""
        store = LeaseStore(self._client, self._namespace, LeaseSettings(""))
        found = await store.read()
        if found is None or not await self._managers():
            self._say("no manager runs: there is nothing to withdraw")
            return True
        await store.ask_to_withdraw(found.record.epoch)
        return await self._settle(
            paths.BGP_PEERS,
            {},
            _replicas_with_sessions,
            "not withdrawn: the manager on {} has not said that its sessions are closed",
            "withdrawn: no manager has a session any more",
        )

    async def stop_managers(self) -> bool:
        path = f"{paths.workloads(self._namespace, 'deployments')}/{names.MANAGER_WORKLOAD}"
        if not await self._patch(path, {"spec": {"replicas": 0}}):
            return True
        which = {"labelSelector": f"{SELECTOR}manager"}
        return await self._settle(self._pods, which, _places, "not stopped: the manager on {}", "managers have ended")

    async def clean_nodes(self) -> bool:
        """The agents are replaced by ones that take everything off their node and say ready when it is."""
        sets = paths.workloads(self._namespace, "daemonsets")
        path = f"{sets}/{names.AGENT_WORKLOAD}"
        found = await self._get(path)
        if found is None:
            return True
        containers = msgspec.json.decode(found, type=_DaemonSet).spec.template.spec.containers
        agent = next((one for one in containers if one.name == names.AGENT_CONTAINER), None)
        if agent is None:
            self._say(f"not all nodes are clean: DaemonSet {names.AGENT_WORKLOAD} has no container agent")
            return False
        retiring = {"name": agent.name, "args": [*(a for a in agent.args if a != "--retire"), "--retire"]}
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}}
        spec = {"updateStrategy": strategy, "template": {"spec": {"containers": [retiring]}}}
        await self._patch(path, {"spec": spec}, STRATEGIC)
        return await self._settle(
            sets,
            {"fieldSelector": f"metadata.name={names.AGENT_WORKLOAD}"},
            _not_retired,
            "not all nodes are clean: {}; there `porter-ha agent --remove`, or a reboot, does the same",
            "nodes are clean: no route, rule or table of ours is left",
        )

    async def forget(self) -> bool:
        """The objects that only managers use. A Service of another installation's namespace is not touched."""
        leases = paths.leases(self._namespace)
        async for page in listed(self._client, leases, {}):
            for raw in page.items or ():
                name = msgspec.json.decode(raw, type=_Named).metadata.name
                if name == names.LEASE_NAME or name.startswith(names.REPLICA_LEASE_PREFIX):
                    await self._delete(f"{leases}/{name}")
        await self._delete(f"{paths.TERMS}/{names.TERM_NAME}")
        await self._delete(f"{paths.services(self._namespace)}/{names.BARRIER_SERVICE}")
        self._say("Leases, Term and barrier are gone")
        return True

    async def _managers(self) -> bool:
        async for page in listed(self._client, self._pods, {"labelSelector": f"{SELECTOR}manager"}):
            if page.items:
                return True
        return False

    async def _settle(
        self, path: str, params: Mapping[str, str], left: Callable[[Raws], list[str]], undone: str, done: str
    ) -> bool:
        """Whether nothing is `left` in the end; `undone` is said of each that is, `done` when there is none."""
        found = await self._until(path, params, left)
        for what in found:
            self._say(undone.format(what))
        if not found:
            self._say(done)
        return not found

    async def _until(self, path: str, params: Mapping[str, str], left: Callable[[Raws], list[str]]) -> list[str]:
        """Watch until nothing is `left` of these objects, or for `patience_s`; returns what is."""
        objects: dict[str, bytes] = {}
        done = asyncio.Event()
        synced = False

        def deliver(changes: list[Change]) -> None:
            nonlocal synced
            for change in changes:
                if change.kind == "SYNCED":
                    synced = True
                elif change.raw is None:
                    objects.pop(change.key, None)
                else:
                    objects[change.key] = change.raw
            if synced and not left(objects):
                done.set()

        watch = asyncio.create_task(Watch(self._client, path, deliver, params).run())
        try:
            async with asyncio.timeout(self._patience_s):
                await done.wait()
            return []
        except TimeoutError:
            return left(objects) or [f"{path} could not be watched"]
        finally:
            watch.cancel()

    async def _get(self, path: str) -> bytes | None:
        return await _unless_gone(self._client.request("GET", path))

    async def _patch(self, path: str, body: object, content_type: str = MERGE) -> bool:
        """Whether there is such an object."""
        return await _unless_gone(self._client.request("PATCH", path, body, content_type=content_type)) is not None

    async def _delete(self, path: str) -> None:
        await _unless_gone(self._client.request("DELETE", path))


async def _unless_gone(answer: Awaitable[bytes]) -> bytes | None:
    try:
        return await answer
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _replicas_with_sessions(peers: Raws) -> list[str]:
    """Nodes whose managers have an entry in the status of a BgpPeer."""
    decoded: Iterable[BgpPeer] = (msgspec.json.decode(raw, type=BgpPeer) for raw in peers.values())
    return sorted({node for peer in decoded for node in peer.status.nodes_peer_status or ()})


def _places(pods: Raws) -> list[str]:
    found = (msgspec.json.decode(raw, type=_Pod) for raw in pods.values())
    return sorted(pod.spec.node_name or "no node yet" for pod in found)


def _not_retired(sets: Raws) -> list[str]:
    left = []
    for raw in sets.values():
        found = msgspec.json.decode(raw, type=_DaemonSet)
        status = found.status
        wanted = status.desired_number_scheduled
        done = min(status.updated_number_scheduled, status.number_available)
        if status.observed_generation < found.metadata.generation or done < wanted:
            left.append(f"{done} of {wanted} agents have said that theirs is")
    return left
