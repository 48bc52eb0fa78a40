"""Our HTTP against somebody else's: the client asks aiohttp and servers that misbehave, aiohttp asks the server."""

import asyncio
import re
import ssl
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from porter_ha.http import client as http_client
from porter_ha.http import server as http_server
from porter_ha.http.client import Broken, Pool
from porter_ha.http.server import Page, listen

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = b"x" * (3 << 20)  # more than is read at once


class Scripted:
    """A server that says what a test tells it to, once a request has come. `heard` has the requests, by connection."""

    def __init__(self, *said: bytes, close: bool = False) -> None:
        self.said, self.close, self.heard, self.ended = said, close, [], asyncio.Event()

    async def serve(self, reader, writer):
        self.heard.append(heard := [])
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                heard.append(head)
                for part in self.said:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended.set()
            writer.close()

    @asynccontextmanager
    async def running(self, limit: int = 4):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", limit)
        try:
            yield pool
        finally:
            await pool.close()
            server.close()


def ask(*said: bytes, close: bool = False, times: int = 1):
    """What the client makes of it: (answers, the requests of each connection)."""

    async def work():
        scripted = Scripted(*said, close=close)
        async with scripted.running() as pool, asyncio.timeout(5):
            answers = [await pool.exchange("PATCH", "/a?b=c", "X-One: 1\r\n", b"body") for _ in range(times)]
        return answers, scripted.heard

    return asyncio.run(work())


def test_a_request_is_what_the_server_hears():
    (answer,), [[heard]] = ask(ANSWER)
    assert heard.startswith(b"PATCH /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heard.endswith(b"\r\nX-One: 1\r\nContent-Length: 4\r\n\r\n")
    assert (answer.status, answer.header(b"content-length"), answer.body) == (200, "2", b"ok")


def test_an_answer_that_comes_in_pieces_is_one():
    chunked = (b"HTTP/1.1 200 OK\r\nTransfer-Enc", b"oding: chunked\r\n\r\n2\r\na", b"b\r\n1\r\nc\r\n", b"0\r\n\r\n")
    (answer,), _ = ask(*chunked)
    assert answer.body == b"abc"


def test_an_answer_larger_than_what_is_read_at_once_is_whole_and_its_connection_is_used_again():
    answers, heard = ask(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE), LARGE, times=2)
    assert [answer.body == LARGE for answer in answers] == [True, True]
    assert len(heard) == 1


def test_connections_are_kept_and_those_that_end_are_not():
    assert [len(one) for one in ask(ANSWER, times=3)[1]] == [3]
    assert [len(one) for one in ask(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + ANSWER[17:], times=3)[1]] == [1, 1, 1]


def test_a_go_on_is_not_the_answer():
    (answer,), _ = ask(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 409 Conflict\r\nRetry-After: 3\r\n" + ANSWER[17:])
    assert (answer.status, answer.header(b"retry-after"), answer.body) == (409, "3", b"ok")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((), "the connection ended"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",), "the connection ended"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",), "the connection ended"),
        ((b"HTTP/1.1 200 OK\r\n\r\nuntil the end",), "the connection ended"),
        ((b"SSH-2.0-OpenSSH_9.9\r\n",), "does not speak HTTP"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",), "does not speak HTTP"),
    ],
)
def test_a_part_of_an_answer_is_none(said, why):
    with pytest.raises(Broken, match=why):
        ask(*said, close=True)


def test_who_answers_twice_is_not_asked_again():
    answers, heard = ask(ANSWER + ANSWER, times=2)
    assert [answer.body for answer in answers] == [b"ok", b"ok"]
    assert [len(one) for one in heard] == [1, 1]


def test_no_request_is_smuggled_into_another():
    for target in ("/a b", "/a\r\nX: y", "/ä"):
        with pytest.raises(ValueError, match="no target of a request"):
            asyncio.run(Pool("http://127.0.0.1:9", 1).exchange("GET", target))


def test_no_more_connections_than_allowed():
    async def work():
        scripted = Scripted(ANSWER)
        async with scripted.running(limit=2) as pool, asyncio.timeout(5), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(pool.exchange("GET", "/"))
        return [len(one) for one in scripted.heard]

    requests = asyncio.run(work())
    assert len(requests) == 2
    assert sum(requests) == 20


def test_a_request_that_is_given_up_ends_its_connection():
    async def work():
        scripted = Scripted()  # never answers
        async with scripted.running() as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.exchange("GET", "/")
            async with asyncio.timeout(5):
                await scripted.ended.wait()

    asyncio.run(work())


def test_an_answer_that_does_not_come_in_time_is_none():
    async def work(limit):
        scripted = Scripted()  # never answers
        async with scripted.running(limit) as pool:
            await asyncio.gather(pool.exchange("GET", "/", timeout_s=5), pool.exchange("GET", "/", timeout_s=0.05))

    with pytest.raises(Broken, match="nothing came in time"):
        asyncio.run(work(limit=2))
    with pytest.raises(Broken, match="all connections are in use"):
        asyncio.run(work(limit=1))


def test_nobody_there():
    with pytest.raises(Broken, match=r"no connection to 127\.0\.0\.1:1: "):
        asyncio.run(Pool("http://127.0.0.1:1", 1).exchange("GET", "/"))


def test_a_server_without_tls_is_not_asked_over_it():
    async def work():
        scripted = Scripted(ANSWER)
        async with scripted.running() as pool:
            secure = Pool(f"https://127.0.0.1:{pool._port}", 1, ssl.create_default_context(), timeout_s=0.2)
            await secure.exchange("GET", "/")

    with pytest.raises(Broken, match=r"no connection to .*: no answer in time"):
        asyncio.run(work())


def test_a_stream_is_read_as_it_comes_and_no_faster_than_it_is_taken():
    async def work():
        sent = 0

        async def flood(request):
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(256):
                await response.write(b"y" * (1 << 16))
                sent += 1 << 16
            return response

        app = web.Application()
        app.router.add_get("/flood", flood)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pool = Pool(f"http://127.0.0.1:{runner.addresses[0][1]}", 1)
        async with pool.stream("/flood", "", 5) as (status, parts):
            before = -1
            while before != sent:  # until the server, too, is held up
                before = sent
                await asyncio.sleep(0.1)
            read = 0
            async for part in parts:
                read += len(part)
        again = (await pool.exchange("GET", "/none")).status  # the one connection is free again
        await pool.close()
        await runner.cleanup()
        return status, before, read, again

    status, held_at, read, again = asyncio.run(work())
    assert (status, read, again) == (200, 1 << 24, 404)
    assert held_at < 1 << 24


def test_what_nobody_read_of_a_stream_is_no_part_of_the_next_answer():
    async def work():
        scripted = Scripted(ANSWER)
        async with scripted.running() as pool:
            async with pool.stream("/", "", 5) as (status, _):
                await asyncio.sleep(0.05)
            return status, (await pool.exchange("GET", "/")).body, len(scripted.heard)

    assert asyncio.run(work()) == (200, b"ok", 1)


def test_a_stream_that_says_nothing_is_given_up_and_one_that_is_torn_says_so():
    async def work(*said, close):
        scripted = Scripted(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *said, close=close)
        async with scripted.running() as pool, pool.stream("/", "", 0.2) as (_, parts):
            return [part async for part in parts]

    with pytest.raises(Broken, match="nothing came in time"):
        asyncio.run(work(b"2\r\nab\r\n", close=False))
    with pytest.raises(Broken, match="the connection ended"):
        asyncio.run(work(b"2\r\nab\r\n", close=True))
    assert b"".join(asyncio.run(work(b"2\r\nab\r\n", b"0\r\n\r\n", close=False))) == b"ab"


def test_what_lay_idle_for_long_is_not_used_again(monkeypatch):
    monkeypatch.setattr(http_client, "IDLE_S", 0.0)
    assert [len(one) for one in ask(ANSWER, times=2)[1]] == [1, 1]


# --- the server ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pages():
    def broken():
        raise RuntimeError("a page that cannot be made")

    found = {"/good": lambda: Page(200, "text/plain", b"good\n"), "/broken": broken}
    server = await listen("127.0.0.1", 0, found)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def raw(where: str, data: bytes) -> bytes:
    host, _, port = where.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_pages_are_served_on_one_connection():
    async def work():
        connector = aiohttp.TCPConnector(limit=1)
        async with pages() as where, aiohttp.ClientSession(connector=connector) as session:
            found = []
            for asked in ("GET /good", "GET /good?x=1", "HEAD /good", "POST /good", "GET /"):
                method, _, path = asked.partition(" ")
                async with session.request(method, f"http://{where}{path}") as response:
                    body = await response.read()
                    found.append((response.status, body, response.headers["Connection"]))
        return found

    assert asyncio.run(work()) == [
        (200, b"good\n", "keep-alive"),
        (200, b"good\n", "keep-alive"),
        (200, b"", "keep-alive"),
        (405, b"only GET and HEAD\n", "keep-alive"),
        (404, b"there are: /good, /broken\n", "keep-alive"),
    ]


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (b"GET /good HTTP/1.1\r\nConnection: close\r\n\r\n", [b"200"]),
        (b"GET /good HTTP/1.1\r\n\r\nGET /no HTTP/1.1\r\nConnection: close\r\n\r\n", [b"200", b"404"]),
        (b"GET /good HTTP/1.0\r\n\r\n", [b"200"]),
        (b"\x16\x03\x01 hello\r\n\r\n", [b"400"]),
        (b"GET /good HTTP/1.1\r\nX: " + b"x" * (17 << 10), [b"413"]),
        (b"GET /broken HTTP/1.1\r\n\r\n", []),
    ],
)
def test_every_request_gets_its_answer_and_what_is_none_an_end(request_, statuses):
    async def work():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with pages() as where:
            said = await raw(where, request_)
            assert b"200 OK" in await raw(where, b"GET /good HTTP/1.0\r\n\r\n")
        return said

    said = asyncio.run(work())
    assert re.findall(rb"HTTP/1.1 (\d+) ", said) == statuses


def test_who_says_nothing_is_not_kept(monkeypatch):
    monkeypatch.setattr(http_server, "PATIENCE_S", 0.05)

    async def work(data):
        async with pages() as where:
            return await raw(where, data)

    assert asyncio.run(work(b"")) == b""
    assert asyncio.run(work(b"GET /good HT")) == b""
    assert asyncio.run(work(b"GET /good HTTP/1.1\r\n\r\n")).endswith(b"good\n")
