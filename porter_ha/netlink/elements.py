"""Elements of the guard's sets, added and taken away in nf_tables' own messages (linux/netfilter/nf_tables.h).

Tables, chains and rules are libnftables' (nft.py). It reads all that nftables holds before each transaction, which for
one element is most of the work; a batch from here is one system call, and answered before that returns.
"""

import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence

from porter_ha.netlink import wire
from porter_ha.netlink.nft import NftFailed

ADD, DELETE = 10 << 8 | 12, 10 << 8 | 14  # NFNL_SUBSYS_NFTABLES with NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM
AT_ONCE = 1000  # elements of a message: an attribute has a length of 16 bits
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END
_NESTED = 0x8000
_INET = 1  # NFPROTO_INET
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_ELEMENT, _KEY, _VALUE = 1, 1, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE
_BUFFER_FORCE, _NETFILTER = 32, 12  # SO_SNDBUFFORCE, NETLINK_NETFILTER


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, attributes: bytes = b"") -> bytes:
    return wire.message(kind, flags, sequence, struct.pack("=BBH", family, 0, socket.htons(resource)) + attributes)


def messages(kind: int, table: str, keys: Mapping[str, Sequence[bytes]]) -> list[bytes]:
    """A batch that adds or deletes, by set, the elements with these keys. Each message's number is its place."""
    found = [_message(_BEGIN, wire.REQUEST, 0, 0, 10)]
    flags = wire.REQUEST | wire.ACK | (wire.CREATE if kind == ADD else 0)
    for name, wanted in keys.items():
        for start in range(0, len(wanted), AT_ONCE):
            elements = b"".join(
                wire.attr(_ELEMENT | _NESTED, wire.attr(_KEY | _NESTED, wire.attr(_VALUE, key)))
                for key in wanted[start : start + AT_ONCE]
            )
            attributes = (
                wire.attr(_TABLE, table.encode() + b"\0")
                + wire.attr(_SET, name.encode() + b"\0")
                + wire.attr(_ELEMENTS | _NESTED, elements)
            )
            found.append(_message(kind, flags, len(found), _INET, 0, attributes))
    return [*found, _message(_END, wire.REQUEST, len(found), 0, 10)]


def change(kind: int, table: str, keys: Mapping[str, Sequence[bytes]]) -> None:
    """Carry out such a batch: all of it or nothing. Raises NftFailed or OSError."""
    if not any(keys.values()):
        return
    batch = messages(kind, table, keys)
    data = b"".join(batch)
    answered = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, 2 * len(data) + 4096)
        sock.setblocking(False)
        sock.send(data)
        while answered < len(batch) - 2:  # of all but begin and end; the kernel answered before `send` returned
            for reply in wire.replies(sock.recv(1 << 16)):
                if reply.error:
                    what = f"{'adding to' if kind == ADD else 'deleting from'} the sets {', '.join(keys)} of {table}"
                    raise NftFailed(f"{what}: {errno.errorcode.get(reply.error)}: {os.strerror(reply.error)}")
                answered += 1
