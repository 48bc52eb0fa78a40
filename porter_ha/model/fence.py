"""The fence in the API (design 2.1): an admission policy that refuses a status write of a term that is over.

The API server itself compares the epoch in the written Service with the Term object, so a leader that was frozen in the
middle of a request does no harm when it thaws. Writers other than our own service account never match. Without a Term
there is no fence (docs/adr/0011): the leader puts it back at once.

The whole judgement is a match condition already, and the validations only say why: for each of its phases that runs the
API server converts the old Service, the new one and the request, which costs more than all else (0.1 ms against 0.8 ms
a write, docs/adr/0013). A write that is well ends after the first phase.
"""

from typing import Any

from porter_ha.model.names import EPOCH_ANNOTATION, FENCE_NAME, OWN_GROUP, OWN_VERSION, TERM_NAME

_EPOCH = f"object.metadata.annotations['{EPOCH_ANNOTATION}']"
_IS_NUMBER = f"{_EPOCH}.matches('^[0-9]{{1,18}}$')"
_HAS_NUMBER = f"has(object.metadata.annotations) && '{EPOCH_ANNOTATION}' in object.metadata.annotations && {_IS_NUMBER}"
_IS_NEW = f"int({_EPOCH}) >= params.spec.epoch"


def policy(service_account: str) -> list[dict[str, Any]]:
    """The ValidatingAdmissionPolicy and its binding, for a manager that runs as NAMESPACE:NAME."""
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": FENCE_NAME},
            "spec": {
                "failurePolicy": "Fail",
                "paramKind": {"apiVersion": f"{OWN_GROUP}/{OWN_VERSION}", "kind": "Term"},
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["UPDATE"],
                            "resources": ["services/status"],
                        }
                    ]
                },
                "matchConditions": [
                    {
                        "name": "written-by-porter-ha",
                        "expression": f"request.userInfo.username == 'system:serviceaccount:{service_account}'",
                    },
                    {"name": "not-in-a-living-term", "expression": f"!({_HAS_NUMBER} && {_IS_NEW})"},
                ],
                "validations": [
                    {
                        "expression": _HAS_NUMBER,
                        "message": f"annotation {EPOCH_ANNOTATION} is missing or not a number",
                    },
                    {
                        "expression": f"!{_IS_NUMBER} || {_IS_NEW}",
                        "messageExpression": f"'the term of epoch ' + {_EPOCH} + ' is over: the newest is ' + "
                        "string(params.spec.epoch)",
                    },
                ],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": FENCE_NAME},
            "spec": {
                "policyName": FENCE_NAME,
                "validationActions": ["Deny"],
                "paramRef": {"name": TERM_NAME, "parameterNotFoundAction": "Allow"},
            },
        },
    ]
