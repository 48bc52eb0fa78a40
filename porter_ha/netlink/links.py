"""Links of this node, and the process that keeps our rules (rules.py)."""

import asyncio
import socket
import sys

from porter_ha.model.names import IPVS_LINK


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


async def ensure_rules() -> int:
    """Make `from all lookup 4790` exist once per family. Returns how many were missing. Raises OSError."""
    return int(await _rules("ensure"))


async def remove_rules() -> None:
    """Take our rules away, and no other. Raises OSError."""
    await _rules("remove")


async def _rules(word: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "porter_ha.netlink.rules", word),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    if process.returncode:
        raise OSError(f"rules: {complaint.decode('utf-8', 'replace').strip().rpartition(chr(10))[2]}")
    return said.decode()
