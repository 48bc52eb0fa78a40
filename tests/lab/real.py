"""Real nodes for the lab: kubelet, containerd and kube-proxy on the lab's network, namespaces of its own for each.

Killing a node's first process is a power cut: it ends everything on the node at once. Settings that say 0 or false here
are those that a machine without CAP_SYS_RESOURCE, with version 1 cgroups, needs.
"""

import json
import shutil
import signal
from pathlib import Path

from porter_ha.model.names import ROUTE_TABLE, RULE_PRIORITY
from tests.lab import controlplane, nodes, routers, topology
from tests.lab.cluster import Say, down
from tests.lab.controlplane import kubeconfig, kubectl
from tests.lab.shell import PARTS, PREFIX, ROOT, STATE, inside, run, start, stop, until
from tests.lab.topology import NODES, lan

CONTAINERD = ROOT / "build" / "containerd"
IMAGES = (ROOT / "build" / "pause.tar", ROOT / "build" / "image.tar")
CGROUPS = Path("/sys/fs/cgroup")
MACHINE = ("vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops")  # a kubelet changes these of all
_before: dict[str, str] = {}

BOOT = """
set -e
home=$1 name=$2
shift 2
hostname "$name"
mount --make-rprivate /
umount -R /run/netns 2>/dev/null || true       # our view of the other nodes would keep them alive
mkdir -p "$home/cgroup"
mount --rbind /sys/fs/cgroup "$home/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$home/cgroup" /sys/fs/cgroup
umount -l -R "$home/cgroup"
for own in /run /var/log /var/lib/cni; do mkdir -p $own; mount -t tmpfs tmpfs $own; done
mount --bind "$home/resolv.conf" /etc/resolv.conf
mount --make-rshared /
PATH=$1:$PATH "$1/containerd" --config "$home/containerd.toml" &
until "$1/ctr" -a /run/containerd.sock version >/dev/null 2>&1; do sleep 0.1; done
if [ ! -e "$home/imported" ]; then
  for image in $4; do "$1/ctr" -a /run/containerd.sock -n k8s.io images import --local "$image" >/dev/null; done
  touch "$home/imported"
fi
shift
"$1" --config="$home/kubelet.json" --kubeconfig="$2" --hostname-override="$name" --root-dir="$home/kubelet" \
  --node-ip="$4" --v=1 &
wait -n                                         # whichever ends first ends the node
"""


def _containerd(home: Path) -> str:
    runtime = "io.containerd.cri.v1.runtime"
    return f"""
version = 3
root = "{home}/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd.sock"
[ttrpc]
address = "/run/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "porter-ha.lab/pause:1"
[plugins."{runtime}"]
restrict_oom_score_adj = true
[plugins."{runtime}".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{home}/cni"
[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def _cni(node: str) -> dict[str, object]:
    number = node[-1]
    ranges = [[{"subnet": subnet}] for subnet in (f"10.244.{number}.0/24", f"fd44:{number}::/64")]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    return {"cniVersion": "1.0.0", "name": "lab", "plugins": [{**bridge, "ipam": ipam}, {"type": "portmap"}]}


def _kubelet(home: Path, node: str) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{PREFIX}{node}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "clusterDNS": ["10.96.0.10"],
        "resolvConf": str(home / "resolv.conf"),
    }


NEEDED = 8 << 30  # bytes of disk: the image's layers, and a copy on each node


def unable() -> str:
    """Why this machine cannot run kubelets; empty when it can."""
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED:
        return f"real nodes take {NEEDED >> 30} GiB of disk; {free >> 30} GiB are free"
    if not Path("/dev/kmsg").exists():
        return "a kubelet reads /dev/kmsg, and there is none"
    try:
        for group in _cgroups("trial"):
            group.mkdir(exist_ok=True)
            group.rmdir()
    except OSError as error:
        return f"this machine lets nobody make a cgroup: {error}"
    return ""


def _home(node: str) -> Path:
    return STATE / f"home-{node}"


def _cgroups(node: str) -> list[Path]:
    one = (CGROUPS / "cgroup.controllers").exists()  # version 2
    hierarchies = [CGROUPS] if one else sorted(path for path in CGROUPS.iterdir() if path.is_dir())
    return [hierarchy / f"{PREFIX}{node}" for hierarchy in hierarchies]


def _prepare(node: str) -> None:
    home = _home(node)
    (home / "cni").mkdir(parents=True)
    (home / "cni" / "lab.conflist").write_text(json.dumps(_cni(node)))
    (home / "containerd.toml").write_text(_containerd(home))
    (home / "kubelet.json").write_text(json.dumps(_kubelet(home, node)))
    # There is no DNS here, and a name that nobody answers for must not take 5 s.
    (home / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")


def start_node(node: str) -> None:
    """Boot a node: its kubelet starts whatever the API server has for it."""
    for group in _cgroups(node):
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (group / name).exists():
                (group / name).write_text((group.parent / name).read_text())
    own = ["nsenter", f"--net=/run/netns/{PREFIX}{node}"]
    own += ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    boot = [*own, "bash", "-c", BOOT, "boot", str(_home(node)), node, str(CONTAINERD)]
    images = " ".join(str(image.resolve()) for image in IMAGES)
    start(f"{node}-real", [*boot, str(PARTS / "kubelet"), str(kubeconfig("kubelet")), images, ",".join(lan(node))])
    nodes.start_proxy(node)


def power_off(node: str) -> None:
    """Pull the cable and cut the power."""
    topology.set_link(node, up=False)
    cut(node)


def cut(node: str) -> None:
    """Cut the power: processes end, and what a kernel forgets with them is forgotten, though the namespace lives on.
    A pod's own namespace outlives its processes for as long as a connection of theirs is being closed."""
    for name in ("real", "kube-proxy"):
        stop(f"{node}-{name}", signal.SIGKILL)
    ports = json.loads(inside(node, "ip", "-j", "link", "show", "master", "cni0") or "[]")
    topology.batch([f"link delete {port['ifname']}" for port in ports], node)
    inside(node, "nft", "flush", "ruleset")
    inside(node, "conntrack", "-F", check=False)
    for family in ("-4", "-6"):
        inside(node, "ip", family, "route", "flush", "table", str(ROUTE_TABLE), check=False)
        inside(node, "ip", family, "rule", "delete", "priority", str(RULE_PRIORITY), check=False)


def power_on(node: str) -> None:
    topology.set_link(node, up=True)
    start_node(node)


def ready_nodes() -> list[str]:
    """Nodes that the API server calls Ready."""
    lines = [line.split() for line in kubectl("get", "nodes", "--no-headers").splitlines()]
    return sorted(fields[0] for fields in lines if fields[1] == "Ready")


def up(say: Say = lambda _: None) -> None:
    """Network, control plane, routers, and nodes that run pods; nothing of Porter HA."""
    remove()
    _before.update((name, run("sysctl", "-n", name).strip()) for name in MACHINE)
    say("network: 3 nodes, 2 routers, 1 client, in namespaces of their own")
    topology.create()
    say("control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler")
    controlplane.start_all(controllers=False, pods=True)
    controlplane.start_controllers("*", grace="8s")
    controlplane.start_scheduler()
    kubectl("apply", "-f", str(Path(__file__).parent / "manifests" / "rbac.yaml"))
    say("routers: FRR and BIRD; nodes: kubelet, containerd, kube-proxy (nftables, iptables, nftables)")
    routers.start_frr()
    routers.start_bird()
    for node in NODES:
        _prepare(node)
        start_node(node)
    until("3 Ready nodes", lambda: ready_nodes() == list(NODES), 60)


def remove() -> None:
    """End and remove everything, also what a crashed run left."""
    down()
    for node in NODES:
        for group in _cgroups(node):
            for path in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
                path.rmdir()
            if group.exists():
                group.rmdir()
    for name, value in _before.items():
        run("sysctl", "-qw", f"{name}={value}")
    _before.clear()
