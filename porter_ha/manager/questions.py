"""Questions that the manager asks all its shards at once: have they digested everything, or finished writing."""

import asyncio
from collections.abc import Sequence

from porter_ha.manager.supervisor import Worker
from porter_ha.protocol import Finish, Sync

SYNC_S = 2.0
FINISH_S = 6.0  # a write has 5 s


class Questions:
    """`shards` is the replica's own list: it is asked as it is at that moment."""

    def __init__(self, shards: Sequence[Worker]) -> None:
        self._shards = shards
        self._token = 0
        self._open: dict[int, tuple[set[int], asyncio.Future[None]]] = {}  # who has not answered yet

    async def digested(self) -> None:
        """Until every shard has digested what it was sent so far. A shard that dies meanwhile is waited for."""
        while not await self._ask(Sync, SYNC_S):
            pass  # a shard was not up, or died with the question

    async def finished(self) -> None:
        """Until no shard has a write on its way, or FINISH_S."""
        await self._ask(Finish, FINISH_S)

    async def _ask(self, question: type[Sync | Finish], patience_s: float) -> bool:
        """Whether all have answered in this time."""
        self._token = token = self._token + 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open[token] = ({shard.index for shard in self._shards}, future)
        for shard in self._shards:
            shard.send(question(token))
        try:
            async with asyncio.timeout(patience_s):
                await future
        except TimeoutError:
            return False
        finally:
            del self._open[token]
        return True

    def answered(self, index: int, token: int) -> None:
        """A shard's answer."""
        left, future = self._open.get(token, (set(), None))
        left.discard(index)
        if future is not None and not left and not future.done():
            future.set_result(None)
