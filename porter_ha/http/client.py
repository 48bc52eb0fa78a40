"""Connections to one HTTP/1.1 server: kept alive, one request at a time on each (RFC 9112, no pipelining).

A connection that saw anything but one whole answer is closed and never used again. A stream is read when its reader
asks for more, and not before: until then what comes waits in the kernel, and wakes nobody.

Must never: send a request twice; hand a part of an answer on as if it were all of it.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import httptools

IDLE_S = 60.0  # less than the 90 s after which Go's servers close what is idle: not to write into a closing connection

T = TypeVar("T")


class Broken(Exception):
    """There is no connection, or it ended or spoke no HTTP before the answer was whole: why."""


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> str:
        """Its value, or nothing. Names are compared without case."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), "")


class _Connection(asyncio.Protocol):
    """The parser's callbacks fill it; whoever waits is woken when there is a head, a part of a body, or an end."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.usable = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.whole = True  # no answer is on its way
        self._parts: list[bytes] = []
        self._streaming = self._paused = False
        self._failure: Broken | None = None
        self._news: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.usable = cast(asyncio.Transport, transport), True
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        read_ahead = getattr(transport, "set_read_buffer_limits", None)
        if read_ahead is not None:  # TLS, which would go on reading for its own buffer
            read_ahead(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        if self.whole:
            self._fail("it spoke without being asked")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"it does not speak HTTP: {error}")
        else:
            if self.whole or self._parts:
                self._tell()
            if self._streaming and self._parts and not self.whole and not self._paused:
                self._paused = True
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc or "") or "the connection ended")

    # -- the parser's side

    def on_message_begin(self) -> None:
        if self.whole:
            raise ValueError("a second answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._tell()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # "go on" (100) and its like come before the answer
            self.status, self.headers = 0, []
            return
        self.whole = True
        self.usable = self.usable and self._parser.should_keep_alive()

    # -- whoever asks

    def ask(self, request: bytes, *, streaming: bool = False) -> None:
        self._take()  # what nobody read of the answer before
        self.status, self.headers, self.whole, self._streaming = 0, [], False, streaming
        self._transport.write(request)

    async def head(self) -> int:
        """The status, once it is there. Raises Broken."""
        while not self.status:
            await self._wait()
        return self.status

    async def rest(self) -> bytes:
        """All of the body. Raises Broken."""
        while not self.whole:
            await self._wait()
        return self._take()

    async def part(self, patience_s: float) -> bytes:
        """What of the body has come; nothing at its end. Raises Broken, also when nothing comes for so long."""
        if not self._parts and not self.whole:
            if self._paused and not self._transport.is_closing():
                self._paused = False
                self._transport.resume_reading()
            timer = asyncio.get_running_loop().call_later(patience_s, self.give_up)
            try:
                while not self._parts and not self.whole:
                    await self._wait()
            finally:
                timer.cancel()
        return self._take()

    def give_up(self) -> None:
        """Whoever waits is told that it took too long. For timers: they cost half of what asyncio.timeout does."""
        self._fail("nothing came in time")

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def _take(self) -> bytes:
        taken = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        return taken

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _fail(self, why: str) -> None:
        self.usable = False
        self._failure = self._failure or Broken(why)
        self._transport.abort()
        self._tell()


class Pool:
    """At most `limit` connections at a time to the server of a URL; whoever wants one more waits. `timeout_s` is for a
    connection to be made, and for an answer."""

    def __init__(self, url: str, limit: int, tls: ssl.SSLContext | None = None, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._tls, self._timeout_s = tls, timeout_s
        self._base, self._authority = parts.path.rstrip("/"), parts.netloc.rpartition("@")[2]
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[_Connection] = []  # the one that was used last is the last
        self._closed = False

    async def close(self) -> None:
        """Those that are in use are closed by whoever uses them."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)  # the loop's turn: to close their sockets

    async def exchange(
        self, method: str, target: str, headers: str = "", body: bytes | None = None, timeout_s: float | None = None
    ) -> Answer:
        """One request; `headers` are whole lines. Raises Broken: whether it was carried out is unknown then."""
        request = self._request(method, target, headers, body)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (timeout_s or self._timeout_s)
        connection = await self._connection(deadline)
        timer = loop.call_at(deadline, connection.give_up)
        try:
            connection.ask(request)
            return Answer(await connection.head(), connection.headers, await connection.rest())
        finally:
            timer.cancel()
            self._leave(connection)

    @asynccontextmanager
    async def stream(
        self, target: str, headers: str, patience_s: float
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A GET whose body is read as it comes: its status, and the parts of the body. Raises Broken, also when nothing
        comes for `patience_s`."""
        request = self._request("GET", target, headers, None)
        loop = asyncio.get_running_loop()
        connection = await self._connection(loop.time() + self._timeout_s)
        try:
            connection.ask(request, streaming=True)
            timer = loop.call_later(patience_s, connection.give_up)
            try:
                status = await connection.head()
            finally:
                timer.cancel()
            yield status, _parts(connection, patience_s)
        finally:
            self._leave(connection)

    def _request(self, method: str, target: str, headers: str, body: bytes | None) -> bytes:
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {self._base}{target} HTTP/1.1\r\nHost: {self._authority}\r\n{headers}{length}\r\n"
        if not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError(f"{target!r} is no target of a request: it must be printable ASCII without blanks")
        return head.encode("latin-1") + (body or b"")

    async def _connection(self, deadline: float) -> _Connection:
        """One to use, and then to leave."""
        loop = asyncio.get_running_loop()
        if self._slots.locked():
            await self._in_time(self._slots.acquire(), deadline, "all connections are in use")
        else:
            await self._slots.acquire()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and loop.time() - connection.idle_since < IDLE_S:
                return connection
            connection.close()
        tls = self._tls if self._secure else None
        try:
            made = loop.create_connection(_Connection, self._host, self._port, ssl=tls)
            return (await self._in_time(made, deadline, "no answer in time"))[1]
        except BaseException:
            self._slots.release()
            raise

    async def _in_time(self, work: Awaitable[T], deadline: float, else_why: str) -> T:
        try:
            async with asyncio.timeout_at(deadline):
                return await work
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            raise Broken(f"no connection to {self._authority}: {str(error) or else_why}") from error

    def _leave(self, connection: _Connection) -> None:
        self._slots.release()
        if connection.usable and connection.whole and not self._closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()


async def _parts(connection: _Connection, patience_s: float) -> AsyncIterator[bytes]:
    while part := await connection.part(patience_s):
        yield part
