"""The lab's network: a LAN of control plane, routers and nodes; a client behind both routers; pods behind nodes.

    client --- 10.79.101.0/24 --- router1 (FRR)  --+                 +-- node1 -- pods 10.244.1.0/24
           --- 10.79.102.0/24 --- router2 (BIRD) --+-- 10.79.0.0/24 --+-- node2 -- pods 10.244.2.0/24
                                  controlplane  ---+                 +-- node3 -- pods 10.244.3.0/24

The same in IPv6 (fd79::, fd79:101::, fd44:N::). The client chooses the router by its source address. This machine
reaches the API server over one veth pair, 10.79.255.0/30. Every link, address and route is inside our namespaces,
so removing these removes all.
"""

import re
from collections.abc import Sequence

from tests.lab.shell import PREFIX, run

NODES = ("node1", "node2", "node3")
ROUTERS = ("router1", "router2")
ROUTER_AS, OUR_AS = 65010, 65001
API = "10.79.0.10"
# Addresses, protocol and ports, as real routers hash. Policy 1 would not do: between namespaces it takes the hash that
# the sender's socket drew at random, another one after each retransmission (skb->l4_hash).
FIVE_TUPLE = 0x37
HOST_API = "10.79.255.2"


def lan(name: str) -> tuple[str, str]:
    """The IPv4 and IPv6 address of a member of the LAN."""
    number = {"router1": 1, "router2": 2, "controlplane": 10, "node1": 21, "node2": 22, "node3": 23}[name]
    return f"10.79.0.{number}", f"fd79::{number}"


def client_source(router: str) -> tuple[str, str]:
    """The client's addresses on the link to a router: using one as the source chooses that router."""
    net = 100 + int(router[-1])
    return f"10.79.{net}.2", f"fd79:{net}::2"


def batch(lines: list[str], namespace: str = "") -> None:
    """`ip -batch` in one of our namespaces, or on this machine."""
    where = ["-n", PREFIX + namespace] if namespace else []
    for family, chosen in (("", [x for x in lines if x[0] != "-"]), ("-6", [x[3:] for x in lines if x[0] == "-"])):
        if chosen:
            run("ip", *filter(None, [family]), *where, "-batch", "-", stdin="\n".join(chosen))


def sysctl(namespace: str, **settings: int) -> None:
    pairs = [f"net.{key.replace('__', '.')}={value}" for key, value in settings.items()]
    run("ip", "netns", "exec", PREFIX + namespace, "sysctl", "-qw", *pairs)


def namespaces() -> list[str]:
    """Ours, as they exist now."""
    return sorted(n for n in re.findall(r"^(\S+)", run("ip", "netns", "list"), re.MULTILINE) if n.startswith(PREFIX))


def create() -> None:
    """Everything but pods."""
    members = ["controlplane", *ROUTERS, *NODES]
    batch([f"netns add {PREFIX}{name}" for name in ["lan", "client", *members]])
    for name in ["lan", "client", *members]:
        batch(["link set lo up"], name)
    batch(["link add br0 type bridge", "link set br0 up"], "lan")
    for name in members:
        v4, v6 = lan(name)
        batch([f"link add eth0 netns {PREFIX}{name} type veth peer name {name} netns {PREFIX}lan"])
        batch([f"link set {name} master br0 up"], "lan")
        batch([f"addr add {v4}/24 dev eth0", f"addr add {v6}/64 dev eth0 nodad", "link set eth0 up"], name)
    for router in ROUTERS:
        net = 100 + int(router[-1])
        batch([f"link add client netns {PREFIX}{router} type veth peer name {router} netns {PREFIX}client"])
        batch(
            [
                f"addr add 10.79.{net}.1/24 dev client",
                f"addr add fd79:{net}::1/64 dev client nodad",
                "link set client up",
            ],
            router,
        )
        v4, v6 = client_source(router)
        batch(
            [
                f"addr add {v4}/24 dev {router}",
                f"addr add {v6}/64 dev {router} nodad",
                f"link set {router} up",
                f"rule add from {v4} lookup {net}",
                f"-6 rule add from {v6} lookup {net}",
                f"route add default via 10.79.{net}.1 table {net}",
                f"-6 route add default via fd79:{net}::1 table {net}",
            ],
            "client",
        )
        sysctl(
            router,
            ipv4__ip_forward=1,
            ipv6__conf__all__forwarding=1,
            ipv4__fib_multipath_hash_policy=3,
            ipv6__fib_multipath_hash_policy=3,
            ipv4__fib_multipath_hash_fields=FIVE_TUPLE,
            ipv6__fib_multipath_hash_fields=FIVE_TUPLE,
            ipv4__conf__all__rp_filter=0,
        )
    for name in (*NODES, "controlplane"):
        lines = []
        for router in ROUTERS:
            net = 100 + int(router[-1])
            lines += [
                f"route add 10.79.{net}.0/24 via {lan(router)[0]}",
                f"-6 route add fd79:{net}::/64 via {lan(router)[1]}",
            ]
        batch(lines, name)
    batch(_pod_routes(NODES), "controlplane")
    batch([f"link add {PREFIX}host type veth peer name host netns {PREFIX}controlplane"])
    batch([f"addr add 10.79.255.1/30 dev {PREFIX}host", f"link set {PREFIX}host up"])
    batch([f"addr add {HOST_API}/30 dev host", "link set host up"], "controlplane")
    for node in NODES:
        _prepare_node(node)


def _prepare_node(node: str) -> None:
    number = node[-1]
    sysctl(node, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__rp_filter=0)
    # Tests provoke refusals faster than the one a second per host that the kernel sends by default.
    sysctl(node, ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)
    lines = [
        "link add cni0 type bridge",
        f"addr add 10.244.{number}.1/24 dev cni0",
        f"addr add fd44:{number}::1/64 dev cni0 nodad",
        "link set cni0 up",
        f"route add default via {lan('router1')[0]}",
        f"-6 route add default via {lan('router1')[1]}",
    ]
    batch(lines + _pod_routes([other for other in NODES if other != node]), node)


def _pod_routes(nodes: Sequence[str]) -> list[str]:
    """The way to the pods of these nodes."""
    lines = []
    for node in nodes:
        v4, v6 = lan(node)
        lines += [f"route add 10.244.{node[-1]}.0/24 via {v4}", f"-6 route add fd44:{node[-1]}::/64 via {v6}"]
    return lines


def add_pod(name: str, node: str, number: int) -> tuple[str, str]:
    """A pod's namespace on a node; returns its addresses."""
    n = node[-1]
    v4, v6 = f"10.244.{n}.{number}", f"fd44:{n}::{number}"
    batch([f"netns add {PREFIX}{name}"])
    port = f"v{name}"[:15]
    batch([f"link add eth0 netns {PREFIX}{name} type veth peer name {port} netns {PREFIX}{node}"])
    batch([f"link set {port} master cni0 up", f"link set {port} type bridge_slave hairpin on"], node)  # as CNIs do
    batch(
        [
            "link set lo up",
            f"addr add {v4}/24 dev eth0",
            f"addr add {v6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 10.244.{n}.1",
            f"-6 route add default via fd44:{n}::1",
        ],
        name,
    )
    return v4, v6


def remove_pod(name: str) -> None:
    run("ip", "netns", "delete", PREFIX + name, check=False)


def set_link(node: str, up: bool) -> None:
    """Plug a node's cable in or out, at the switch."""
    batch([f"link set {node} {'up' if up else 'down'}"], "lan")


def destroy() -> None:
    """Remove our namespaces, and so every link, address, route and rule in them."""
    for name in namespaces():
        run("ip", "netns", "delete", name, check=False)
    run("ip", "link", "delete", f"{PREFIX}host", check=False)
