"""What we say to nf_tables is what pyroute2 would; and the kernel makes of it what libnftables has it make."""

import os
import subprocess
import sys

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import nft_set_elem_list_msg

from porter_ha.netlink import elements, wire

KEYS = [bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])]


def oracle(kind, flags, sequence, name, key):
    message = nft_set_elem_list_msg()
    message["nfgen_family"] = 1
    message["attrs"] = [
        ("NFTA_SET_ELEM_LIST_TABLE", "porter-ha"),
        ("NFTA_SET_ELEM_LIST_SET", name),
        # one element: of more, pyroute2 numbers each, and the kernel does not look
        ("NFTA_SET_ELEM_LIST_ELEMENTS", [{"attrs": [("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", key)]})]}]),
    ]
    message["header"]["type"], message["header"]["flags"] = kind, flags
    message["header"]["sequence_number"], message["header"]["pid"] = sequence, 0
    message.encode()
    return bytes(message.data)


def plain(message: bytes) -> bytes:
    """Without the marks of nested attributes, which pyroute2 leaves out and the kernel does not ask for."""
    data = bytearray(message)

    def walk(start: int, end: int, depth: int) -> None:
        while start + 4 <= end:
            length = int.from_bytes(data[start : start + 2], sys.byteorder)
            kind = int.from_bytes(data[start + 2 : start + 4], sys.byteorder)
            if kind & 0x8000:
                data[start + 2 : start + 4] = (kind & 0x7FFF).to_bytes(2, sys.byteorder)
                walk(start + 4, start + length, depth + 1)
            start += (length + 3) & ~3

    walk(wire.HEADER.size + 4, len(data), 0)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(elements.ADD, wire.REQUEST | wire.ACK | wire.CREATE), (elements.DELETE, wire.REQUEST | wire.ACK)],
)
def test_bytes_are_those_of_pyroute2(kind, flags):
    _, first, second, _ = elements.messages(kind, "porter-ha", {"eip4": KEYS[:1], "served4": KEYS[1:]})
    assert plain(first) == plain(oracle(kind, flags, 1, "eip4", KEYS[0]))
    assert plain(second) == plain(oracle(kind, flags, 2, "served4", KEYS[1]))


def test_no_message_is_longer_than_an_attribute_can_be():
    many = [i.to_bytes(24, "big") for i in range(2 * elements.AT_ONCE + 1)]
    batch = elements.messages(elements.ADD, "porter-ha", {"served6": many})
    assert len(batch) == 2 + 3
    assert max(len(message) for message in batch) < 1 << 16


IN_A_NAMESPACE = """
import asyncio, subprocess
from porter_ha.core.routes import EMPTY, KernelState
from porter_ha.netlink import guard, nft

def state(first, last):
    eips = [f"10.{n >> 8}.{n & 255}.1" for n in range(first, last)] + [f"fd00::{n:x}" for n in range(first, last)]
    return KernelState(frozenset(eips), frozenset((eip, p, 53) for eip in eips for p in ("tcp", "udp", "sctp")))

def held():
    return subprocess.run(["nft", "list", "table", "inet", "porter-ha"], capture_output=True, text=True).stdout

def refused(step, of):
    before = held()
    try:
        step(of)
    except nft.NftFailed as error:
        assert "No such file" in str(error), error
        assert held() == before, "a part of a batch was carried out"
    else:
        raise AssertionError("carried out")

async def main():
    few, many = state(0, 3), state(0, 1500)
    await nft.apply(guard.whole(few))
    wanted = held()
    await nft.apply(guard.whole(EMPTY))
    empty = held()
    guard.add(few)
    assert held() == wanted
    guard.add(few)  # what is there already is fine
    guard.drop(EMPTY)
    refused(guard.drop, state(2, 5))
    guard.add(many)
    assert held().count(". tcp . 53") == 3000
    guard.drop(many)
    assert held() == empty
    await guard.remove()
    refused(guard.add, few)

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes root")
def test_the_kernel_holds_what_libnftables_would_have_made():
    command = ["unshare", "--net", sys.executable, "-c", IN_A_NAMESPACE]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
