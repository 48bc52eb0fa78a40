"""TCP for BGP: dialling with the TTL and the MD5 key that the peer wants (RFC 2385).

Blocking calls are only socket options; connecting is the loop's.
"""

import array
import asyncio
import fcntl
import socket
import struct
from collections.abc import Callable

from porter_ha.model.net import V4, family_of, packed
from porter_ha.model.plan import PeerSettings

TCP_MD5SIG = 14
SIOCOUTQ = 0x5411  # linux/sockios.h
_MAX_KEY = 80
CONNECT_TIMEOUT_S = 5.0


def md5_option(address: str, key: str) -> bytes:
    """struct tcp_md5sig of linux/tcp.h. Raises ValueError for a key that the kernel would refuse."""
    raw = key.encode()
    if len(raw) > _MAX_KEY:
        raise ValueError(f"spec.conf.authPassword has {len(raw)} bytes; TCP MD5 takes at most {_MAX_KEY}")
    if family_of(address) == V4:
        endpoint = struct.pack("=H2x4s120x", socket.AF_INET, packed(address))
    else:
        endpoint = struct.pack("=H2xI16sI100x", socket.AF_INET6, 0, packed(address), 0)
    return endpoint + struct.pack("=BBHi80s", 0, 0, len(raw), 0, raw)


def prepare(settings: PeerSettings) -> socket.socket:
    """A socket that is ready to be connected to the peer. Raises OSError or ValueError."""
    v4 = family_of(settings.address) == V4
    sock = socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if v4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, settings.ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xC0)  # CS6: routing protocols' own class
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, settings.ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xC0)
        if settings.password:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5_option(settings.address, settings.password))
    except (OSError, ValueError):
        sock.close()
        raise
    return sock


async def dial(settings: PeerSettings, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Connect `protocol` to the peer. Raises OSError, or ValueError for a key that cannot be used."""
    sock = prepare(settings)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (settings.address, settings.port))
        await loop.create_connection(protocol, sock=sock)
    except BaseException:
        sock.close()
        raise


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the other end's TCP has not confirmed: in our buffer, and in the kernel's send queue."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        queued = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), SIOCOUTQ, queued)
        waiting += queued[0]
    return waiting
