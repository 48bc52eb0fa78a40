"""The guard: our own nftables table, which keeps a local EIP from opening the node itself (design 2.5).

It sits right after kube-proxy's DNAT (prerouting, priority -90; in the input hook IPv4 UDP hangs). What was
translated passes, for it no longer carries the EIP. Of what still does: a served port is dropped (kube-proxy is about
to serve it, the client retries); ICMP errors pass; anything else is refused at once, echo requests too: Linux sends
an IPv4 echo reply only from addresses in its table `local`, which is not ours to write (docs/adr/0002).

A chain before kube-proxy's DNAT gives strays a second chance (docs/adr/0010): a TCP segment in the middle of a
connection that this node does not know came here because a router's next hops were changing, and a reset would end the
connection. For YOUNG_MS such segments are dropped; the sender repeats them and mostly finds its own node again. What
still arrives here after that is let through, to be reset.

The whole of it is text for nft.py, changes of it are elements (elements.py); one transaction at a time, all or nothing.
"""

import socket
import struct
from collections.abc import Iterable

from porter_ha.core.routes import KernelState, Served
from porter_ha.model.names import NFT_TABLE
from porter_ha.model.net import family_of, packed
from porter_ha.netlink import elements, nft

PRIORITY = -90
BEFORE_DNAT = -150  # after connection tracking
YOUNG_MS = 150  # less than the 200 ms after which TCP sends again at the earliest (RFC 6298 as Linux does it)
STRAY_MS = 5000
STRAYS = 65536  # when so many are known, further ones are let through
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_SERVED = struct.Struct("!B3xH2x")
_CHAINS = f"""
  chain strays {{
    type filter hook prerouting priority {BEFORE_DNAT}; policy accept;
    ct state new tcp flags & (syn | rst) == 0x0 jump stray
  }}
  chain stray {{
    ip daddr != @eip4 return
    ip daddr . ip saddr . tcp sport @young4 drop
    ip daddr . ip saddr . tcp sport @stray4 return
    add @stray4 {{ ip daddr . ip saddr . tcp sport }} add @young4 {{ ip daddr . ip saddr . tcp sport }} drop
    ip6 daddr != @eip6 return
    ip6 daddr . ip6 saddr . tcp sport @young6 drop
    ip6 daddr . ip6 saddr . tcp sport @stray6 return
    add @stray6 {{ ip6 daddr . ip6 saddr . tcp sport }} add @young6 {{ ip6 daddr . ip6 saddr . tcp sport }} drop
  }}
  chain prerouting {{
    type filter hook prerouting priority {PRIORITY}; policy accept;
    ip daddr @eip4 jump guard
    ip6 daddr @eip6 jump guard
  }}
  chain guard {{
    icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
    ip daddr . meta l4proto . th dport @served4 drop
    ip6 daddr . meta l4proto . th dport @served6 drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }}
"""


def _members(state: KernelState) -> dict[str, list[tuple[str] | Served]]:
    """What is in the sets, by name; those that allow come first."""
    members: dict[str, list[tuple[str] | Served]] = {"served4": [], "served6": [], "eip4": [], "eip6": []}
    for eip in sorted(state.eips):
        members[f"eip{family_of(eip)}"].append((eip,))
    for served in sorted(state.served):
        members[f"served{family_of(served[0])}"].append(served)
    return {name: found for name, found in members.items() if found}


def _lines(state: KernelState) -> Iterable[str]:
    for name, members in _members(state).items():
        texts = (" . ".join(map(str, member)) for member in members)
        yield f"add element inet {NFT_TABLE} {name} {{ {', '.join(texts)} }}"


def whole(state: KernelState) -> str:
    """The transaction that makes the table be exactly this, whatever it was."""
    sets = "".join(
        f"  set eip{f} {{ type ipv{f}_addr; }}\n  set served{f} {{ type ipv{f}_addr . inet_proto . inet_service; }}\n"
        + "".join(
            f"  set {name}{f} {{ type ipv{f}_addr . ipv{f}_addr . inet_service; flags dynamic,timeout; "
            f"timeout {ms}ms; size {STRAYS}; }}\n"
            for name, ms in (("young", YOUNG_MS), ("stray", STRAY_MS))
        )
        for f in (4, 6)
    )
    fresh = f"table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\ntable inet {NFT_TABLE} {{\n{sets}{_CHAINS}}}\n"
    return fresh + "\n".join(_lines(state))


def _key(member: tuple[str] | Served) -> bytes:
    """As the kernel has it: what is joined is padded to four bytes each."""
    if len(member) == 1:
        return packed(member[0])
    eip, protocol, port = member
    return packed(eip) + _SERVED.pack(_PROTOCOLS[protocol], port)


def _keys(state: KernelState) -> dict[str, list[bytes]]:
    return {name: [_key(member) for member in members] for name, members in _members(state).items()}


def add(state: KernelState) -> None:
    """Guard these too: all of them or none. Raises nft.NftFailed or OSError."""
    elements.change(elements.ADD, NFT_TABLE, _keys(state))


def drop(state: KernelState) -> None:
    """Guard these no longer. Raises nft.NftFailed or OSError."""
    elements.change(elements.DELETE, NFT_TABLE, _keys(state))


async def remove() -> None:
    """Take our table away, and no other."""
    await nft.apply(f"table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n")
