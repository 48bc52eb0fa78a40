"""Writes to Services: none is forgotten after a failure, users' changes come first, and the server's pace is kept."""

import asyncio

from porter_ha.core.pace import LEAST, RESPITE_S, Pace
from porter_ha.kube.client import ApiError
from porter_ha.kube.writer import Writer
from porter_ha.model.effects import Assign
from porter_ha.model.objects import ObjectMeta, Service


class Server:
    """Answers PATCHes of Services in turn with what it was told; keeps their order."""

    def __init__(self, *answers):
        self.answers, self.written, self.versions = list(answers), [], []

    async def request(self, method, path, body, **_):
        if method == "POST":
            return b"{}"
        self.versions.append(body["metadata"].get("resourceVersion"))
        answer = self.answers.pop(0) if self.answers else b"{}"
        if isinstance(answer, ApiError):
            raise answer
        self.written.append(path.split("/")[-2])
        return answer


def assign(name, resync=False):
    return Assign(f"default/{name}", f"uid-{name}", ("10.0.0.1",), "pool", resync)


def writer(server, in_flight=32, known=lambda key: None):
    told = {"undone": [], "finished": [], "written": [], "counted": []}
    made = Writer(
        server,
        "node1",
        in_flight,
        lambda: asyncio.get_running_loop().time(),
        known=known,
        recorded=lambda key, raw: None,
        written=lambda key, serial: told["written"].append((key, serial)),
        undone=told["undone"].append,
        finished=told["finished"].append,
        count=told["counted"].append,
        took=lambda seconds: None,
    )
    return made, told


async def until(holds):
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 (what is awaited is not the test's own)
            await asyncio.sleep(0.005)


def test_a_wish_of_a_later_term_is_written_although_an_earlier_one_failed_and_was_given_up():
    """Seed 115 of the simulation: such a Service was never written again."""

    async def scenario():
        server = Server(ApiError(500, "InternalError", "no"))
        made, told = writer(server)
        made.set_term(1, float("inf"))
        made.do(1, [assign("web")])
        await until(lambda: not server.answers)
        made.set_term(0, 0.0)
        await until(lambda: told["undone"] == ["default/web"])
        made.set_term(2, float("inf"))
        made.do(2, [assign("web")])
        await until(lambda: server.written == ["web"])

    asyncio.run(scenario())


def test_what_users_change_goes_before_what_a_new_term_brings_up():
    async def scenario():
        server = Server()
        made, _ = writer(server, in_flight=1)
        made.set_term(1, float("inf"))
        made.do(1, [*(assign(f"old{i}", resync=True) for i in range(3)), assign("new")])
        await until(lambda: len(server.written) == 4)
        assert server.written == ["new", "old0", "old1", "old2"]

    asyncio.run(scenario())


def test_nothing_is_on_its_way_once_forgotten():
    async def scenario():
        server = Server()
        made, told = writer(server)
        made.set_term(1, float("inf"))
        made.do(1, [assign("web")])
        assert not made.forget("default/web"), "it has left"
        await until(lambda: told["finished"] == ["default/web"])
        assert made.forget("default/web")

    asyncio.run(scenario())


def test_the_pace_is_halved_by_a_refusal_and_comes_back():
    pace = Pace(32)
    pace.refused(3.0, 0.0)
    pace.refused(3.0, 0.1)
    assert (pace.limit, pace.not_before) == (16, 3.1)
    for _ in range(10):
        pace.refused(0.0, pace.not_before + RESPITE_S)
    assert pace.limit == LEAST
    for _ in range(2000):
        pace.answered(0.01, 100.0)
    assert pace.limit == 32


def test_a_write_is_for_the_version_that_is_known_and_comes_again_for_a_later_one():
    async def scenario():
        server = Server(ApiError(409, "Conflict", "the object has been modified"))
        version = 6

        def known(key):
            nonlocal version
            version += 1  # a user's change comes between the two tries
            return Service(
                metadata=ObjectMeta(name="web", namespace="default", uid="uid-web", resource_version=f"{version}")
            )

        made, told = writer(server, known=known)
        made.set_term(1, float("inf"))
        made.do(1, [assign("web")])
        await until(lambda: server.written == ["web"])
        assert server.versions[0] == "7"
        assert int(server.versions[1]) > 7
        assert "write_errors" not in told["counted"]

    asyncio.run(scenario())
