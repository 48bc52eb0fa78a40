"""Asking for a planned handover from outside: `porter-ha handover`."""

import asyncio

from porter_ha.core.lease import LeaseSettings
from porter_ha.kube import credentials, paths
from porter_ha.kube.client import Client
from porter_ha.kube.lease import LeaseStore, seen
from porter_ha.kube.watch import Change, Watch
from porter_ha.model import names


async def hand_over(kubeconfig: str, namespace: str, timeout_s: float) -> tuple[str, str]:
    """(who led, who leads now); the latter is empty when nobody took over in time. Raises ApiError or Unreachable."""
    async with Client(await credentials.read(kubeconfig)) as client:
        store = LeaseStore(client, namespace, LeaseSettings(""))
        found = await store.read()
        before = found.record.holder if found is not None else ""
        if found is None or not before:
            return "", ""
        successor: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def watched(changes: list[Change]) -> None:
            for change in changes:
                holder = seen(change.raw).record.holder if change.raw is not None else ""
                if holder not in ("", before) and not successor.done():
                    successor.set_result(holder)

        selector = {"fieldSelector": f"metadata.name={names.LEASE_NAME}"}
        watch = asyncio.create_task(Watch(client, paths.leases(namespace), watched, selector).run())
        try:
            await store.ask_to_hand_over(found.record.epoch)
            async with asyncio.timeout(timeout_s):
                return before, await successor
        except TimeoutError:
            return before, ""
        finally:
            watch.cancel()
