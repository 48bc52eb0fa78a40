"""Settings of the processes: read once from flags and environment by the CLI, then passed on as values."""

from porter_ha.model.value import Value


class ManagerSettings(Value, frozen=True):
    """One manager replica. Durations in seconds; `node` is the node it runs on, `addresses` that node's own. With 0
    `shards` there are as many as the replica may use cores."""

    identity: str
    node: str
    addresses: tuple[str, ...]
    namespace: str = "porter-ha-system"
    kubeconfig: str = ""
    shards: int = 0
    classless: bool = False
    metrics_address: str = ""
    metrics_port: int = 7472
    lease_duration_s: float = 5.0
    lease_renew_s: float = 0.5
    lease_timeout_s: float = 1.0
    linger_s: float = 5.0
    link_port: int = 7474
    standby: str = "warm"


class AgentSettings(Value, frozen=True):
    """The agent of one node."""

    node: str
    kubeconfig: str = ""
    classless: bool = False
    metrics_address: str = ""
    metrics_port: int = 7473
