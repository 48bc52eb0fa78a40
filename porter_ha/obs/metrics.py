"""Metrics: one table of names, one registry, one endpoint per pod. The only importer of prometheus_client.

Values are read when scraped, from a function that the process provides: nothing is counted twice, and nothing is
stored here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from porter_ha import __version__
from porter_ha.obs.timings import Buckets

# name -> (type, help, labels). Every name is porter_ha_<this>; units last; label values are bounded (no Service names).
TABLE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "build_info": ("gauge", "Always 1; the version is a label.", ("version",)),
    "leader": ("gauge", "1 while this replica leads with its API door open.", ()),
    "epoch": ("gauge", "The newest term that this replica has seen.", ()),
    "announcing": ("gauge", "1 while routers are told of this replica's paths.", ()),
    "stale_path_possible": (
        "gauge",
        "Replicas that are gone whose paths routers may keep, as the leader sees it.",
        (),
    ),
    "warm": ("gauge", "1 once every watch has been listed and every shard has digested it.", ()),
    "fenced": ("gauge", "1 while the API server refuses writes of terms before this replica's.", ()),
    "takeover_seconds": ("gauge", "How long this replica's last takeover took, from the Lease to the API door.", ()),
    "replicas_heard": ("gauge", "Other replicas that are heard over the link.", ()),
    "services": ("gauge", "Services by state: assigned, waiting or unannounced, and the Reason.", ("state", "reason")),
    "pool_addresses": ("gauge", "Addresses that the pool may hand out.", ("pool",)),
    "pool_addresses_used": ("gauge", "Addresses of the pool that are held.", ("pool",)),
    "objects_refused": (
        "gauge",
        "Eips, BgpConfs, BgpPeers that are refused, and why.",
        ("kind", "reason"),
    ),
    "nodes_silent": ("gauge", "Nodes that this replica's probes do not hear.", ()),
    "nodes_held": ("gauge", "1 while more than half of the nodes are silent, so none is held dead.", ()),
    "nodes": ("gauge", "Nodes by whether they may be a next hop, and the Reason.", ("state", "reason")),
    "bgp_session_up": ("gauge", "1 while the session is Established.", ("peer",)),
    "bgp_session_flaps_total": ("counter", "How often an Established session was lost.", ("peer",)),
    "bgp_prefixes": ("gauge", "EIPs announced to the peer.", ("peer",)),
    "worker_up": ("gauge", "1 while the worker answers.", ("worker",)),
    "worker_restarts_total": ("counter", "How often the worker was started again.", ("worker",)),
    "worker_events_total": ("counter", "What the worker counted since it began.", ("worker", "event")),
    "writes_waiting": ("gauge", "Services whose status the worker has still to write.", ("worker",)),
    "oldest_write_seconds": ("gauge", "For how long the oldest of them has waited.", ("worker",)),
    "assign_seconds": (
        "histogram",
        "From the news that a Service wants an EIP, or that there is one for it now, to the API server's answer.",
        ("worker",),
    ),
    "write_seconds": ("histogram", "How long the API server took to answer a status write.", ("worker",)),
    "announce_seconds": (
        "histogram",
        "From a change of what routers should hear until one has received it; one value per router and batch.",
        ("worker",),
    ),
    "watch_failures_total": ("counter", "How often a watch had to be taken up again after an error.", ("path",)),
    "agent_routes": ("gauge", "EIPs that the agent has programmed.", ()),
    "agent_served_ports": ("gauge", "(EIP, protocol, port) that the guard lets through.", ()),
    "agent_syncs_total": ("counter", "Programmings of the kernel, by kind.", ("kind",)),
    "agent_sync_seconds_total": ("counter", "Time spent on them, by kind.", ("kind",)),
    "agent_drift_total": ("counter", "Differences found in the kernel that the agent had not made.", ()),
    "agent_ready": ("gauge", "1 while the kernel holds what the cluster wants.", ()),
}


Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
FAMILIES: dict[str, type[CounterMetricFamily] | type[GaugeMetricFamily] | type[HistogramMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Sample(NamedTuple):
    """One value of a metric in TABLE, with its label values in the table's order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()
    buckets: Buckets = ()  # of a histogram, whose value is the sum


class _Collector:
    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for name, value, labels, buckets in (Sample("build_info", 1, (__version__,)), *self._read()):
            kind, text, names = TABLE[name]
            if name not in families:
                families[name] = FAMILIES[kind](f"porter_ha_{name}", text, labels=names)
            family = families[name]
            if isinstance(family, HistogramMetricFamily):
                family.add_metric(labels, buckets, value)
            else:
                family.add_metric(labels, value)
        yield from families.values()


def exposition(read: Callable[[], Iterable[Sample]]) -> Callable[[], bytes]:
    """A function that renders what `read` gives in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(read))
    return lambda: generate_latest(registry)
