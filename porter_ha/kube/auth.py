"""Who we are to the API server: kubeconfig and in-cluster credentials, as the official client reads them.

The only importer of `kubernetes`. It costs 25 MB and a second, so no process that stays imports this: see
credentials.py, which runs it.
"""

import asyncio
import sys

import msgspec
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from porter_ha.model.access import Access


async def load(kubeconfig: str) -> Access:
    """Credentials from `kubeconfig`, or from the pod's service account when it is empty, as they are now.

    Raises kubernetes.aio.config.ConfigException, with the reason, when there are none.
    """
    settings = Configuration()
    if kubeconfig:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
    else:
        config.load_incluster_config(client_configuration=settings)
    token: str = await settings.get_api_key_with_prefix("BearerToken") or ""
    if token and not token.lower().startswith(("bearer ", "basic ")):
        token = f"Bearer {token}"
    return Access(
        host=settings.host,
        ca_file=settings.ssl_ca_cert or "",
        cert_file=settings.cert_file or "",
        key_file=settings.key_file or "",
        authorization=token,
        verify=settings.verify_ssl,
    )


if __name__ == "__main__":
    try:
        found = asyncio.run(load(sys.argv[1]))
    except (config.ConfigException, OSError, ValueError) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found))
