"""Advice at the moment of writing: admission policies that warn of Eips, BgpConfs and BgpPeers that will be refused.

`kubectl apply` shows the warnings at once; the object's own status says the same and more. They refuse nothing: what
refused more than OpenELB's webhook would break manifests that work today, and what is wrong with an object can depend
on others, which an admission policy does not see.
"""

from typing import Any, NamedTuple

from porter_ha.model.names import ADVICE_NAME, BGP_CONF_NAME, GROUP, VERSION


class Check(NamedTuple):
    """A CEL expression that is true of what is well, and what would be right."""

    expression: str
    message: str


_PART = "(isIP(p.trim()) || isCIDR(p.trim()) || (p.split('-').size() == 2 && p.split('-').all(q, isIP(q.trim()))))"
_SECONDS = "!has(object.spec.timers) || !has(object.spec.timers.config) || ["
_SECONDS += ", ".join(
    f"!has(object.spec.timers.config.{field}) || object.spec.timers.config.{field}.matches('^[0-9]*$')"
    for field in ("holdTime", "keepaliveInterval", "connectRetry")
)
_SECONDS += "].all(good, good)"
_FORWARD = "!has(object.spec.usingPortForward) || !object.spec.usingPortForward"
_PASSIVE = "has(object.spec.transport) && has(object.spec.transport.passiveMode) && object.spec.transport.passiveMode"
CHECKS: dict[str, tuple[Check, ...]] = {
    "eips": (
        Check(
            f"object.spec.address.split(',').all(p, {_PART})",
            "spec.address: give addresses, prefixes (10.0.0.0/24) or ranges (10.0.0.10-10.0.0.20), separated by commas",
        ),
        Check(
            "!has(object.spec.protocol) || object.spec.protocol in ['', 'bgp']",
            "spec.protocol: only bgp is supported; this Eip will be refused",
        ),
    ),
    "bgpconfs": (
        Check(
            f"object.metadata.name == '{BGP_CONF_NAME}'",
            f"metadata.name: the BgpConf in use is the one named {BGP_CONF_NAME}; this one will be ignored",
        ),
        Check("has(object.spec.as) && object.spec.as > 0", "spec.as: give our AS number, 1-4294967294"),
    ),
    "bgppeers": (
        Check(
            "has(object.spec.conf.neighborAddress) && isIP(object.spec.conf.neighborAddress)",
            "spec.conf.neighborAddress: give the router's IP address",
        ),
        Check(
            "!has(object.spec.conf) || (has(object.spec.conf.peerAs) && object.spec.conf.peerAs > 0)",
            "spec.conf.peerAs: give the router's AS number, 1-4294967294",
        ),
        Check(
            _SECONDS,
            "spec.timers.config: times are numbers of seconds as strings, for example holdTime: '30'",
        ),
        Check(
            f"{_FORWARD} || ({_PASSIVE})",
            "spec.usingPortForward: true needs spec.transport.passiveMode: true",
        ),
    ),
}


def policies() -> list[dict[str, Any]]:
    """A ValidatingAdmissionPolicy and its binding for each kind."""
    found: list[dict[str, Any]] = []
    for plural, checks in CHECKS.items():
        name = f"{ADVICE_NAME}-{plural}"
        what = {"apiGroups": [GROUP], "apiVersions": [VERSION], "resources": [plural]}
        spec = {
            "failurePolicy": "Ignore",
            "matchConstraints": {"resourceRules": [{**what, "operations": ["CREATE", "UPDATE"]}]},
            "validations": [{"expression": check.expression, "message": check.message} for check in checks],
        }
        binding = {"policyName": name, "validationActions": ["Warn"]}
        for kind, body in (("ValidatingAdmissionPolicy", spec), ("ValidatingAdmissionPolicyBinding", binding)):
            meta = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}}
            found.append({**meta, "spec": body})
    return found
