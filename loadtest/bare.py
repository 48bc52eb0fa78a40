"""The physical limit: a client that only watches Services and writes the status that the product would write.

No pools, no leader, no fence, no BGP, no endpoints; one process, as many requests in flight as gain anything. What it
reaches is what the API server of this machine gives, so results are told as ratios to it.
"""

import asyncio
import sys
from collections import deque

import msgspec
import uvloop

from porter_ha.core.eligibility import opted_in
from porter_ha.kube import paths, status
from porter_ha.kube.client import IN_FLIGHT, STRATEGIC, Client
from porter_ha.kube.watch import Change, Watch
from porter_ha.model.net import V4, parse_address, to_text
from porter_ha.model.objects import ObjectMeta, Service

FIRST = "10.128.0.0"
EPOCH = 10**9  # later than any term: the fence, where it looks, lets it pass


async def main(user: str) -> None:
    from loadtest.place import access

    decoder = msgspec.json.Decoder(Service)
    free = parse_address(FIRST)[1]
    given: dict[str, str] = {}
    queue: deque[tuple[str, ObjectMeta, str]] = deque()
    waiting = asyncio.Semaphore(0)

    def deliver(changes: list[Change]) -> None:
        nonlocal free
        for change in changes:
            if change.raw is None:
                continue
            service = decoder.decode(change.raw)
            meta = service.metadata
            uid = meta.uid
            if uid not in given and not service.addresses and opted_in(service, False):
                given[uid] = to_text(V4, free)
                free += 1
                queue.append((change.key, meta, given[uid]))
                waiting.release()

    async def write(client: Client) -> None:
        while True:
            await waiting.acquire()
            key, meta, address = queue.popleft()
            body = status.service_assigned(meta.uid, meta.resource_version, EPOCH, [address])
            await client.request("PATCH", paths.service(key) + "/status", body, content_type=STRATEGIC)

    async with Client(access(user)) as client, asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(write(client))
        group.create_task(Watch(client, paths.SERVICES, deliver).run())


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
