"""Links and rules by pyroute2 (its only importer): few, rare, and best left to a library.

pyroute2 brings a loop of its own, so callers on uvloop use a thread.
"""

import socket

from pyroute2 import IPRoute

from porter_ha.model.names import IPVS_LINK, ROUTE_PROTOCOL, ROUTE_TABLE, RULE_PRIORITY

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_RULE = {"priority": RULE_PRIORITY, "table": ROUTE_TABLE}


def ensure_rules() -> int:
    """Make `from all lookup 4790` exist once per family. Returns how many were missing. Raises NetlinkError."""
    missing = 0
    with IPRoute() as kernel:
        for family in _FAMILIES:
            if not _ours(kernel, family):
                kernel.rule("add", family=family, action="to_tbl", protocol=ROUTE_PROTOCOL, **_RULE)
                missing += 1
    return missing


def remove_rules() -> None:
    """Take our rules away, and no other."""
    with IPRoute() as kernel:
        for family in _FAMILIES:
            for _ in _ours(kernel, family):
                kernel.rule("del", family=family, **_RULE)


def _ours(kernel: IPRoute, family: int) -> list[object]:
    return [
        rule
        for rule in kernel.get_rules(family=family)
        if rule.get_attr("FRA_PRIORITY") == RULE_PRIORITY and rule.get_attr("FRA_TABLE") == ROUTE_TABLE
    ]


def loopback() -> int:
    """The index of `lo`."""
    return socket.if_nametoindex("lo")


def ipvs() -> bool:
    """Whether kube-proxy runs in IPVS mode here: then its dummy link makes the EIPs local, and we must not."""
    try:
        socket.if_nametoindex(IPVS_LINK)
    except OSError:
        return False
    return True
