"""A small HTTP/1.1 server for GET: what a pod's probes and scrapes need, on the running loop.

Must never: keep a client that says nothing, or one whose request has no end.
"""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools

PATIENCE_S = 75.0  # for a request to come whole, and between two: longer than scrapes are apart
MOST = 16 << 10  # bytes of a request


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes


class _Exchange(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._size = b"", 0
        self._asked: list[tuple[bytes, str, bool]] = []  # method, path, whether more requests may follow
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._answer(Page(400, "text/plain", b"this is no HTTP/1.1 request\n"), more=False)
            return
        if self._size > MOST:
            self._answer(Page(413, "text/plain", b"the request is too long\n"), more=False)
        while self._asked and not self._transport.is_closing():
            self._serve(*self._asked.pop(0))

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_message_complete(self) -> None:
        path = self._target.partition(b"?")[0].decode("latin-1")
        self._asked.append((self._parser.get_method(), path, self._parser.should_keep_alive()))
        self._target, self._size = b"", 0

    def _serve(self, method: bytes, path: str, more: bool) -> None:
        page = self._pages.get(path)
        if page is None:
            found = Page(404, "text/plain", f"there are: {', '.join(self._pages)}\n".encode())
        elif method not in (b"GET", b"HEAD"):
            found = Page(405, "text/plain", b"only GET and HEAD\n")
        else:
            found = page()
        self._answer(found, more=more, bare=method == b"HEAD")

    def _answer(self, page: Page, *, more: bool, bare: bool = False) -> None:
        head = (
            f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\nContent-Type: {page.content_type}\r\n"
            f"Content-Length: {len(page.body)}\r\nConnection: {'keep-alive' if more else 'close'}\r\n\r\n"
        )
        self._transport.write(head.encode("ascii") + (b"" if bare else page.body))
        self._timer.cancel()
        if more:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._transport.abort)
        else:
            self._transport.close()


async def listen(address: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> asyncio.Server:
    """Serve these pages, by path. The caller closes the server. Raises OSError when the port is taken."""
    return await asyncio.get_running_loop().create_server(lambda: _Exchange(pages), address or None, port)
