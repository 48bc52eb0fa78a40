"""Service churn by real API calls, under locust: create, update, move endpoints, delete.

Beside locust's HTTP figures it reports, as requests of their own, `time to EIP` (from the create to the EIP in the
status, as a watch shows it) and `time to FIB` (to the route in a router's kernel). A Service without its EIP after
--patience is a failure, and so is all that the end finds: an EIP that two Services show, an address of the pool or a
route that outlives its Service. Exit status 1 when anything failed.

    locust -f loadtest/locustfile.py --headless -u 20 -t 300s --host https://10.79.255.2:6443 --ca build/lab/pki/ca.crt
"""

import itertools
import random
import re
import ssl
import time
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError

import gevent
import orjson
from gevent import subprocess
from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task

NAMESPACE = "churn"
OPT_IN = {"lb.kubesphere.io/v1alpha1": "porter"}
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
EIPS = "/apis/network.kubesphere.io/v1alpha2/eips"
MERGE = "application/merge-patch+json"
CLEAN_S = 30.0  # until everything of a deleted Service must be gone
_numbers = itertools.count()


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Service churn")
    group.add_argument("--token", default="lab-admin", help="bearer token of the API server")
    group.add_argument("--ca", default="", help="the API server's CA certificate")
    group.add_argument("--pool", default="bench", help="the Eip that Services get their addresses from")
    group.add_argument("--router", default="porter-router2", help="network namespace of the router to watch")
    group.add_argument("--nodes", default="n0001,n0002,n0003", help="nodes that endpoints are on")
    group.add_argument("--rate", type=float, default=5.0, help="operations a second of each user, at most")
    group.add_argument("--keep", type=int, default=20, help="Services that a user keeps at most")
    group.add_argument("--patience", type=float, default=10.0, help="seconds in which a Service must have its EIP")
    group.add_argument("--most-failures", type=int, default=50, help="stop after so many")
    group.add_argument("--shape", choices=["steady", "wave", "burst"], default="steady", help="how many users when")


class Shape(LoadTestShape):
    """`wave` swings between a fifth and all of the users every minute; `burst` has all of them for 10 s of each."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        runner: Any = self.runner
        options, now = runner.environment.parsed_options, self.get_run_time()
        most = options.num_users or 1
        if options.run_time and now > options.run_time:
            return None
        users = most
        if options.shape == "wave":
            users = round(most * (0.2 + 0.8 * abs((now % 60) / 30 - 1)))
        elif options.shape == "burst" and now % 60 >= 10:
            users = most // 10
        return max(1, users), most


class Watcher:
    """What the API server's watch and the router's kernel show of the Services that were asked for."""

    def __init__(self, environment: Any) -> None:
        self._environment, self._options = environment, environment.parsed_options
        self.asked: dict[str, float] = {}
        self.failures = 0
        self._eip: dict[str, str] = {}
        self._owner: dict[str, str] = {}
        self._routed: set[str] = set()
        self._waiting_fib: dict[str, float] = {}
        self._context = ssl.create_default_context(cafile=self._options.ca or None)
        self._version = self._get(SERVICES)["metadata"]["resourceVersion"]
        self._greenlets = [gevent.spawn(work) for work in (self._follow, self._follow_fib, self._look_for_late)]

    def stop(self) -> None:
        gevent.killall(self._greenlets)

    def tell(self, kind: str, since: float, error: str = "") -> None:
        """One observation: how long after `since`, or what is wrong."""
        self._environment.events.request.fire(
            request_type="",
            name=kind,
            response_time=(time.time() - since) * 1e3,
            response_length=0,
            exception=RuntimeError(error) if error else None,
            context={},
        )
        self.failures += bool(error)
        if self.failures > self._options.most_failures:
            self._environment.runner.quit()

    def _open(self, path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {self._options.token}"}
        request = urllib.request.Request(f"{self._environment.host}{path}", headers=headers, method=method)
        return urllib.request.urlopen(request, context=self._context, timeout=600)

    def _get(self, path: str) -> Any:
        with self._open(path) as answer:
            return orjson.loads(answer.read())

    def _follow(self) -> None:
        while True:
            with self._open(f"{SERVICES}?watch=1&resourceVersion={self._version}") as answer:
                for line in answer:
                    event = orjson.loads(line)
                    self._version = event["object"]["metadata"]["resourceVersion"]
                    self._see(event["object"], event["type"] == "DELETED")

    def _see(self, service: Any, gone: bool) -> None:
        name = service["metadata"]["name"]
        if gone:
            self.asked.pop(name, None)
            eip = self._eip.pop(name, "")
            if self._owner.get(eip) == name:
                del self._owner[eip]
                self._waiting_fib.pop(eip, None)
            return
        ingress = service["status"]["loadBalancer"].get("ingress") or []
        if not ingress or name not in self.asked or self._eip.get(name) == ingress[0]["ip"]:
            return
        eip, since = ingress[0]["ip"], self.asked[name]
        if name in self._eip:
            self.tell("EIP kept", since, f"{name} had {self._eip[name]} and has {eip}")
        if eip in self._owner:
            self.tell("EIP unique", since, f"{eip} is held by {self._owner[eip]} and {name}")
        self._eip[name], self._owner[eip] = eip, name
        self.tell("time to EIP", since)
        if eip in self._routed:
            self.tell("time to FIB", since)
        else:
            self._waiting_fib[eip] = since

    def _follow_fib(self) -> None:
        command = ["stdbuf", "-oL", "ip", "-n", self._options.router, "-o", "monitor", "route"]
        monitor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            for line in monitor.stdout:
                found = re.match(r"(Deleted )?(\d+\.\d+\.\d+\.\d+) ", line)
                if found is None:
                    continue
                if found[1]:
                    self._routed.discard(found[2])
                    continue
                self._routed.add(found[2])
                if found[2] in self._waiting_fib:
                    self.tell("time to FIB", self._waiting_fib.pop(found[2]))
        finally:
            monitor.kill()

    def _look_for_late(self) -> None:
        while True:
            gevent.sleep(1.0)
            for name, since in [*self.asked.items()]:
                if name not in self._eip and time.time() - since > self._options.patience:
                    del self.asked[name]
                    self.tell("time to EIP", since, f"{name} has no EIP after {self._options.patience:.0f} s")
            for eip, since in [*self._waiting_fib.items()]:
                if time.time() - since > self._options.patience:
                    del self._waiting_fib[eip]
                    self.tell("time to FIB", since, f"{eip} has no route after {self._options.patience:.0f} s")

    def sweep(self) -> None:
        """Delete what users have left, also what a request that was cut off has made."""
        for path in (SERVICES, SLICES):
            for item in self._get(path)["items"]:
                try:
                    self._open(f"{path}/{item['metadata']['name']}", "DELETE").close()
                except HTTPError as error:
                    if error.code != HTTPStatus.NOT_FOUND:  # a user's last request was faster
                        raise

    def leaks(self) -> list[str]:
        """What is left once every Service is gone; waits for it to go."""
        deadline = time.time() + CLEAN_S
        while True:
            left = []
            if services := self._get(SERVICES)["items"]:
                left.append(f"{len(services)} Services")
            if usage := self._get(f"{EIPS}/{self._options.pool}").get("status", {}).get("usage", 0):
                left.append(f"{usage} addresses of Eip {self._options.pool} in use")
            if self._routed:
                left.append(f"{len(self._routed)} routes in {self._options.router}")
            if not left or time.time() > deadline:
                return left
            gevent.sleep(0.5)


_watcher: Watcher


@events.test_start.add_listener
def _begin(environment: Any, **_: object) -> None:
    global _watcher
    _watcher = Watcher(environment)


@events.test_stop.add_listener
def _end(environment: Any, **_: object) -> None:
    _watcher.sweep()
    for left in _watcher.leaks():
        _watcher.tell("nothing left", time.time(), left)
    _watcher.stop()
    for error in environment.stats.errors.values():
        print(f"{error.occurrences} x {error.name}: {error.error}")
    environment.process_exit_code = 1 if environment.stats.total.num_failures else 0


class Tenant(FastHttpUser):
    """Somebody whose Services come and go."""

    insecure = False

    def __init__(self, environment: Any) -> None:
        self.options = environment.parsed_options
        self.default_headers = {"Authorization": f"Bearer {self.options.token}"}
        self.ssl_context_factory = lambda: ssl.create_default_context(cafile=self.options.ca or None)
        self.names: list[str] = []
        super().__init__(environment)

    def wait_time(self) -> float:
        return float(constant_throughput(self.options.rate)(self))

    def _call(self, method: str, path: str, what: str, body: object = None, kind: str = "application/json") -> None:
        content = None if body is None else orjson.dumps(body).decode()
        headers = {"Content-Type": kind}
        with self.client.request(method, path, name=what, data=content, headers=headers, catch_response=True) as answer:
            if not answer.ok:
                answer.failure(f"{answer.status_code} {answer.text}")

    def _endpoints(self) -> list[dict[str, object]]:
        nodes = self.options.nodes.split(",")
        chosen = random.sample(nodes, random.randint(1, len(nodes)))
        ready = {"conditions": {"ready": True}}
        return [{"addresses": [f"10.244.0.{i + 1}"], "nodeName": node, **ready} for i, node in enumerate(chosen)]

    @task(4)
    def create(self) -> None:
        if len(self.names) >= self.options.keep:
            self._delete(self.names.pop(0))
            return
        name = f"s{next(_numbers):06}"
        meta = {"name": name, "labels": {"kubernetes.io/service-name": name}}
        ports = [{"name": "", "port": 8080, "protocol": "TCP"}]
        part = {"metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": self._endpoints()}
        self._call("POST", SLICES, "create EndpointSlice", part)
        spec = {
            "type": "LoadBalancer",
            "ports": [{"port": 80, "targetPort": 8080}],
            "allocateLoadBalancerNodePorts": False,
            "externalTrafficPolicy": random.choice(["Cluster", "Local"]),
        }
        _watcher.asked[name] = time.time()
        self.names.append(name)
        self._call(
            "POST", SERVICES, "create Service", {"metadata": {"name": name, "annotations": OPT_IN}, "spec": spec}
        )

    @task(2)
    def update(self) -> None:
        if self.names:
            change = {"spec": {"ports": [{"port": random.randint(80, 90), "targetPort": 8080}]}}
            self._call("PATCH", f"{SERVICES}/{random.choice(self.names)}", "update Service", change, MERGE)

    @task(2)
    def move(self) -> None:
        if self.names:
            change = {"endpoints": self._endpoints()}
            self._call("PATCH", f"{SLICES}/{random.choice(self.names)}", "move endpoints", change, MERGE)

    @task(2)
    def delete(self) -> None:
        if self.names:
            self._delete(self.names.pop(random.randrange(len(self.names))))

    def _delete(self, name: str) -> None:
        self._call("DELETE", f"{SERVICES}/{name}", "delete Service")
        self._call("DELETE", f"{SLICES}/{name}", "delete EndpointSlice")
