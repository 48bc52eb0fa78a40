"""Traffic from the client's namespace, counted: bounded in number and time, and only to the lab's EIPs.

`fetch` opens a new TCP connection per page and says who served it; `flow` sends a steady stream of both new
connections and UDP packets for a while and says how many were not answered. Prints one JSON object.
"""

import asyncio
import json
import socket
import sys
import time
from collections import Counter

PORT = 80
ANSWER_S = 2.0
LASTING_S = 5.0
ASK_S = 0.1
LASTING = 20
RETRANSMIT_S = 0.9  # a SYN is sent again after 1 s: an answer later than this means that a packet was lost


async def page(source: str, address: str, port: int = PORT) -> str:
    """The name of the server that answered. Raises OSError or TimeoutError."""
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(address, port, local_addr=(source, 0))
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
            answer = await reader.read(4096)
            return answer.rpartition(b"\r\n\r\n")[2].split(b" ")[0].decode()
        finally:
            writer.close()


async def fetch(source: str, address: str, count: int, port: int = PORT) -> dict[str, object]:
    served: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for _ in range(count):
        try:
            served[await page(source, address, port)] += 1
        except (OSError, TimeoutError) as error:
            errors[type(error).__name__] += 1
    return {"served": dict(served), "errors": dict(errors)}


class _Flow(asyncio.DatagramProtocol):
    """UDP: numbered packets out, the numbers that came back in."""

    def __init__(self) -> None:
        self.answered: dict[int, float] = {}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.answered.setdefault(int(data.split(b" ", 1)[0]), time.time())

    def error_received(self, exc: Exception) -> None:
        pass  # refused: counted as unanswered


class Lasting:
    """A long-lived TCP connection that asks for a page every ASK_S: from which port, who served it, when it broke."""

    def __init__(self) -> None:
        self.port = 0
        self.server = ""
        self.broken_at: float | None = None

    async def run(self, source: str, address: str, started: float, seconds: float) -> None:
        end = time.time() + seconds
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(address, PORT, local_addr=(source, 0))
            self.port = writer.get_extra_info("sockname")[1]
            while time.time() < end:
                writer.write(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
                async with asyncio.timeout(LASTING_S):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    self.server = head.rpartition("Served-By: ")[2].partition("\r\n")[0]
                    await reader.readexactly(int(head.partition("Content-Length: ")[2].partition("\r\n")[0]))
                await asyncio.sleep(ASK_S)
            writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.broken_at = round(time.time() - started, 3)


async def flow(source: str, address: str, seconds: float, tcp_per_s: float, udp_per_s: float) -> dict[str, object]:
    """Steady traffic; what was lost, and when (Unix seconds of sending)."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flows = []
    for _ in range(16):  # 16 flows, so that the router's hash spreads them over next hops
        transport, protocol = await loop.create_datagram_endpoint(
            _Flow, local_addr=(source, 0), remote_addr=(address, PORT), family=family
        )
        flows.append((transport, protocol))
    started, end = time.time(), loop.time() + seconds
    sent: list[float] = []
    lost_pages: list[float] = []
    slow = served = 0

    async def one_page() -> None:
        nonlocal slow, served
        begun, began = time.time(), loop.time()
        try:
            await page(source, address)
            served += 1
            slow += loop.time() - began > RETRANSMIT_S
        except (OSError, TimeoutError):
            lost_pages.append(round(begun - started, 3))

    async def pages() -> None:
        async with asyncio.TaskGroup() as group:
            due = loop.time()
            while loop.time() < end:
                group.create_task(one_page())
                due += 1 / tcp_per_s
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def packets() -> None:
        due = loop.time()
        while loop.time() < end:
            flows[len(sent) % len(flows)][0].sendto(str(len(sent)).encode())
            sent.append(time.time() - started)
            due += 1 / udp_per_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    lasting = [Lasting() for _ in range(LASTING)]
    await asyncio.gather(pages(), packets(), *(one.run(source, address, started, seconds) for one in lasting))
    await asyncio.sleep(0.5)
    answered: set[int] = set()
    for transport, protocol in flows:
        answered |= protocol.answered.keys()
        transport.close()
    missing = [round(at, 3) for number, at in enumerate(sent) if number not in answered]
    return {
        "pages": served + len(lost_pages),
        "pages_lost": len(lost_pages),
        "pages_slow": slow,
        "packets": len(sent),
        "packets_lost": len(missing),
        "lost_at": sorted(lost_pages + missing)[:2000],
        "lasting": [[one.port, one.server, one.broken_at] for one in lasting],
        "started": started,
    }


def main() -> None:
    kind, source, address, *numbers = sys.argv[1:]
    work = (
        fetch(source, address, int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else PORT)
        if kind == "fetch"
        else flow(source, address, *(float(n) for n in numbers))
    )
    print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
