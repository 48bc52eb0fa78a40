"""The status documents that we write, as pure functions from values to JSON-able dicts, and Events beside them.

Only our own fields are in them, so applying one never touches what another controller wrote (I7).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from porter_ha.kube import paths
from porter_ha.kube.client import Client
from porter_ha.model import names
from porter_ha.model.plan import Refusal
from porter_ha.model.reasons import Reason


def timestamp() -> str:
    """Now, as Kubernetes writes times (RFC 3339, seconds)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, refusal: Refusal | None, good: str = Reason.ACCEPTED) -> dict[str, object]:
    """A metav1.Condition: True with the Reason `good`, or False with the refusal's Reason and message."""
    return {
        "type": kind,
        "status": "True" if refusal is None else "False",
        "reason": good if refusal is None else str(refusal.reason),
        "message": "" if refusal is None else refusal.message,
        "lastTransitionTime": timestamp(),
    }


def _meta(uid: str, version: str, epoch: int, **annotations: str | None) -> dict[str, object]:
    """The uid makes it this very Service's, the resourceVersion (unless it is empty) the Service's as we know it, and
    the epoch is what the admission policy compares (design 2.1)."""
    meta: dict[str, object] = {"uid": uid, "annotations": {names.EPOCH_ANNOTATION: str(epoch), **annotations}}
    return {**meta, "resourceVersion": version} if version else meta


def service_assigned(uid: str, version: str, epoch: int, addresses: Sequence[str]) -> dict[str, object]:
    """Strategic merge patch for services/status: these addresses, in this term."""
    return {
        "metadata": _meta(uid, version, epoch, **{names.EIPS_ANNOTATION: ",".join(addresses)}),
        "status": {
            "loadBalancer": {"ingress": [{"ip": a, "ipMode": "VIP"} for a in addresses]},
            "conditions": [condition(names.CONDITION_ASSIGNED, None, Reason.ASSIGNED)],
        },
    }


def service_relinquished(uid: str, version: str, epoch: int, refusal: Refusal | None) -> dict[str, object]:
    """Strategic merge patch that takes our addresses out of a Service, and says why it waits for others if it does. The
    epoch stays: the policy must see it."""
    verdict: dict[str, object] = {"$patch": "delete", "type": names.CONDITION_ASSIGNED}
    return {
        "metadata": _meta(uid, version, epoch, **{names.EIPS_ANNOTATION: None}),
        "status": {
            "loadBalancer": {"ingress": None},
            "conditions": [verdict if refusal is None else condition(names.CONDITION_ASSIGNED, refusal)],
        },
    }


def service_refused(uid: str, version: str, epoch: int, refusal: Refusal) -> dict[str, object]:
    """Strategic merge patch that says why the Service waits."""
    return {
        "metadata": _meta(uid, version, epoch),
        "status": {"conditions": [condition(names.CONDITION_ASSIGNED, refusal)]},
    }


async def post_event(
    client: Client, involved: Mapping[str, str], reason: str, message: str, *, warning: bool, reporter: str
) -> None:
    """A core/v1 Event about `involved` (an ObjectReference). Raises ApiError or Unreachable."""
    namespace = involved.get("namespace") or "default"
    now = timestamp()
    await client.request(
        "POST",
        paths.events(namespace),
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{involved['name'][:50]}.", "namespace": namespace},
            "involvedObject": dict(involved),
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": names.COMPONENT, "host": reporter},
            "reportingComponent": names.COMPONENT,
            "reportingInstance": reporter,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        },
    )
