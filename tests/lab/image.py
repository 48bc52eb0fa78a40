"""The built image in the lab: its own root filesystem, read-only, with the arguments, environment and capabilities that
the chart gives its containers. There is no container engine in it, only what one would set up.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.lab import controlplane
from tests.lab.cluster import MANIFEST
from tests.lab.shell import ROOT, STATE, run, start
from tests.lab.topology import API, lan

STORE = ROOT / "build"
PODMAN = ["podman", "--storage-driver=vfs", "--root", f"{STORE / 'podman'}", "--runroot", f"{STORE / 'podman-run'}"]
ACCOUNT = "run/secrets/kubernetes.io/serviceaccount"
ENTER = (
    """
set -e
root=$1 account=$2 capabilities=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$account" "$root/"""
    + ACCOUNT
    + """"
mount -o remount,ro,bind "$root"
exec chroot "$root" setpriv --no-new-privs --bounding-set "$capabilities" --inh-caps "$capabilities" "$@"
"""
)


class Image:
    """A container's root filesystem, made from the image."""

    def __init__(self, tag: str) -> None:
        self._container = run(*PODMAN, "create", tag).strip()
        self.root = Path(run(*PODMAN, "mount", self._container).strip())
        (self.root / ACCOUNT).mkdir(parents=True)

    def remove(self) -> None:
        run(*PODMAN, "rm", "--force", self._container)

    def start(self, node: str, workload: str, user: str) -> None:
        """A container of the chart's Deployment or DaemonSet, as the kubelet of the node would start it."""
        (found,) = [d for d in yaml.safe_load_all(MANIFEST.read_text()) if d and _is(d, workload)]
        (container,) = found["spec"]["template"]["spec"]["containers"]
        name = f"{workload}-{node}"
        fields = {
            "metadata.name": name,
            "metadata.namespace": found["metadata"]["namespace"],
            "spec.nodeName": node,
            "status.hostIPs": ",".join(lan(node)),
        }
        environment = {e["name"]: fields[e["valueFrom"]["fieldRef"]["fieldPath"]] for e in container["env"]}
        account = STATE / f"account-{user}"
        account.mkdir(exist_ok=True)
        (account / "token").write_text(f"lab-{user}")
        (account / "ca.crt").write_bytes((controlplane.PKI / "ca.crt").read_bytes())
        allowed = [f"+{capability.lower()}" for capability in container["securityContext"]["capabilities"]["add"]]
        command = ["bash", "-c", ENTER, "enter", str(self.root), str(account), ",".join(["-all", *allowed])]
        path = "/opt/porter-ha/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, **environment, "KUBERNETES_SERVICE_HOST": API, "KUBERNETES_SERVICE_PORT": "6443"}
        clean = ["env", "-i", *(f"{key}={value}" for key, value in variables.items())]
        component = workload.removeprefix("porter-ha-")
        start(f"{node}-{component}", [*command, *clean, "porter-ha", *container["args"]], node, respawn=True)


def _is(document: dict[str, Any], workload: str) -> bool:
    return bool(document["kind"] in ("Deployment", "DaemonSet") and document["metadata"]["name"] == workload)


def forget() -> None:
    """Remove every image and container of the build; the base is made from its archive again."""
    run(*PODMAN, "rmi", "--all", "--force")


def build() -> str:
    """Build it; returns its tag."""
    said = subprocess.run([str(ROOT / "scripts" / "image.sh")], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout.splitlines()[-1].partition(": ")[0]
