"""The hedged compare-and-swap, against real HTTP servers that share one Lease, as API servers share etcd."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from porter_ha.core.lease import LeaseSettings, Write
from porter_ha.kube.client import ApiError, Client, Unreachable
from porter_ha.kube.lease import Announced, LeaseStore
from porter_ha.model.access import Access


class Etcd:
    """One Lease with a resourceVersion."""

    def __init__(self):
        self.version, self.spec = 10, {"holderIdentity": "old", "leaseTransitions": 3}

    def document(self):
        return {"metadata": {"name": "porter-ha-leader", "resourceVersion": str(self.version)}, "spec": self.spec}

    def swap(self, body):
        if body["metadata"]["resourceVersion"] != str(self.version):
            return web.json_response({"reason": "Conflict", "message": "stale"}, status=409)
        self.version, self.spec = self.version + 1, body["spec"]
        return web.json_response(self.document())


@asynccontextmanager
async def server(etcd, patch):
    """An API server; `patch` says what it does with a PATCH."""

    async def handle(request):
        if request.method == "GET":
            return web.json_response(etcd.document())
        return await patch(etcd, await request.json())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def prompt(etcd, body):
    return etcd.swap(body)


async def hung(etcd, body):
    await asyncio.Event().wait()


async def hung_after_writing(etcd, body):
    etcd.swap(body)
    await asyncio.Event().wait()


def swap(first, second, version=10):
    async def work():
        etcd = Etcd()
        async with (
            server(etcd, first) as one,
            server(etcd, second) as other,
            Client(Access(one, "", "", "", "", True)) as client,
        ):
            store = LeaseStore(client, "default", LeaseSettings("me", request_timeout_s=1.0))
            await store.use([one, other])
            try:
                return await store.write(Write(4, version, acquire=True), "me", Announced())
            finally:
                await store.use([])

    return asyncio.run(work())


def test_the_second_server_is_asked_when_the_first_is_silent():
    record = swap(hung, prompt)
    assert (record.holder, record.epoch, record.version) == ("me", 4, 11)


def test_a_write_that_won_unheard_is_recognised():
    record = swap(hung_after_writing, prompt)
    assert (record.holder, record.epoch, record.version) == ("me", 4, 11)


def test_one_that_lost_is_told_so():
    with pytest.raises(ApiError, match="409"):
        swap(hung, prompt, version=9)
    with pytest.raises(ApiError, match="409"):
        swap(prompt, prompt, version=9)


def test_when_nobody_answers_the_fate_is_unknown():
    with pytest.raises(Unreachable):
        swap(hung, hung)


def test_a_rotated_token_reaches_every_address():
    async def work():
        async with Client(Access("http://127.0.0.1:1", "", "", "", "old", True)) as client:
            sibling = client.sibling("http://127.0.0.1:2")
            client.renew(Access("http://127.0.0.1:1", "", "", "", "new", True))
            return sibling.host, sibling._headers("")

    assert asyncio.run(work()) == (
        "http://127.0.0.1:2",
        "Accept: application/json\r\nUser-Agent: porter-ha\r\nAuthorization: new\r\n",
    )
