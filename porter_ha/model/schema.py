"""The words of OpenAPI schemas, as functions that need a sentence of documentation each; and parts that several use."""

from typing import Any

Schema = dict[str, Any]


def object_(doc: str, properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    found: Schema = {"type": "object", "description": doc, "properties": properties}
    if required:
        found["required"] = list(required)
    return found


def text(doc: str, **more: Any) -> Schema:
    return {"type": "string", "description": doc, **more}


def flag(doc: str) -> Schema:
    return {"type": "boolean", "description": doc}


def number(doc: str, form: str = "int32", **more: Any) -> Schema:
    return {"type": "integer", "format": form, "description": doc, **more}


def list_(doc: str, items: Schema) -> Schema:
    return {"type": "array", "description": doc, "items": items}


def map_(doc: str, values: Schema) -> Schema:
    return {"type": "object", "description": doc, "additionalProperties": values}


AS: dict[str, Any] = {"form": "int64", "minimum": 0, "maximum": 4294967295}
LABELS = map_("label -> value", {"type": "string"})
CONDITIONS = {
    **list_(
        "Verdicts: Accepted, and what the object asks for that this version does not do.",
        object_(
            "A verdict.",
            {
                "type": text("What is judged."),
                "status": text("True or False."),
                "reason": text("One word; docs/reasons.md explains each."),
                "message": text("Which field is wrong, its value, and what would be right."),
                "lastTransitionTime": text("When it became so.", format="date-time"),
            },
            ("type", "status"),
        ),
    ),
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
}
SELECTOR = object_(
    "Which nodes; empty means all.",
    {
        "matchLabels": LABELS,
        "matchExpressions": list_(
            "All must hold.",
            object_(
                "A rule.",
                {
                    "key": text("The label."),
                    "operator": text("In, NotIn, Exists or DoesNotExist."),
                    "values": list_("For In and NotIn.", {"type": "string"}),
                },
                ("key", "operator"),
            ),
        ),
    },
)
