"""Two real routers: FRR as router1, BIRD as router2. Both take every path and install equal-cost multipath."""

import json
import re
import shutil
from pathlib import Path

from tests.lab.shell import PREFIX, STATE, inside, run, start, until
from tests.lab.topology import NODES, OUR_AS, ROUTER_AS, batch, client_source, lan

FRR_LIB = Path("/usr/lib/frr")
RUN = Path("/run/porter-lab-frr")  # FRR drops to its own user, who may not enter this checkout
TRIAL = 790  # a mark and a table that nothing else uses
PROTOCOLS = {"router1": "bgp", "router2": "bird"}


def _frr_config(peers: list[str]) -> str:
    lines = ["log stdout", "!", f"router bgp {ROUTER_AS}", f" bgp router-id {lan('router1')[0]}",
             " no bgp ebgp-requires-policy", " no bgp default ipv4-unicast", " bgp graceful-restart"]  # fmt: skip
    for peer in peers:
        lines += [f" neighbor {peer} remote-as {OUR_AS}", f" neighbor {peer} timers connect 1"]
    for family in ("ipv4", "ipv6"):
        lines += [f" address-family {family} unicast", "  maximum-paths 64"]
        lines += [f"  neighbor {peer} activate" for peer in peers]
        lines += [" exit-address-family"]
    return "\n".join([*lines, "!", ""])


def _bird_config(peers: list[str]) -> str:
    sessions = "\n".join(
        f"protocol bgp peer{i} {{ local {lan('router2')[0]} as {ROUTER_AS}; neighbor {peer} as {OUR_AS};\n"
        "  graceful restart on; passive on;\n"
        "  ipv4 { import all; export none; add paths rx; }; ipv6 { import all; export none; add paths rx; }; }"
        for i, peer in enumerate(peers)
    )
    kernels = "\n".join(
        "protocol kernel { merge paths yes limit 64; graceful restart on; "
        f"{family} {{ import none; export where source = RTS_BGP; }}; }}"
        for family in ("ipv4", "ipv6")
    )
    return (
        f"router id {lan('router2')[0]};\nlog stderr all;\nprotocol device {{ scan time 1; }}\n"
        f'protocol direct {{ ipv4; ipv6; interface "eth0"; }}\n{kernels}\n{sessions}\n'
    )


def start_frr() -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    (RUN / "bgpd.conf").write_text(_frr_config([lan(n)[0] for n in NODES]))
    (RUN / "zebra.conf").write_text("")
    for path in (RUN, *RUN.iterdir()):
        shutil.chown(path, "frr", "frr")
    common = ["--vty_socket", str(RUN), "-z", str(RUN / "zserv.api"), "--log", "stdout"]
    for name in ("zebra", "bgpd"):
        extra = ["-p", "179"] if name == "bgpd" else []
        files = ["-f", str(RUN / f"{name}.conf"), "-i", str(RUN / f"{name}.pid")]
        start(f"frr-{name}", [str(FRR_LIB / name), *common, *files, "-P", "0", *extra], "router1")
        until(f"FRR's {name}", (RUN / f"{name}.vty").exists)


def clean() -> None:
    """Remove what `start_frr` made outside the checkout."""
    shutil.rmtree(RUN, ignore_errors=True)


def accept_any_as(any_as: bool) -> None:
    """Whether both routers take sessions with whatever AS number their neighbours have."""
    ours = "external" if any_as else f"as {OUR_AS}"
    config = STATE / "bird.conf"
    config.write_text(re.sub(r"(neighbor \S+) (external|as \d+);", rf"\1 {ours};", config.read_text()))
    birdc("configure")
    lines = [f"neighbor {lan(n)[0]} remote-as {'external' if any_as else OUR_AS}" for n in NODES]
    vtysh("configure terminal", f"router bgp {ROUTER_AS}", *lines)


def take_paths(several: bool) -> None:
    """Whether BIRD takes add-path."""
    config = STATE / "bird.conf"
    text = config.read_text().replace(" add paths rx;", "")
    config.write_text(text.replace("export none;", "export none; add paths rx;") if several else text)
    birdc("configure")


def forgive() -> None:
    """Let BIRD call and answer at once again: after errors of a session it stays away for a minute, and then longer."""
    for i in range(len(NODES)):
        birdc(f"restart peer{i}")


def start_bird(recover: bool = False) -> None:
    """With `recover`, BIRD takes its kernel routes over from its predecessor (graceful restart)."""
    config = STATE / "bird.conf"
    config.write_text(_bird_config([lan(n)[0] for n in NODES]))
    bird = shutil.which("bird") or "/usr/sbin/bird"
    start(
        "bird", [bird, "-f", "-c", str(config), "-s", str(STATE / "bird.ctl"), *(["-R"] if recover else [])], "router2"
    )
    until("BIRD", lambda: "ready" in birdc("show status"))


FAR = client_source("router1")[0]  # a route server where the client is: a hop away from the nodes
FAR_AS = 65020


def start_far() -> None:
    """A BIRD behind router1, for sessions over a hop."""
    sessions = "\n".join(
        f"protocol bgp far{i} {{ local {FAR} as {FAR_AS}; neighbor {lan(node)[0]} as {OUR_AS}; multihop 2;\n"
        "  graceful restart on; passive on; ipv4 { import all; export none; add paths rx; }; }"
        for i, node in enumerate(NODES)
    )
    lan_route = 'protocol static { ipv4; route 10.79.0.0/24 via "router1"; }'
    config = STATE / "bird-far.conf"
    config.write_text(f"router id {FAR};\nlog stderr all;\nprotocol device {{}}\n{lan_route}\n{sessions}\n")
    bird = shutil.which("bird") or "/usr/sbin/bird"
    start("bird-far", [bird, "-f", "-c", str(config), "-s", str(STATE / "bird-far.ctl")], "client")
    until("the far BIRD", lambda: "ready" in birdc("show status", "bird-far"))


def vtysh(*commands: str) -> str:
    """Commands to FRR, one after another."""
    return inside("router1", "vtysh", "--vty_socket", str(RUN), *(part for c in commands for part in ("-c", c)))


def birdc(command: str, which: str = "bird") -> str:
    """A command to BIRD."""
    return run("birdc", "-s", str(STATE / f"{which}.ctl"), command)


def told(router: str, eip: str) -> str:
    """Every path to an IPv4 EIP that the router knows, in its own words."""
    if router == "router1":
        return vtysh(f"show bgp ipv4 unicast {eip}/32")
    return birdc(f"show route all for {eip}")


def bird_sessions() -> dict[str, str]:
    """BIRD's peers whose session is up -> the number that the kernel gave the session's socket: another one after a
    reset, and the same for as long as the session lasts (BIRD's own "since" wavers by a millisecond)."""
    lines = [line.split() for line in birdc("show protocols").splitlines()]
    up = [f[0] for f in lines if len(f) > 5 and f[1] == "BGP" and f[5] == "Established"]
    sockets = inside("router2", "ss", "-tnHe", "state", "established", "sport", "=", "179")  # queues, local, peer, ...
    by_address = {m[1]: m[2] for m in re.finditer(r"^\s*\d+\s+\d+\s+\S+\s+(\S+):\d+ .*\bsk:(\w+)", sockets, re.M)}
    return {name: by_address[lan(NODES[int(name.removeprefix("peer"))])[0]] for name in up}


def fib(router: str) -> dict[str, frozenset[str]]:
    """EIP -> addresses of its next hops, as the router's kernel forwards now."""
    found: dict[str, frozenset[str]] = {}
    for family in ("-4", "-6"):
        text = run("ip", family, "-j", "-n", PREFIX + router, "route", "show", "proto", PROTOCOLS[router])
        for route in json.loads(text or "[]"):
            hops = [hop.get("gateway", "") for hop in route.get("nexthops", [route])]
            name = route["dst"].partition("/")[0]
            found[name] = found.get(name, frozenset()) | frozenset(filter(None, hops))
    return found


def ordered_hops(router: str, eip: str) -> list[str]:
    """An IPv4 EIP's next hops in the order in which the router's kernel has them."""
    text = run("ip", "-j", "-n", PREFIX + router, "route", "show", f"{eip}/32", "proto", PROTOCOLS[router])
    return [hop["gateway"] for route in json.loads(text) for hop in route.get("nexthops", [route])]


def hashed_to(router: str, eip: str, hops: list[str], ports: list[int]) -> list[str]:
    """The next hop of each of the client's TCP connections from these ports to port 80 of an IPv4 EIP, were these its
    next hops, in this order: asked of the router's kernel, by a table that no traffic looks at."""
    ask = f"route get {eip} from {client_source(router)[0]} iif client ipproto tcp dport 80 mark {TRIAL} sport"
    batch(
        [
            f"rule add fwmark {TRIAL} lookup {TRIAL}",
            f"route add {eip}/32 table {TRIAL} {' '.join(f'nexthop via {hop}' for hop in hops)}",
        ],
        router,
    )
    try:
        said = run("ip", "-n", PREFIX + router, "-batch", "-", stdin="\n".join(f"{ask} {port}" for port in ports))
    finally:
        batch([f"rule del fwmark {TRIAL} lookup {TRIAL}", f"route flush table {TRIAL}"], router)
    return re.findall(r" via (\S+)", said)


def node_names(hops: frozenset[str]) -> list[str]:
    """Next hops as names of nodes."""
    by_address = {address: node for node in NODES for address in lan(node)}
    return sorted(by_address.get(hop, hop) for hop in hops)


def best_med(eip: str) -> int:
    """The MED of BIRD's best path to the EIP: lower with each term."""
    said = birdc(f"show route all primary for {eip}")
    return min(int(line.split()[-1]) for line in said.splitlines() if "BGP.med" in line)
