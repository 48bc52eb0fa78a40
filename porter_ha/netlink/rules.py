"""The two rules of ours, by pyroute2 (its only importer): rare, and best left to a library.

Run as a process that ends at once, because the library is as large as the rest of the agent. `ensure` prints how many
were missing.
"""

import socket
import sys

from pyroute2 import IPRoute

from porter_ha.model.names import ROUTE_PROTOCOL, ROUTE_TABLE, RULE_PRIORITY

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


if __name__ == "__main__":
    if sys.argv[1] == "ensure":
        print(ensure_rules())
    else:
        remove_rules()
