"""The DNAT of the BGP port: what a router sends to port 179 of this node reaches the port where we listen.

For nodes on which port 179 is somebody else's, such as Calico's BIRD, and routers that can dial no other port (Porter's
usingPortForward). It is an nftables table of our own, so nothing of others is touched (I7), and only packets from that
router, where given only to an address of our own, are redirected: sessions of others with other routers never match.

What this module says is text for nft.py, one transaction at a time: all or nothing.
"""

from collections.abc import Collection

from porter_ha.model.names import REDIRECT_TABLE
from porter_ha.model.net import V4, family_of
from porter_ha.model.plan import Redirect
from porter_ha.netlink import nft

_EMPTY = f"table inet {REDIRECT_TABLE}\ndelete table inet {REDIRECT_TABLE}\n"


def whole(redirects: Collection[Redirect]) -> str:
    """The transaction that makes the table be exactly this, whatever it was; without any there is no table."""
    if not redirects:
        return _EMPTY
    rules = "".join(f"    {_rule(one)}\n" for one in redirects)
    chain = f"  chain prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n{rules}  }}\n"
    return f"{_EMPTY}table inet {REDIRECT_TABLE} {{\n{chain}}}\n"


def _rule(one: Redirect) -> str:
    family = "ip" if family_of(one.router) == V4 else "ip6"
    to = f"{family} daddr {{ {', '.join(one.to)} }} " if one.to else "fib daddr type local "
    return f"{family} saddr {one.router} {to}tcp dport {one.port} redirect to :{one.listening}"


async def apply(redirects: Collection[Redirect]) -> None:
    """Exactly these. Raises nft.NftFailed, or OSError where there is no libnftables."""
    await nft.apply(whole(redirects))
