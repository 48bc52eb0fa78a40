"""The fence in the API (design 2.1): an admission policy that refuses a status write of a term that is over.

The API server itself compares the epoch in the written Service with the Term object, so a leader that was frozen in the
middle of a request does no harm when it thaws. Writers other than our own service account never match. Without a Term
there is no fence (docs/adr/0011): the leader puts it back at once.
"""

from typing import Any

from porter_ha.model.names import EPOCH_ANNOTATION, FENCE_NAME, OWN_GROUP, OWN_VERSION, TERM_NAME

_EPOCH = f"object.metadata.annotations['{EPOCH_ANNOTATION}']"


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
                    }
                ],
                "validations": [
                    {
                        "expression": "has(object.metadata.annotations) && "
                        f"'{EPOCH_ANNOTATION}' in object.metadata.annotations && "
                        f"{_EPOCH}.matches('^[0-9]{{1,18}}$')",
                        "message": f"annotation {EPOCH_ANNOTATION} is missing or not a number",
                    },
                    {
                        "expression": f"!{_EPOCH}.matches('^[0-9]{{1,18}}$') || int({_EPOCH}) >= params.spec.epoch",
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
