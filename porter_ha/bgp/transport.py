"""TCP for BGP: dialling and listening with the TTL (RFC 5082), source address and MD5 key (RFC 2385) of each peer.

In the loop only socket options block; connecting is the loop's, and the kernel's table is read beside it.
"""

import array
import asyncio
import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from porter_ha.model.net import V4, family_of, packed
from porter_ha.model.plan import PeerSettings

TCP_MD5SIG, IP_MINTTL, IPV6_MINHOPCOUNT = 14, 21, 73  # linux/tcp.h, in.h, in6.h
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


def _is_v4(address: str) -> bool:
    return family_of(address) == V4


def dress(sock: socket.socket, settings: PeerSettings) -> None:
    """What packets to the peer look like, and what its must. Raises OSError."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _is_v4(settings.address):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, settings.ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xC0)  # CS6: routing protocols' own class
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, settings.min_ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, settings.ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xC0)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, settings.min_ttl)


def set_key(sock: socket.socket, address: str, key: str) -> None:
    """The TCP MD5 key of segments from and to the address; none any more when empty. Raises OSError or ValueError."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5_option(address, key))


def _bind(sock: socket.socket, sources: tuple[str, ...]) -> None:
    """To the first of these that this machine has. Raises ValueError when it has none."""
    for source in sources:
        try:
            sock.bind((source, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
        else:
            return
    if sources:
        raise ValueError(f"spec.sourceAddresses: this node has none of {', '.join(sources)}; give one per node")


def prepare(settings: PeerSettings) -> socket.socket:
    """A socket that is ready to be connected to the peer. Raises OSError or ValueError."""
    sock = socket.socket(socket.AF_INET if _is_v4(settings.address) else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        dress(sock, settings)
        if settings.password:
            set_key(sock, settings.address, settings.password)
        _bind(sock, settings.sources)
    except (OSError, ValueError):
        sock.close()
        raise
    return sock


class Engaged(OSError):
    """The router has a session with this address of ours already: another BGP speaker's, such as Calico's."""


def _local_address(settings: PeerSettings) -> str:
    """Where we would talk from, without talking."""
    with socket.socket(socket.AF_INET if _is_v4(settings.address) else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        _bind(probe, settings.sources)
        probe.connect((settings.address, settings.port))
        return str(probe.getsockname()[0])


def _proc_form(address: str) -> str:
    """An address as /proc/net/tcp has it: hexadecimal, each 32-bit word in the machine's byte order (proc_net_tcp)."""
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed(address)))


def check_free(settings: PeerSettings) -> None:
    """Whether the router would take a call of ours for one of somebody else on this node. One that agreed on graceful
    restart with them would end their session for it (RFC 4724 section 5). Raises Engaged."""
    local = _local_address(settings)
    table = Path("/proc/net/tcp" if _is_v4(settings.address) else "/proc/net/tcp6")
    ours, theirs, port = _proc_form(local), _proc_form(settings.address), f"{settings.port:04X}"
    for line in table.read_text(encoding="ascii").splitlines()[1:]:
        (here, here_port), (there, there_port), state = *(w.split(":") for w in line.split()[1:3]), line.split()[3]
        if (here, there, state) == (ours, theirs, "01") and port in (here_port, there_port):
            raise Engaged(
                f"another BGP speaker of this node, such as Calico's, has a session with {settings.address} from "
                f"{local}; give spec.sourceAddresses, one address of our own per node"
            )


async def dial(settings: PeerSettings, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Connect `protocol` to the peer. Raises OSError, or ValueError for a key or address that cannot be used."""
    await asyncio.to_thread(check_free, settings)  # a busy node has a long table
    sock = prepare(settings)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (settings.address, settings.port))
        await loop.create_connection(protocol, sock=sock)
    except BaseException:
        sock.close()
        raise


def listen(address: str, port: int) -> socket.socket:
    """A socket that routers can dial. Raises OSError. Its own packets have the greatest TTL, which any router takes
    (RFC 5082); keys are set one by one (`set_key`)."""
    v4 = _is_v4(address)
    sock = socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if v4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        sock.bind((address, port))
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    return sock


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the other end's TCP has not confirmed: in our buffer, and in the kernel's send queue."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        queued = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), SIOCOUTQ, queued)
        waiting += queued[0]
    return waiting
