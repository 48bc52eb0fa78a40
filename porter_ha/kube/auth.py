"""Who we are to the API server: kubeconfig and in-cluster credentials, as the official client reads them.

The only importer of `kubernetes` (it costs 25 MB and a second, so only a pod's first process pays it; workers get
the resulting `Access` as a value).
"""

from collections.abc import Awaitable, Callable

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from porter_ha.model.access import Access

Current = Callable[[], Awaitable[Access]]


async def load(kubeconfig: str) -> Current:
    """Credentials from `kubeconfig`, or from the pod's service account when it is empty.

    Returns a function that gives the current Access: tokens are re-read as they are rotated. Raises
    kubernetes.aio.config.ConfigException, with the reason, when there are none.
    """
    settings = Configuration()
    if kubeconfig:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
    else:
        config.load_incluster_config(client_configuration=settings)

    async def current() -> Access:
        token: str = await settings.get_api_key_with_prefix("BearerToken") or ""  # runs the refresh hook first
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

    return current
