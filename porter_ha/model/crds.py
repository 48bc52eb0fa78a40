"""The CustomResourceDefinitions, as data: OpenELB's v1alpha2 kinds field for field, and nothing required that it
does not require, so its manifests apply unchanged (anchors 1.1-1.3). `porter-ha crds` writes them as YAML.

Whether a value makes sense is judged in core/admit_eip.py and core/admit_bgp.py and told in the object's status: a
schema that refused more than OpenELB's would break manifests that work today.
"""

from porter_ha.model.names import GROUP, OWN_GROUP, OWN_VERSION, VERSION
from porter_ha.model.schema import AS, CONDITIONS, SELECTOR, Schema, flag, list_, map_, number, object_, text

_GRACEFUL_RESTART = object_(
    "Graceful restart (RFC 4724): for how long routers keep our paths after we are gone.",
    {
        "enabled": flag("Default true."),
        "restartTime": number("Seconds; default 120, at most 4095."),
        "helperOnly": flag("Not supported."),
        "deferralTime": number("Not supported: we never wait before announcing."),
        "notificationEnabled": flag("Always on (RFC 8538); this field is not read."),
        "longlivedEnabled": flag("Not supported."),
        "staleRoutesTime": number("Not supported: routers' routes are not used."),
        "peerRestartTime": number("State of OpenELB; not read."),
        "peerRestarting": flag("State of OpenELB; not read."),
        "localRestarting": flag("State of OpenELB; not read."),
        "mode": text("State of OpenELB; not read."),
    },
)

_EIP_SPEC = object_(
    "A pool of addresses.",
    {
        "address": text("Addresses, prefixes and ranges first-last, separated by commas; all IPv4 or all IPv6."),
        "protocol": text("bgp (layer2 and vip are known and refused).", enum=["", "bgp", "layer2", "vip"]),
        "interface": text("For layer2 and vip; not read."),
        "disable": flag("No new assignments; Services that have an address keep it."),
        "usingKnownIPs": flag("false: addresses ending in .0 and .255 are not handed out."),
        "priority": number("Of several Eips for a namespace, the lowest number is used first."),
        "namespaces": list_("Only Services in these namespaces, by default ahead of other Eips.", {"type": "string"}),
        "namespaceSelector": map_("Only Services in namespaces with all of these labels.", {"type": "string"}),
        "serviceSelector": {**SELECTOR, "description": "Only Services with such labels, ahead of other Eips."},
        "autoAssign": flag("false: only for Services that name this Eip or an address of it; default true."),
        "allocationOrder": text("Which addresses go first; default Ascending.", enum=["Ascending", "Descending"]),
        "sharing": text(
            "Whose Services may share an address of it by key: of one namespace (default), or of the whole cluster.",
            enum=["Namespace", "Cluster"],
        ),
        "advertisements": list_(
            "What routers are told of its addresses; default: each address alone, to all peers.",
            object_(
                "A route.",
                {
                    "aggregationLength": number("Prefix length; default 32 for IPv4, 128 for IPv6.", minimum=1),
                    "communities": list_(
                        "65001:100, 65001:1:2 (large), a well-known name, or a name in BgpConf's spec.communities.",
                        {"type": "string"},
                    ),
                    "localPref": number("For routers of our own AS; default 100.", "int64"),
                    "peers": list_("Only to these BgpPeers; default all.", {"type": "string"}),
                },
            ),
        ),
        "description": text("For people."),
    },
    ("address",),
)
_EIP_STATUS = object_(
    "What is used.",
    {
        "occupied": flag("Every address is held."),
        "usage": number("Addresses held.", "int64"),
        "poolSize": number("Addresses that may be handed out.", "int64"),
        "used": map_("address -> namespace/name of its Service; the first 256.", {"type": "string"}),
        "firstIP": text("The lowest address."),
        "lastIP": text("The highest address."),
        "v4": flag("IPv4."),
        "ready": flag("In use."),
        "conditions": CONDITIONS,
    },
)
_CONF_SPEC = object_(
    "Who we are to all routers.",
    {
        "as": number("Our AS number.", **AS),
        "asPerRack": map_(
            "Rack -> our AS towards its routers (BgpPeers with its label).",
            number("AS number.", **AS),
        ),
        "routerId": text("BGP identifier; default: the node's own IPv4 address."),
        "listenPort": number("Where routers of passive peers dial in; default 179, -1: nowhere.", maximum=65535),
        "listenAddresses": list_("Where to listen; default: on all addresses.", {"type": "string"}),
        "families": list_("0 IPv4 unicast, 1 IPv6 unicast; default both.", number("Family.", "int64")),
        "useMultiplePaths": flag("Several next hops per EIP; always on."),
        "gracefulRestart": _GRACEFUL_RESTART,
        "policy": text("Name of a ConfigMap with gobgp policy; not supported."),
        "communities": map_("Names for communities, for Eips' spec.advertisements.", {"type": "string"}),
    },
)
_CONF_STATUS = object_(
    "What each replica uses.",
    {
        "nodesConfStatus": map_(
            "By node.", object_("Its identity.", {"routerId": text("BGP identifier."), "as": number("AS.", **AS)})
        ),
        "conditions": CONDITIONS,
    },
)
_PEER_SPEC = object_(
    "A router.",
    {
        "conf": object_(
            "Who it is.",
            {
                "neighborAddress": text("The router's address."),
                "peerAs": number("The router's AS number.", **AS),
                "localAs": number("Ours towards it; default BgpConf's.", **AS),
                "authPassword": text("TCP MD5 key (RFC 2385), at most 80 bytes."),
                "authPasswordSecret": object_(
                    "The key out of a Secret in Porter HA's own namespace.",
                    {"name": text("The Secret."), "key": text("Its key; default password.")},
                    ("name",),
                ),
                "description": text("For people."),
                "peerGroup": text("Not supported."),
                "peerType": number("Follows from the AS numbers; not read."),
                "removePrivateAs": text("Not supported."),
                "routeFlapDamping": flag("Not supported."),
                "sendCommunity": number("Not supported."),
                "neighborInterface": text("Not supported."),
                "vrf": text("Not supported."),
                "allowOwnAs": number("Not supported: routers' routes are not used."),
                "replacePeerAs": flag("Not supported."),
                "adminDown": flag("true: no session."),
            },
        ),
        "ebgpMultihop": object_(
            "The router is more than one hop away.",
            {"enabled": flag("Default false."), "multihopTtl": number("TTL of our packets; default 255.")},
        ),
        "timers": object_(
            "Seconds, as strings.",
            {
                "config": object_(
                    "Seconds, as strings.",
                    {
                        "connectRetry": text("Default 5."),
                        "holdTime": text("Default 30."),
                        "keepaliveInterval": text("Default and most: a third of holdTime."),
                        "minimumAdvertisementInterval": text("Not supported: changes are sent at once."),
                    },
                )
            },
        ),
        "transport": object_(
            "TCP.",
            {
                "mtuDiscovery": flag("Not supported."),
                "passiveMode": flag(
                    "The router dials us, every replica of us, at BgpConf's listenPort. While it may hold our routes "
                    "over a restart of ours, we dial as well: it may wait for that."
                ),
                "remoteAddress": text("Not supported."),
                "remotePort": number("Default 179.", "int64"),
                "tcpMss": number("Not supported."),
            },
        ),
        "gracefulRestart": _GRACEFUL_RESTART,
        "afiSafis": list_(
            "Address families; default IPv4 and IPv6 unicast.",
            object_(
                "One family.",
                {
                    "config": object_(
                        "Which.",
                        {
                            "family": object_(
                                "Family.", {"afi": text("AFI_IP or AFI_IP6."), "safi": text("SAFI_UNICAST.")}
                            ),
                            "enabled": flag("Default true."),
                        },
                    ),
                    "addPaths": object_(
                        "RFC 7911.",
                        {
                            "config": object_(
                                "How many.",
                                {
                                    "receive": flag("Not supported: routers' routes are not used."),
                                    "sendMax": number("All next hops are sent, at most 64; not read."),
                                },
                            )
                        },
                    ),
                    "mpGracefulRestart": object_(
                        "Follows gracefulRestart.",
                        {"config": object_("Follows gracefulRestart.", {"enabled": flag("Not read.")})},
                    ),
                },
            ),
        ),
        "nodeSelector": SELECTOR,
        "usingPortForward": flag("Passive, and port 179 is another's: the router's packets to it are redirected."),
        "ttlSecurityHops": number("RFC 5082: the router is at most so many hops away; 1 on our own link.", minimum=0),
        "sourceAddresses": list_("Talk from these; each replica takes the one of its node.", {"type": "string"}),
    },
)
_PEER_STATUS = object_(
    "The session of each replica.",
    {
        "nodesPeerStatus": map_(
            "By node of the replica.",
            object_(
                "A session.",
                {
                    "peerState": object_(
                        "State.",
                        {"sessionState": text("As in RFC 4271."), "flops": number("Times it was lost.", "int64")},
                    ),
                    "timersState": object_("Timers.", {"negotiatedHoldTime": text("Seconds, with an s.")}),
                    "since": text("Of this state.", format="date-time"),
                    "families": list_("Agreed.", {"type": "string"}),
                    "addPath": list_("Families in which the router takes several paths.", {"type": "string"}),
                    "gracefulRestart": flag("Agreed."),
                    "prefixes": number("EIPs announced.", "int64"),
                    "lastError": text("Why it is not up, or was lost."),
                },
            ),
        ),
        "conditions": CONDITIONS,
    },
)


_TERM_SPEC = {
    **object_("The newest term.", {"epoch": number("Its number.", "int64", minimum=0)}, ("epoch",)),
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
