"""The API client of a simulated process: kube.client.Client over the simulated network.

A request that was sent may be carried out although its answer never comes; an answer may come although the process
that asked is stopped. Both as in life.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from random import Random

import orjson

from porter_ha.kube.client import JSON, ApiError, Client, Reach, Unreachable
from porter_ha.model.access import Access
from porter_ha.testing.apiserver import Apiserver, Object, Request, WatchStream, parse_path
from porter_ha.testing.loop import Process
from porter_ha.testing.network import Machine, Network, resolve

TIMEOUT_S = 10.0


class Control:
    """The API server as clients meet it: where it is, whether it answers, and how its watches lag."""

    def __init__(self, server: Apiserver, machine: Machine, random: Random) -> None:
        self.server, self.machine, self._random = server, machine, random
        self.refusing = False
        self.hung: deque[tuple[bool, Callable[[], None]]] | None = None
        self.lag_s = 0.01
        self.behind_s: dict[str, float] = {}  # how much later the watches of a kind are than the others
        self.torn = 0.0

    @property
    def up(self) -> bool:
        return not self.refusing and self.hung is None

    def lag(self, plural: str) -> float:
        return self.behind_s.get(plural, 0.0) + self._random.uniform(0.0, self.lag_s)

    def tears(self) -> bool:
        return self._random.random() < self.torn

    async def answers(self) -> None:
        """Users wait until the server serves them."""
        while not self.up:
            await asyncio.sleep(0.1)

    def hang(self) -> None:
        self.hung = deque()

    def go_on(self) -> None:
        """Requests came on many connections: which of them goes on first is chance."""
        hung, self.hung = self.hung or (), None
        requests = [arrive for request, arrive in hung if request]
        self._random.shuffle(requests)
        for request, arrive in hung:
            (requests.pop() if request else arrive)()

    def arrive(self, work: Callable[[], None], *, request: bool = False) -> None:
        """Work reaches the server: done now, or when it goes on."""
        if self.hung is not None:
            self.hung.append((request, lambda: self.arrive(work)))
        else:
            work()


class SimulatedClient(Client):
    def __init__(self, network: Network, machine: Machine, process: Process, control: Control, user: str) -> None:
        self._network, self._machine, self._process, self._control = network, machine, process, control
        self._user = user
        self.reach = Reach()

    @property
    def host(self) -> str:
        return self._control.machine.address

    def renew(self, access: Access) -> None:
        """Tokens do not expire here."""

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = JSON,
        timeout_s: float | None = None,
    ) -> bytes:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes | ApiError] = loop.create_future()
        plural, namespace, name, sub = parse_path(path)
        sent = orjson.loads(orjson.dumps(body)) if body is not None else None
        dry_run = "dryRun" in (params or {})
        wanted = _wanted(path, params or {})
        request = Request(
            self._user, method, plural, namespace, name, sub, sent, content_type, dry_run, loop.time(), wanted
        )
        control, network = self._control, self._network
        if control.refusing:
            self.reach.lost()
            raise Unreachable(f"{method} {path}: connection refused")

        def carry_out() -> None:
            if control.refusing:
                return
            answer: bytes | ApiError
            try:
                answer = control.server.handle(request)
            except ApiError as error:
                answer = error
            network.send(control.machine, self._machine, partial(resolve, answered, answer))

        network.send(self._machine, control.machine, lambda: control.arrive(carry_out, request=True))
        try:
            async with asyncio.timeout(timeout_s or TIMEOUT_S):
                answer = await answered
        except TimeoutError:
            self.reach.lost()
            raise Unreachable(f"{method} {path}: no answer in time") from None
        self.reach.answered()
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def stream(
        self, path: str, params: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncIterator[list[bytes]]:
        control = self._control
        if control.refusing:
            self.reach.lost()
            raise Unreachable(f"watch {path}: connection refused")
        arrivals: asyncio.Queue[list[bytes] | Exception] = asyncio.Queue()
        plural = parse_path(path)[0]
        courier = _Courier(self._network, self._machine, control, plural, arrivals)
        stream = WatchStream(plural, _wanted(path, params), courier.push, courier.end)

        def begin() -> None:
            try:
                courier.put([])
                control.server.watch(stream, params["resourceVersion"])
            except ApiError as error:
                courier.put(error)

        self._network.send(self._machine, control.machine, lambda: control.arrive(begin))
        try:
            while True:
                async with asyncio.timeout(idle_timeout_s):
                    batch = await arrivals.get()
                if isinstance(batch, Exception):
                    if isinstance(batch, Unreachable):
                        self.reach.lost()
                    raise batch
                self.reach.answered()
                yield batch
        except TimeoutError:
            raise Unreachable(f"watch {path}: silent") from None
        finally:
            control.server.leave(stream)


class _Courier:
    """Carries a watch's lines to its client in order, each as late as the server's lag makes it."""

    def __init__(
        self,
        network: Network,
        machine: Machine,
        control: Control,
        plural: str,
        arrivals: "asyncio.Queue[list[bytes] | Exception]",
    ) -> None:
        self._network, self._machine, self._control, self._arrivals = network, machine, control, arrivals
        self._plural = plural
        self._out: deque[list[bytes] | Exception] = deque()
        self._moving = False

    def push(self, lines: list[bytes]) -> None:
        self.put(lines)

    def end(self) -> None:
        self.put(Unreachable("watch: the server ended it"))

    def put(self, one: list[bytes] | Exception) -> None:
        self._out.append(one)
        if not self._moving:
            self._moving = True
            asyncio.get_running_loop().call_later(self._control.lag(self._plural), self._leave)

    def _leave(self) -> None:
        control = self._control
        control.arrive(lambda: self._network.send(control.machine, self._machine, self._arrive))

    def _arrive(self) -> None:
        self._moving = False
        lines: list[bytes] = []
        while self._out:
            one = self._out.popleft()
            if isinstance(one, Exception):
                if lines:
                    self._arrivals.put_nowait(lines)
                self._arrivals.put_nowait(one)
                return
            lines += one
        if lines and self._control.tears():
            lines[-1] = lines[-1][: len(lines[-1]) // 2]
        self._arrivals.put_nowait(lines)


def _wanted(path: str, params: Mapping[str, str]) -> Callable[[Object], bool]:
    """The selectors that the manager uses."""
    _, namespace, _, _ = parse_path(path)
    _, _, name = params.get("fieldSelector", "").partition("metadata.name=")
    label = params.get("labelSelector", "")

    def wanted(thing: Object) -> bool:
        meta = thing["metadata"]
        if namespace and meta.get("namespace") != namespace:
            return False
        return (not name or meta["name"] == name) and (not label or label in meta.get("labels", {}))

    return wanted
