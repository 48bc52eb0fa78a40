"""A node joins a Local EIP (externalTrafficPolicy) once kube-proxy there has its rules. It drops what comes before and
may be a second behind the endpoint (minSyncPeriod); the Service's healthCheckNodePort says when (KEP-3836).

Where nothing answers there for PATIENCE_S (a firewall, another proxy) the node joins all the same. Nodes that served
when this replica began are taken as they are. Must never: hold back a node that leaves, or keep one out for good.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import msgspec

from porter_ha.manager.host import Host
from porter_ha.model.plan import Claim

PATIENCE_S = 3.0
PERIOD_S = 0.05
LATER = 0.125  # of the time since it was first asked: after how much more it is asked again
AT_ONCE = 64


class Joining:
    """`addresses` gives nodes' addresses by name; `joined` is told a claim with one node more."""

    def __init__(self, host: Host, addresses: Callable[[], Mapping[str, str]], joined: Callable[[Claim], None]) -> None:
        self.asking = False  # false while what is heard was there before us
        self._host, self._addresses, self._joined = host, addresses, joined
        self._claims: dict[str, Claim] = {}  # as they came, of Local Services
        self._in: dict[str, frozenset[str]] = {}  # nodes that may be next hops of them
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def judge(self, claim: Claim) -> Claim:
        """The claim without the nodes that cannot serve yet; they are asked until they can."""
        key = claim.key
        if not claim.health_port:
            self.forget(key)
            return claim
        self._claims[key] = claim
        wanted = frozenset(node for serving in claim.serving for node in serving.nodes)
        known = self._in.get(key, frozenset())
        self._in[key] = known & wanted if self.asking else wanted
        for node in wanted - self._in[key]:
            if (key, node) not in self._tasks:
                self._tasks[key, node] = asyncio.create_task(self._ask(key, node), name=f"joining {node}")
        return self._filtered(key)

    def forget(self, key: str) -> None:
        """The Service is gone, or not Local any more."""
        self._claims.pop(key, None)
        self._in.pop(key, None)

    def _filtered(self, key: str) -> Claim:
        claim, allowed = self._claims[key], self._in[key]
        kept = tuple(
            msgspec.structs.replace(serving, nodes=tuple(node for node in serving.nodes if node in allowed))
            for serving in claim.serving
        )
        return msgspec.structs.replace(claim, serving=tuple(serving for serving in kept if serving.nodes))

    def _wanted(self, key: str, node: str) -> bool:
        claim = self._claims.get(key)
        return claim is not None and any(node in serving.nodes for serving in claim.serving)

    async def _ask(self, key: str, node: str) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):  # in all, however many others are asked
                    await self._until_it_can(key, node)
            if self._wanted(key, node):
                self._in[key] |= {node}
                self._joined(self._filtered(key))
        finally:
            del self._tasks[key, node]

    async def _until_it_can(self, key: str, node: str) -> None:
        began = self._host.now()
        while self._wanted(key, node) and (address := self._addresses().get(node)) is not None:
            async with self._slots:
                if self._wanted(key, node) and await self._host.healthy(address, self._claims[key].health_port, "/"):
                    return
            # Where nobody answers, thousands may be asked: the longer it takes, the less it matters when.
            await asyncio.sleep(max(PERIOD_S, (self._host.now() - began) * LATER))
