"""The CustomResourceDefinitions, as data: OpenELB's v1alpha2 kinds field for field, and nothing required that it
does not require, so its manifests apply unchanged (anchors 1.1-1.3). `porter-ha crds` writes them as YAML.

Whether a value makes sense is judged in core/admit.py and told in the object's status: a schema that refused more
than OpenELB's would break manifests that work today.
"""

from typing import Any

from porter_ha.model.names import GROUP, OWN_GROUP, OWN_VERSION, VERSION

Schema = dict[str, Any]


def _object(doc: str, properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    found: Schema = {"type": "object", "description": doc, "properties": properties}
    if required:
        found["required"] = list(required)
    return found


def _text(doc: str, **more: Any) -> Schema:
    return {"type": "string", "description": doc, **more}


def _flag(doc: str) -> Schema:
    return {"type": "boolean", "description": doc}


def _number(doc: str, form: str = "int32", **more: Any) -> Schema:
    return {"type": "integer", "format": form, "description": doc, **more}


def _list(doc: str, items: Schema) -> Schema:
    return {"type": "array", "description": doc, "items": items}


def _map(doc: str, values: Schema) -> Schema:
    return {"type": "object", "description": doc, "additionalProperties": values}


_AS: dict[str, Any] = {"form": "int64", "minimum": 0, "maximum": 4294967295}
_LABELS = _map("label -> value", {"type": "string"})
_CONDITIONS = {
    **_list(
        "Verdicts: Accepted, and what the object asks for that this version does not do.",
        _object(
            "A verdict.",
            {
                "type": _text("What is judged."),
                "status": _text("True or False."),
                "reason": _text("One word; docs/reasons.md explains each."),
                "message": _text("Which field is wrong, its value, and what would be right."),
                "lastTransitionTime": _text("When it became so.", format="date-time"),
            },
            ("type", "status"),
        ),
    ),
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
}
_SELECTOR = _object(
    "Which nodes; empty means all.",
    {
        "matchLabels": _LABELS,
        "matchExpressions": _list(
            "All must hold.",
            _object(
                "A rule.",
                {
                    "key": _text("The label."),
                    "operator": _text("In, NotIn, Exists or DoesNotExist."),
                    "values": _list("For In and NotIn.", {"type": "string"}),
                },
                ("key", "operator"),
            ),
        ),
    },
)
_GRACEFUL_RESTART = _object(
    "Graceful restart (RFC 4724): for how long routers keep our paths after we are gone.",
    {
        "enabled": _flag("Default true."),
        "restartTime": _number("Seconds; default 120, at most 4095."),
        "helperOnly": _flag("Not supported."),
        "deferralTime": _number("Not supported: we never wait before announcing."),
        "notificationEnabled": _flag("Always on (RFC 8538); this field is not read."),
        "longlivedEnabled": _flag("Not supported."),
        "staleRoutesTime": _number("Not supported: routers' routes are not used."),
        "peerRestartTime": _number("State of OpenELB; not read."),
        "peerRestarting": _flag("State of OpenELB; not read."),
        "localRestarting": _flag("State of OpenELB; not read."),
        "mode": _text("State of OpenELB; not read."),
    },
)

_EIP_SPEC = _object(
    "A pool of addresses.",
    {
        "address": _text("Addresses, prefixes and ranges first-last, separated by commas; all IPv4 or all IPv6."),
        "protocol": _text("bgp (layer2 and vip are known and refused).", enum=["", "bgp", "layer2", "vip"]),
        "interface": _text("For layer2 and vip; not read."),
        "disable": _flag("No new assignments; Services that have an address keep it."),
        "usingKnownIPs": _flag("false: addresses ending in .0 and .255 are not handed out."),
        "priority": _number("Of several Eips for a namespace, the lowest number is used first."),
        "namespaces": _list("Only Services in these namespaces, by default ahead of other Eips.", {"type": "string"}),
        "namespaceSelector": _map("Only Services in namespaces with all of these labels.", {"type": "string"}),
        "serviceSelector": {**_SELECTOR, "description": "Only Services with such labels, ahead of other Eips."},
        "autoAssign": _flag("false: only for Services that name this Eip or an address of it; default true."),
        "allocationOrder": _text("Which addresses go first; default Ascending.", enum=["Ascending", "Descending"]),
        "description": _text("For people."),
    },
    ("address",),
)
_EIP_STATUS = _object(
    "What is used.",
    {
        "occupied": _flag("Every address is held."),
        "usage": _number("Addresses held.", "int64"),
        "poolSize": _number("Addresses that may be handed out.", "int64"),
        "used": _map("address -> namespace/name of its Service; the first 256.", {"type": "string"}),
        "firstIP": _text("The lowest address."),
        "lastIP": _text("The highest address."),
        "v4": _flag("IPv4."),
        "ready": _flag("In use."),
        "conditions": _CONDITIONS,
    },
)
_CONF_SPEC = _object(
    "Who we are to all routers.",
    {
        "as": _number("Our AS number.", **_AS),
        "asPerRack": _map("rack label -> AS; not supported yet.", _number("AS number.", **_AS)),
        "routerId": _text("BGP identifier; default: the node's own IPv4 address."),
        "listenPort": _number("Not supported yet: this version dials, it does not listen.", maximum=65535),
        "listenAddresses": _list("Not supported yet.", {"type": "string"}),
        "families": _list("0 IPv4 unicast, 1 IPv6 unicast; default both.", _number("Family.", "int64")),
        "useMultiplePaths": _flag("Several next hops per EIP; always on."),
        "gracefulRestart": _GRACEFUL_RESTART,
        "policy": _text("Name of a ConfigMap with gobgp policy; not supported."),
    },
)
_CONF_STATUS = _object(
    "What each replica uses.",
    {
        "nodesConfStatus": _map(
            "By node.", _object("Its identity.", {"routerId": _text("BGP identifier."), "as": _number("AS.", **_AS)})
        ),
        "conditions": _CONDITIONS,
    },
)
_PEER_SPEC = _object(
    "A router.",
    {
        "conf": _object(
            "Who it is.",
            {
                "neighborAddress": _text("The router's address."),
                "peerAs": _number("The router's AS number.", **_AS),
                "localAs": _number("Ours towards it; default BgpConf's.", **_AS),
                "authPassword": _text("TCP MD5 key (RFC 2385), at most 80 bytes."),
                "description": _text("For people."),
                "peerGroup": _text("Not supported."),
                "peerType": _number("Follows from the AS numbers; not read."),
                "removePrivateAs": _text("Not supported."),
                "routeFlapDamping": _flag("Not supported."),
                "sendCommunity": _number("Not supported."),
                "neighborInterface": _text("Not supported."),
                "vrf": _text("Not supported."),
                "allowOwnAs": _number("Not supported: routers' routes are not used."),
                "replacePeerAs": _flag("Not supported."),
                "adminDown": _flag("true: no session."),
            },
        ),
        "ebgpMultihop": _object(
            "The router is more than one hop away.",
            {"enabled": _flag("Default false."), "multihopTtl": _number("TTL of our packets; default 255.")},
        ),
        "timers": _object(
            "Seconds, as strings.",
            {
                "config": _object(
                    "Seconds, as strings.",
                    {
                        "connectRetry": _text("Default 5."),
                        "holdTime": _text("Default 30."),
                        "keepaliveInterval": _text("Default and most: a third of holdTime."),
                        "minimumAdvertisementInterval": _text("Not supported: changes are sent at once."),
                    },
                )
            },
        ),
        "transport": _object(
            "TCP.",
            {
                "mtuDiscovery": _flag("Not supported."),
                "passiveMode": _flag("Not supported yet; such a peer is refused."),
                "remoteAddress": _text("Not supported."),
                "remotePort": _number("Default 179.", "int64"),
                "tcpMss": _number("Not supported."),
            },
        ),
        "gracefulRestart": _GRACEFUL_RESTART,
        "afiSafis": _list(
            "Address families; default IPv4 and IPv6 unicast.",
            _object(
                "One family.",
                {
                    "config": _object(
                        "Which.",
                        {
                            "family": _object(
                                "Family.", {"afi": _text("AFI_IP or AFI_IP6."), "safi": _text("SAFI_UNICAST.")}
                            ),
                            "enabled": _flag("Default true."),
                        },
                    ),
                    "addPaths": _object(
                        "RFC 7911.",
                        {
                            "config": _object(
                                "How many.",
                                {
                                    "receive": _flag("Not supported: routers' routes are not used."),
                                    "sendMax": _number("All next hops are sent, at most 64; not read."),
                                },
                            )
                        },
                    ),
                    "mpGracefulRestart": _object(
                        "Follows gracefulRestart.",
                        {"config": _object("Follows gracefulRestart.", {"enabled": _flag("Not read.")})},
                    ),
                },
            ),
        ),
        "nodeSelector": _SELECTOR,
    },
)
_PEER_STATUS = _object(
    "The session of each replica.",
    {
        "nodesPeerStatus": _map(
            "By node of the replica.",
            _object(
                "A session.",
                {
                    "peerState": _object(
                        "State.",
                        {"sessionState": _text("As in RFC 4271."), "flops": _number("Times it was lost.", "int64")},
                    ),
                    "timersState": _object("Timers.", {"negotiatedHoldTime": _text("Seconds, with an s.")}),
                    "since": _text("Of this state.", format="date-time"),
                    "families": _list("Agreed.", {"type": "string"}),
                    "addPath": _list("Families in which the router takes several paths.", {"type": "string"}),
                    "gracefulRestart": _flag("Agreed."),
                    "prefixes": _number("EIPs announced.", "int64"),
                    "lastError": _text("Why it is not up, or was lost."),
                },
            ),
        ),
        "conditions": _CONDITIONS,
    },
)


_TERM_SPEC = {
    **_object("The newest term.", {"epoch": _number("Its number.", "int64", minimum=0)}, ("epoch",)),
    "x-kubernetes-validations": [
        {"rule": "self.epoch >= oldSelf.epoch", "message": "a term cannot go back: a newer leader has begun"}
    ],
}


def _term() -> Schema:
    """Ours alone: which term may write (design 2.1, fence 1)."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"terms.{OWN_GROUP}"},
        "spec": {
            "group": OWN_GROUP,
            "scope": "Cluster",
            "names": {"kind": "Term", "listKind": "TermList", "plural": "terms", "singular": "term"},
            "versions": [
                {
                    "name": OWN_VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [{"name": "epoch", "type": "integer", "jsonPath": ".spec.epoch"}],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": _TERM_SPEC,
                            },
                        }
                    },
                }
            ],
        },
    }


def _definition(kind: str, plural: str, spec: Schema, status: Schema, columns: list[tuple[str, str, str]]) -> Schema:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "categories": ["networking"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": form, "jsonPath": path} for name, form, path in columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                        }
                    },
                }
            ],
        },
    }


_ACCEPTED = '.status.conditions[?(@.type=="Accepted")].reason'


def definitions() -> dict[str, Schema]:
    """File name -> CustomResourceDefinition."""
    return {
        "terms.yaml": _term(),
        "eips.yaml": _definition(
            "Eip",
            "eips",
            _EIP_SPEC,
            _EIP_STATUS,
            [
                ("cidr", "string", ".spec.address"),
                ("usage", "integer", ".status.usage"),
                ("total", "integer", ".status.poolSize"),
                ("verdict", "string", _ACCEPTED),
            ],
        ),
        "bgpconfs.yaml": _definition(
            "BgpConf",
            "bgpconfs",
            _CONF_SPEC,
            _CONF_STATUS,
            [("as", "integer", ".spec.as"), ("verdict", "string", _ACCEPTED)],
        ),
        "bgppeers.yaml": _definition(
            "BgpPeer",
            "bgppeers",
            _PEER_SPEC,
            _PEER_STATUS,
            [
                ("neighbor", "string", ".spec.conf.neighborAddress"),
                ("as", "integer", ".spec.conf.peerAs"),
                ("verdict", "string", _ACCEPTED),
            ],
        ),
    }
