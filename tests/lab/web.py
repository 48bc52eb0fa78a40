"""The web server that runs in a pod: says who it is, over TCP (HTTP) and UDP, IPv4 and IPv6, on port 8080."""

import asyncio
import sys
from typing import cast

PORT = 8080


class Echo(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data + b" " + self._name.encode(), addr)


async def main(name: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                client = writer.get_extra_info("peername")[0]
                body = f"{name} sees {client}\n".encode()
                close = b"connection: close" in request.lower()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nServed-By: {name}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Echo(name), local_addr=("::", PORT))
    server = await asyncio.start_server(answer, None, PORT, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
