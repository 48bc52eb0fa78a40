"""Every name that leaves the process: API groups, annotations, labels, and the numbers that mark what is ours.

Must never be duplicated elsewhere: a name typed twice is a name that will differ.
"""

GROUP = "network.kubesphere.io"
VERSION = "v1alpha2"
LOAD_BALANCER_CLASS = "porter-ha.io/bgp"

# Opt-in of Porter and OpenELB (anchors 1.4), and the misspelling that circulates in old Porter docs.
OPT_IN_ANNOTATION = "lb.kubesphere.io/v1alpha1"
OPT_IN_VALUES = ("porter", "openelb")
MISSPELT_OPT_IN_ANNOTATION = "lb.kubesphere.io/v1apha1"
WANTED_ADDRESS_ANNOTATIONS = ("eip.porter.kubesphere.io/v1alpha1", "eip.openelb.kubesphere.io/v1alpha1")
WANTED_POOL_ANNOTATION = "eip.openelb.kubesphere.io/v1alpha2"
SHARING_KEY_ANNOTATION = "porter-ha.io/sharing-key"
SHARING_KEY_ANNOTATIONS = (  # MetalLB's, too: a Service that comes from there asks for the same
    "metallb.universe.tf/allow-shared-ip",
    "metallb.io/allow-shared-ip",
    SHARING_KEY_ANNOTATION,
)
# Of Porter and OpenELB (anchors 1.1, 1.3): they outlive the controllers that would clear them.
FOREIGN_FINALIZERS = ("finalizer.lb.kubesphere.io/", "finalizer.ipam.kubesphere.io/")
DEFAULT_EIP_ANNOTATION = "eip.openelb.kubesphere.io/is-default-eip"

# Written by us, together with the status change that it explains.
EPOCH_ANNOTATION = "porter-ha.io/epoch"  # the fencing token: which term wrote this
EIPS_ANNOTATION = "porter-ha.io/eips"  # the addresses in status that are ours, separated by commas
BARRIER_ANNOTATION = "porter-ha.io/barrier"
HANDOVER_ANNOTATION = "porter-ha.io/hand-over"  # on the Lease: the epoch that is asked to end, and no later one
WITHDRAW_ANNOTATION = "porter-ha.io/withdraw"  # on the Lease: the epoch in which every replica is asked to fall silent
ANNOUNCED_ANNOTATION = "porter-ha.io/announced"  # on the Lease: the epoch whose paths routers have, and the node
CONDITION_ASSIGNED = "porter-ha.io/Assigned"

SLICE_SERVICE_LABEL = "kubernetes.io/service-name"
EXCLUDE_NODE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
RACK_LABELS = ("porter.kubesphere.io/rack", "openelb.kubesphere.io/rack")
DRAIN_NODE_ANNOTATION = "porter-ha.io/drain"
DRAIN_TAINTS = ("ToBeDeletedByClusterAutoscaler",)

COMPONENT = "porter-ha"
LEASE_NAME = "porter-ha-leader"
BARRIER_SERVICE = "porter-ha-barrier"
MANAGER_WORKLOAD, AGENT_WORKLOAD = "porter-ha-manager", "porter-ha-agent"  # the chart's Deployment and DaemonSet
AGENT_CONTAINER = "agent"  # of the DaemonSet
REPLICA_LEASE_PREFIX = "porter-ha-replica-"
REPLICA_LABEL = "porter-ha.io/replica"
REPLICA_ADDRESS_ANNOTATION = "porter-ha.io/address"
BGP_CONF_NAME = "default"

# The term as an object of its own: the admission policy's parameter, and the record from which a lost Lease is rebuilt.
OWN_GROUP, OWN_VERSION = "porter-ha.io", "v1"
TERM_NAME = "porter-ha"
FENCE_NAME = "porter-ha-fence"
ADVICE_NAME = "porter-ha-advice"

# The agent's own corner of the kernel (design 2.5).
ROUTE_TABLE = 4790
RULE_PRIORITY = 4790
ROUTE_PROTOCOL = 79
NFT_TABLE = "porter-ha"
REDIRECT_TABLE = "porter-ha-bgp"
IPVS_LINK = "kube-ipvs0"
