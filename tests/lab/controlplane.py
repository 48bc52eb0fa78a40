"""A real etcd, kube-apiserver and kube-controller-manager in the lab's controlplane namespace, and kubectl for all."""

import json
import subprocess
from pathlib import Path

from tests.lab import topology
from tests.lab.shell import PARTS, STATE, LabError, run, start, until

SERVER = f"https://{topology.API}:6443"
HOST_SERVER = f"https://{topology.HOST_API}:6443"
USERS = {  # token -> (user, groups); the lab's own, worth nothing outside its namespaces
    "admin": ("lab-admin", "system:masters"),
    "manager": ("system:serviceaccount:porter-ha-system:porter-ha-manager", ""),
    "agent": ("system:serviceaccount:porter-ha-system:porter-ha-agent", ""),
    "proxy": ("system:kube-proxy", ""),
    "kubelet": ("lab-kubelet", "system:masters"),
    "controllers": ("system:kube-controller-manager", "system:masters"),
    "scheduler": ("system:kube-scheduler", "system:masters"),
}
PKI = STATE / "pki"
KUBECONFIG = STATE / "kubeconfig"


def kubeconfig(user: str, server: str = SERVER) -> Path:
    """A kubeconfig file of one of USERS."""
    path = STATE / f"kubeconfig-{user}" if server == SERVER else KUBECONFIG
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": "lab", "cluster": {"server": server, "certificate-authority": str(PKI / "ca.crt")}}
                ],
                "users": [{"name": user, "user": {"token": f"lab-{user}"}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
                "current-context": "lab",
            }
        )
    )
    return path


def kubectl(*arguments: str, stdin: str = "", check: bool = True) -> str:
    """kubectl as the lab's admin, from this machine."""
    return run(str(PARTS / "kubectl"), "--kubeconfig", str(KUBECONFIG), *arguments, stdin=stdin, check=check)


def apply(*documents: object) -> None:
    """kubectl apply of objects given as Python values, or as YAML text."""
    text = "\n---\n".join(d if isinstance(d, str) else json.dumps(d) for d in documents)
    kubectl("apply", "-f", "-", stdin=text)


def get(*arguments: str) -> dict[str, object]:
    """kubectl get ... -o json."""
    found: dict[str, object] = json.loads(kubectl("get", *arguments, "-o", "json"))
    return found


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=PKI, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"openssl {' '.join(arguments)}: {done.stderr}")


def _certificates() -> None:
    PKI.mkdir(parents=True, exist_ok=True)
    names = ",".join(
        [f"IP:{topology.API}", f"IP:{topology.HOST_API}", "IP:127.0.0.1", "IP:10.96.0.1", "DNS:kubernetes.default.svc"]
    )
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl("req", "-x509", *ec, "-subj", "/CN=lab-ca", *ca, "-keyout", "ca.key", "-out", "ca.crt")
    _openssl("req", *ec[:4], "-nodes", "-subj", "/CN=kube-apiserver", "-keyout", "api.key", "-out", "api.csr")
    (PKI / "api.ext").write_text(
        f"subjectAltName={names}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "basicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n"
    )
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "api.ext"]
    _openssl("x509", "-req", "-in", "api.csr", *signing, "-out", "api.crt")
    _openssl("genrsa", "-out", "sa.key", "2048")
    (PKI / "tokens.csv").write_text(
        "".join(f'lab-{token},{user},{token},"{groups}"\n' for token, (user, groups) in USERS.items())
    )


def start_etcd() -> None:
    start(
        "etcd",
        [
            str(PARTS / "etcd"),
            f"--data-dir={STATE / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=error",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380",
        ],
        "controlplane",
    )


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


def start_apiserver(pods: bool = False) -> None:
    """With `pods`, every pod is given its ServiceAccount's token, as in a real cluster, and what they ask is kept."""
    (STATE / "audit.json").write_text(json.dumps(AUDIT_POLICY))
    audit = [f"--audit-policy-file={STATE / 'audit.json'}", f"--audit-log-path={STATE / 'audit.log'}"]
    start(
        "kube-apiserver",
        [
            str(PARTS / "kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={topology.API}",
            "--secure-port=6443",
            "--service-cluster-ip-range=10.96.0.0/16,fd96::/112",
            f"--tls-cert-file={PKI / 'api.crt'}",
            f"--tls-private-key-file={PKI / 'api.key'}",
            f"--token-auth-file={PKI / 'tokens.csv'}",
            f"--service-account-key-file={PKI / 'sa.key'}",
            f"--service-account-signing-key-file={PKI / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            f"--{'enable' if pods else 'disable'}-admission-plugins=ServiceAccount",
            "--enable-priority-and-fairness=false",
            "--kubelet-preferred-address-types=InternalIP",
            "--v=0",
            *(audit if pods else ()),
        ],
        "controlplane",
    )


Verb = tuple[str, str, str]  # API group, resource with its subresource, verb


def audited(namespace: str) -> tuple[dict[str, set[Verb]], list[str]]:
    """What the namespace's ServiceAccounts have asked for, by account, and what was refused them."""
    asked: dict[str, set[Verb]] = {}
    refused = []
    for line in (STATE / "audit.log").read_text().splitlines():
        event = json.loads(line)
        user, where, status = event["user"]["username"], event.get("objectRef"), event.get("responseStatus", {})
        if user.startswith(f"system:serviceaccount:{namespace}:") and where:
            if status.get("code") in (401, 403):
                refused.append(f"{user}: {event['verb']} {event['requestURI']}: {status.get('message', '')}")
            resource = "/".join(filter(None, (where["resource"], where.get("subresource"))))
            asked.setdefault(user.rpartition(":")[2], set()).add((where.get("apiGroup", ""), resource, event["verb"]))
    return asked, refused


LAB_CONTROLLERS = "endpointslice-controller,node-lifecycle-controller,namespace-controller,garbage-collector-controller"
STOCK_GRACE = "40s"  # what notices a dead node in the lab is ours


def start_controllers(names: str = LAB_CONTROLLERS, grace: str = STOCK_GRACE) -> None:
    start(
        "kube-controller-manager",
        [
            str(PARTS / "kube-controller-manager"),
            f"--kubeconfig={kubeconfig('controllers')}",
            f"--controllers={names}",
            "--leader-elect=false",
            "--node-monitor-period=500ms",
            f"--node-monitor-grace-period={grace}",
            "--concurrent-service-endpoint-syncs=5",
            f"--service-account-private-key-file={PKI / 'sa.key'}",
            f"--root-ca-file={PKI / 'ca.crt'}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ],
        "controlplane",
    )


def start_scheduler() -> None:
    command = [str(PARTS / "kube-scheduler"), f"--kubeconfig={kubeconfig('scheduler')}", "--leader-elect=false"]
    start("kube-scheduler", command, "controlplane")


def start_all(controllers: bool = True, pods: bool = False) -> None:
    """Bring the control plane up, ready to serve."""
    STATE.mkdir(parents=True, exist_ok=True)
    _certificates()
    kubeconfig("admin", HOST_SERVER)
    start_etcd()
    start_apiserver(pods)
    ready = lambda: "ok" in kubectl("get", "--raw", "/readyz", check=True)  # noqa: E731
    until("the API server (build/lab/log/kube-apiserver.log)", ready, 60)
    if controllers:
        start_controllers()
