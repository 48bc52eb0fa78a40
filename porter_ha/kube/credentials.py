"""Credentials, read by a helper process that ends at once: what reads them is larger than all of an agent.

The service account's token is rotated with at least ten minutes to spare, so it is read again every REFRESH_S.
"""

import asyncio
import sys
from collections.abc import Callable

import msgspec

from porter_ha.model.access import Access
from porter_ha.obs.log import log

REFRESH_S = 300.0


class NoCredentials(Exception):
    """There are none, or they cannot be read: why."""


async def read(kubeconfig: str) -> Access:
    """Credentials from `kubeconfig`, or the pod's service account when it is empty. Raises NoCredentials."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "porter_ha.kube.auth", kubeconfig),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    if process.returncode:
        why = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise NoCredentials(f"no credentials in {kubeconfig or 'the service account'}: {why}")
    return msgspec.json.decode(said, type=Access)


async def follow(kubeconfig: str, known: Access, renew: Callable[[Access], None]) -> None:
    """Hand on rotated credentials, for ever."""
    while True:
        await asyncio.sleep(REFRESH_S)
        try:
            access = await read(kubeconfig)
        except (NoCredentials, OSError) as error:
            log("credentials not read again; the last ones stay", error=str(error))
            continue
        if access != known:
            known = access
            renew(access)
