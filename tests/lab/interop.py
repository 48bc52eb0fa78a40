"""One router and one speaker, face to face, with a session for every way in which they can meet.

    speaker 10.79.200.101+k --- 10.79.200.1+k router      and the same in IPv6, fd79:200::

Session k announces two EIPs of its own (10.210.0.k, fd00:210::k) over three next hops. Everything is in two namespaces
of ours, apart from the lab's.
"""

import itertools
import json
import shutil
from typing import NamedTuple

from porter_ha.model.plan import PeerSettings
from tests.lab import topology
from tests.lab.routers import FRR_LIB, RUN
from tests.lab.shell import PREFIX, PYTHON, STATE, inside, run, start, stop, until

ROUTER, SPEAKER = "interop-router", "interop-speaker"
ROUTER_AS, OUR_AS = 65010, 65001
KEY = "correct-horse"
HOPS = ("10.79.200.241", "10.79.200.242", "10.79.200.243")
HOPS6 = tuple(f"fd79:200::{n}" for n in (241, 242, 243))


class Way(NamedTuple):
    """How a session is made."""

    number: int
    internal: bool
    v6: bool
    passive: bool
    key: bool
    add_path: bool

    def __str__(self) -> str:
        words = ["iBGP" if self.internal else "eBGP", "IPv6" if self.v6 else "IPv4"]
        words += ["passive" if self.passive else "active", "MD5" if self.key else "no key"]
        return ", ".join([*words, "add-path" if self.add_path else "one path"])

    @property
    def router(self) -> str:
        return f"fd79:200::{self.number + 1}" if self.v6 else f"10.79.200.{self.number + 1}"

    @property
    def ours(self) -> str:
        return f"fd79:200::{self.number + 101}" if self.v6 else f"10.79.200.{self.number + 101}"

    @property
    def our_as(self) -> int:
        return ROUTER_AS if self.internal else OUR_AS

    @property
    def eips(self) -> tuple[str, str]:
        return f"10.210.0.{self.number}", f"fd00:210::{self.number + 1:x}"

    def settings(self) -> PeerSettings:
        return PeerSettings(
            name=f"way{self.number}",
            address=self.router,
            port=179,
            peer_as=ROUTER_AS,
            local_as=self.our_as,
            router_id="10.79.200.254",
            hold_time_s=30,
            keepalive_s=10,
            connect_retry_s=1,
            families=(4, 6),
            restart_time_s=60,
            ttl=255 if self.internal else 1,
            password=KEY if self.key else "",
            group=f"way{self.number}",
            passive=self.passive,
            sources=(self.ours,),
        )


WAYS = [Way(k, *choice) for k, choice in enumerate(itertools.product((False, True), repeat=5))]


# --- the network ---------------------------------------------------------------------------------------------


def create() -> None:
    topology.batch([f"netns add {PREFIX}{ROUTER}", f"netns add {PREFIX}{SPEAKER}"])
    topology.batch([f"link add eth0 netns {PREFIX}{ROUTER} type veth peer name eth0 netns {PREFIX}{SPEAKER}"])
    for name, offset in ((ROUTER, 1), (SPEAKER, 101)):
        lines = ["link set lo up", "link set eth0 up"]
        for way in WAYS:
            lines += [f"addr add 10.79.200.{way.number + offset}/24 dev eth0"]
            lines += [f"addr add fd79:200::{way.number + offset}/64 dev eth0 nodad"]
        topology.batch(lines, name)
        topology.sysctl(name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)


def destroy() -> None:
    shutil.rmtree(RUN.with_name("porter-lab-frr-interop"), ignore_errors=True)
    for name in (SPEAKER, ROUTER):
        run("ip", "netns", "delete", PREFIX + name, check=False)


# --- the speaker ---------------------------------------------------------------------------------------------


def speak() -> None:
    """Start our speaker, with all sessions."""
    start("interop-speaker", [str(PYTHON), "-m", "tests.lab.interop_speaker"], SPEAKER)


def hush() -> None:
    stop("interop-speaker")


# --- routers -------------------------------------------------------------------------------------------------


def frr() -> None:
    lines = ["log stdout", f"router bgp {ROUTER_AS}", " bgp router-id 10.79.200.253", " no bgp ebgp-requires-policy"]
    lines += [" no bgp default ipv4-unicast", " bgp graceful-restart"]
    for way in WAYS:
        peer = f" neighbor {way.ours}"
        lines += [f"{peer} remote-as {way.our_as}", f"{peer} timers connect 1", f"{peer} update-source {way.router}"]
        lines += [f"{peer} password {KEY}"] * way.key + [f"{peer} passive"] * (not way.passive)
    for family in ("ipv4", "ipv6"):
        lines += [f" address-family {family} unicast", "  maximum-paths 64", "  maximum-paths ibgp 64"]
        for way in WAYS:
            lines += [f"  neighbor {way.ours} activate"]
            lines += [f"  neighbor {way.ours} disable-addpath-rx"] * (not way.add_path)
        lines += [" exit-address-family"]
    there = RUN.with_name("porter-lab-frr-interop")
    there.mkdir(parents=True, exist_ok=True)
    (there / "bgpd.conf").write_text("\n".join([*lines, ""]))
    (there / "zebra.conf").write_text("")
    for path in (there, *there.iterdir()):
        shutil.chown(path, "frr", "frr")
    common = ["--vty_socket", str(there), "-z", str(there / "zserv.api"), "--log", "stdout", "-P", "0"]
    for name in ("zebra", "bgpd"):
        files = ["-f", str(there / f"{name}.conf"), "-i", str(there / f"{name}.pid")]
        start(f"interop-{name}", [str(FRR_LIB / name), *common, *files], ROUTER)
        until(f"FRR's {name}", (there / f"{name}.vty").exists)


def bird() -> None:
    sessions = "".join(
        f"protocol bgp way{way.number} {{ local {way.router} as {ROUTER_AS}; neighbor {way.ours} as {way.our_as};\n"
        f"  graceful restart on; passive {'off' if way.passive else 'on'};\n"
        "  connect delay time 1; connect retry time 1;\n"
        + (f'  password "{KEY}";\n' if way.key else "")
        + "".join(
            f"  {family} {{ import all; export none; {'add paths rx;' if way.add_path else ''} }};\n"
            for family in ("ipv4", "ipv6")
        )
        + "}\n"
        for way in WAYS
    )
    kernels = "".join(
        f"protocol kernel {{ merge paths yes limit 64; graceful restart on; {family} {{ import none; "
        "export where source = RTS_BGP; }; }\n"
        for family in ("ipv4", "ipv6")
    )
    config = STATE / "interop-bird.conf"
    config.write_text(
        "router id 10.79.200.253;\nlog stderr all;\nprotocol device { scan time 1; }\n"
        f'protocol direct {{ ipv4; ipv6; interface "eth0"; }}\n{kernels}{sessions}'
    )
    program = shutil.which("bird") or "/usr/sbin/bird"
    start("interop-bird", [program, "-f", "-c", str(config), "-s", str(STATE / "interop-bird.ctl")], ROUTER)


def gobgp() -> None:
    neighbors = []
    for way in WAYS:
        families = [
            {
                "config": {"afi-safi-name": name},
                "mp-graceful-restart": {"config": {"enabled": True}},
                "add-paths": {"config": {"receive": way.add_path}},
            }
            for name in ("ipv4-unicast", "ipv6-unicast")
        ]
        neighbors.append(
            {
                "config": {
                    "neighbor-address": way.ours,
                    "peer-as": way.our_as,
                    "auth-password": KEY if way.key else "",
                },
                "transport": {"config": {"local-address": way.router, "passive-mode": not way.passive}},
                "timers": {"config": {"connect-retry": 1, "idle-hold-time-after-reset": 1}},
                "graceful-restart": {"config": {"enabled": True, "restart-time": 60}},
                "afi-safis": families,
            }
        )
    config = {
        "global": {"config": {"as": ROUTER_AS, "router-id": "10.79.200.253"}},
        "neighbors": neighbors,
    }
    path = STATE / "interop-gobgp.json"
    path.write_text(json.dumps(config))
    start("interop-gobgpd", ["gobgpd", "-t", "json", "-f", str(path), "--api-hosts", "127.0.0.1:50051"], ROUTER)


ROUTERS = {"FRR": (frr, ["bgpd", "zebra"]), "BIRD": (bird, ["bird"]), "GoBGP": (gobgp, ["gobgpd"])}


def begin(router: str) -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    ROUTERS[router][0]()


def end(router: str) -> None:
    for name in ROUTERS[router][1]:
        stop(f"interop-{name}")


def hops(router: str) -> dict[str, frozenset[str]]:
    """EIP -> next hops: in the kernel, where the router has one; in its table of best paths else."""
    found: dict[str, frozenset[str]] = {}
    for family in ("-4", "-6"):
        if router == "GoBGP":
            table = json.loads(inside(ROUTER, "gobgp", "-j", "global", "rib", "-a", f"ipv{family[1]}"))
            for prefix, paths in table.items():
                nexts = {a["nexthop"] for p in paths for a in p["attrs"] if "nexthop" in a}
                found[prefix.partition("/")[0]] = frozenset(nexts)
            continue
        for route in json.loads(inside(ROUTER, "ip", family, "-j", "route", "show") or "[]"):
            if route.get("protocol") in ("bgp", "bird"):
                nexts = {hop.get("gateway", "") for hop in route.get("nexthops", [route])}
                found[route["dst"]] = frozenset(nexts - {""})
    return found
