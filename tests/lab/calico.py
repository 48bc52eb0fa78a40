"""Another BGP speaker on the nodes, as Calico's BIRD is: it holds port 179 and has sessions of its own."""

import re
import shutil

from tests.lab.shell import STATE, inside, run, start, stop, until
from tests.lab.topology import NODES, OUR_AS, ROUTER_AS, lan

OWN_TABLES = ("inet porter-ha", "inet porter-ha-bgp")


def start_bird(node: str, *, with_router: bool = False) -> None:
    """A mesh with the other nodes (as Calico has it by default), and a session with router1 if it is Calico's peer."""
    ours = lan(node)[0]
    sessions = "".join(
        f"protocol bgp mesh{other[-1]} {{ local {ours} as 64512; neighbor {lan(other)[0]} as 64512;\n"
        f"  graceful restart on; ipv4 {{ import all; export none; }}; }}\n"
        for other in NODES
        if other != node
    )
    if with_router:
        sessions += (
            f"protocol bgp rack {{ local {ours} as {OUR_AS}; neighbor {lan('router1')[0]} as {ROUTER_AS};\n"
            "  graceful restart on; ipv4 { import none; export none; }; }\n"
        )
    config = STATE / f"calico-{node}.conf"
    config.write_text(f"router id {ours};\nlog stderr all;\nprotocol device {{ }}\n{sessions}")
    bird = shutil.which("bird") or "/usr/sbin/bird"
    start(f"{node}-calico", [bird, "-f", "-c", str(config), "-s", str(STATE / f"calico-{node}.ctl")], node)


def stop_bird(node: str) -> None:
    stop(f"{node}-calico")


Sessions = dict[str, dict[str, float]]


def sessions(node: str) -> dict[str, float]:
    """Its sessions that are up -> since when, in seconds of the day."""
    said = run("birdc", "-s", str(STATE / f"calico-{node}.ctl"), "show protocols")
    lines = [line.split() for line in said.splitlines()]
    up = {fields[0]: fields[4].split(":") for fields in lines if len(fields) > 5 and fields[5] == "Established"}
    return {name: int(hours) * 3600 + int(minutes) * 60 + float(rest) for name, (hours, minutes, rest) in up.items()}


def disturbed(before: Sessions) -> list[tuple[str, str]]:
    """(node, session) of those that are not the ones they were. BIRD tells the same time a millisecond apart."""
    now = {node: sessions(node) for node in before}
    return [
        (node, name)
        for node, known in before.items()
        for name in sorted(known.keys() | now[node].keys())
        if abs(known.get(name, -1.0) - now[node].get(name, -1.0)) > 0.1
    ]


def wait_sessions(count: int) -> None:
    """Until every node's BIRD has so many."""
    for node in NODES:

        def so(node: str = node) -> bool:
            return len(sessions(node)) == count

        until(f"Calico's {count} sessions on {node}", so, 30)


def everything_of_others(node: str) -> str:
    """Rules, routes and nftables of the node, but for what is ours: to be the same before and after."""
    ruleset = inside(node, "nft", "-s", "list", "ruleset")
    for table in OWN_TABLES:
        ruleset = re.sub(rf"table {table} \{{.*?\n\}}\n?", "", ruleset, flags=re.S)
    asked = [["rule", "show"], ["route", "show", "table", "all"]]
    kept = [inside(node, "ip", family, *words) for family in ("-4", "-6") for words in asked]
    return "\n".join([ruleset, *kept])
