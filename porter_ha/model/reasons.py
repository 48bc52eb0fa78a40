"""Every "no" that the product can say, each with the sentence that documents it.

One Reason is one event reason, one condition reason, one metric label and one line of docs. A Service that
waits, a node that is no next hop, a peer that is refused: each carries exactly one of these.
"""

from enum import StrEnum


class Reason(StrEnum):
    """The value is what users see; `doc` says what it means and what to do."""

    doc: str

    def __new__(cls, value: str, doc: str) -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member

    ASSIGNED = "Assigned", "The Service has its EIP."
    # Services
    NO_POOL = "NoPool", "No Eip may serve this Service: create one, name one, or mark one as the default."
    POOL_NOT_FOUND = "PoolNotFound", "The Eip that the Service asks for by name does not exist."
    POOL_DISABLED = "PoolDisabled", "The Eip that would serve this Service has spec.disable: true."
    POOL_INVALID = "PoolInvalid", "The Eip that would serve this Service is refused; its own status says why."
    POOL_EXHAUSTED = "PoolExhausted", "Every address of the Eips that may serve this Service is taken."
    FAMILY_UNAVAILABLE = "FamilyUnavailable", "No Eip has an address of the IP family that the Service needs."
    ADDRESS_INVALID = "AddressInvalid", "The address that the Service asks for is not an IP address."
    ADDRESS_NOT_IN_POOL = "AddressNotInPool", "The address that the Service asks for is in no Eip it may use."
    ADDRESS_IN_USE = "AddressInUse", "The address that the Service asks for belongs to another Service."
    ADDRESS_CONFLICT = "AddressConflict", "Two Services held one address; the older one keeps it."
    CONTESTED = (
        "Contested",
        "Another controller writes the Service's status: stop it, or use a class. Tried again in 5 minutes.",
    )
    MISSPELT_ANNOTATION = "MisspeltAnnotation", "The annotation's key is misspelt; it is lb.kubesphere.io/v1alpha1."
    # Announcements
    NO_ENDPOINTS = "NoReadyEndpoints", "No endpoint is ready, so the EIP is not announced."
    NO_NODES = "NoEligibleNodes", "No node may be a next hop of this EIP."
    # Nodes
    NODE_NOT_READY = "NodeNotReady", "The node's Ready condition is not True."
    NODE_UNKNOWN = "NodeUnknown", "The node's kubelet does not report, and the node answers no probe."
    NODE_SILENT = "NodeSilent", "The node answers the probes of no replica."
    NODE_REJOINING = "NodeRejoining", "The node answers again, but its agent or kube-proxy is not ready yet."
    NODE_NETWORK_UNAVAILABLE = "NodeNetworkUnavailable", "The node's NetworkUnavailable condition is True."
    NODE_EXCLUDED = "NodeExcluded", "The node is labelled exclude-from-external-load-balancers."
    NODE_DRAINING = "NodeDraining", "The node is being drained or removed."
    NODE_NO_ADDRESS = "NodeNoAddress", "The node has no InternalIP of the EIP's family."
    # Eip, BgpConf, BgpPeer
    ACCEPTED = "Accepted", "The object is in use."
    EIP_ADDRESS_INVALID = "EipAddressInvalid", "spec.address is no address, prefix or range."
    EIP_INVALID = "EipInvalid", "A field of the Eip is wrong."
    EIP_OVERLAPS = "EipOverlaps", "spec.address overlaps an older Eip, which keeps the addresses."
    PROTOCOL_UNSUPPORTED = "ProtocolUnsupported", "Only spec.protocol bgp is supported."
    CONF_INVALID = "ConfInvalid", "A field of the BgpConf is wrong."
    CONF_IGNORED = "ConfIgnored", "Only the BgpConf named default is used."
    PEER_INVALID = "PeerInvalid", "A field of the BgpPeer is wrong."
    PEER_DUPLICATE = "PeerDuplicate", "An older BgpPeer has the same neighbour."
    SESSION_UP = "SessionUp", "The replica on the node that is named has a session with the router."
    SESSION_DOWN = "SessionDown", "The replica on the node that is named lost its session with the router."
    FIELDS_UNSUPPORTED = "FieldsUnsupported", "The object asks for something that this version does not do."
    NO_BGP_CONF = "NoBgpConf", "There is no BgpConf named default yet."
    STALE_PATH_POSSIBLE = (
        "StalePathPossible",
        "A replica that announced is gone, and routers may keep its paths until its restart time is over: an EIP that "
        "is withdrawn now can fall back to them.",
    )
    LEASE_TOO_LONG = (
        "LeaseTooLong",
        "The Lease's duration is not shorter than the session's hold time: a router could drop the routes of a dead "
        "leader before another leads. Shorten the one or lengthen the other.",
    )
    NO_REDIRECT = (
        "NoRedirect",
        "The BGP port cannot be redirected on the replica's node; it needs nftables and the capability NET_ADMIN.",
    )
    BGP_COLLISION = (
        "BgpCollision",
        "The router has a session with this node already, from another BGP speaker such as Calico's: give the BgpPeer "
        "spec.sourceAddresses, one address of our own per node.",
    )
    NO_ADD_PATH = "NoAddPath", "The router does not take add-path; it would see one next hop per EIP only."
