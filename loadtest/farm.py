"""`python -m loadtest.farm PORT`: says for all the bench's nodes that kube-proxy serves a Local Service there.

It says so at once and always: how long kube-proxy takes for its rules is no part of what is measured.
"""

import asyncio
import sys

import uvloop

from porter_ha.http.server import Page, listen


async def main(port: int) -> None:
    """Until it is killed."""
    await listen("0.0.0.0", port, {"/": lambda: Page(200, "text/plain", b"")})
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
