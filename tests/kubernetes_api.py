"""The reading half of a Kubernetes API server, with objects that a test adds: real HTTP for real clients."""

from __future__ import annotations

import datetime
import json
import re
import ssl
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.http_server import LoopbackServer

#: Resources that every cluster with KFP has, with their kinds: their lists may be empty, other lists are 404.
BUILT_IN = {
    "v1": {
        "configmaps": "ConfigMap",
        "events": "Event",
        "namespaces": "Namespace",
        "nodes": "Node",
        "pods": "Pod",
        "resourcequotas": "ResourceQuota",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "argoproj.io/v1alpha1": {"workflows": "Workflow"},
    "batch/v1": {"jobs": "Job"},
    "events.k8s.io/v1": {"events": "Event"},
}


class KubernetesApi(LoopbackServer):
    """The server runs while its context is open.

    ``with KubernetesApi() as api``: :meth:`add` objects, then point a client at :attr:`url` (or :meth:`kubeconfig`).
    A set :attr:`token` is demanded as Bearer. ``tls`` serves HTTPS with a certificate of its own, :attr:`ca` (PEM),
    which needs ``folder`` to lie in.
    """

    def __init__(self, token: str = "", tls: bool = False, folder: Path | None = None) -> None:
        self.token = token
        #: Log of a pod: (namespace, pod) -> text.
        self.logs: dict[tuple[str, str], str] = {}
        #: Log of a container other than ``main``: (namespace, pod, container) -> text.
        self.container_logs: dict[tuple[str, str, str], str] = {}
        #: What a TokenRequest is answered with: "namespace/account" -> token; and the audiences that were asked for.
        self.tokens: dict[str, str] = {}
        self.audiences: list[list[str]] = []
        #: (method, path with query) of every request, in order.
        self.requests: list[tuple[str, str]] = []
        self.ca = ""
        self._objects: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self._resources = {version: dict(kinds) for version, kinds in BUILT_IN.items()}
        self._forbidden: set[str] = set()
        super().__init__(_handler(self))
        if tls:
            assert folder is not None
            self.ca = _certificate(folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "server.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://127.0.0.1:{self.port}"

    def install(self, api_version: str, kind: str) -> None:
        """Make a custom kind known, as a CRD does; :meth:`add` does it too."""
        self._resources.setdefault(api_version, {})[_plural(kind)] = kind

    def add(self, manifest: dict[str, Any]) -> None:
        """Store an object, or replace the one of this kind, namespace and name."""
        api_version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
        self.install(api_version, kind)
        key = (api_version, _plural(kind), metadata.get("namespace", ""), metadata["name"])
        self._objects[key] = json.loads(json.dumps(manifest))

    def remove(self, manifest: dict[str, Any]) -> None:
        """Delete what :meth:`add` stored."""
        metadata = manifest["metadata"]
        kind = _plural(manifest["kind"])
        del self._objects[(manifest["apiVersion"], kind, metadata.get("namespace", ""), metadata["name"])]

    def forbid(self, resource: str) -> None:
        """Answer 403 for a resource (``nodes``, ``pods/log``), as for an account without the verb."""
        self._forbidden.add(resource)

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server."""
        cluster = {"server": self.url}
        if self.ca:
            (path.parent / "ca.crt").write_text(self.ca)
            cluster["certificate-authority"] = str(path.parent / "ca.crt")
        named = {"cluster": "test", "user": "test", "namespace": "inranker"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token} if self.token else {}}],
            "contexts": [{"name": "test", "context": named}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    # --- what the server answers --------------------------------------------------------------------------------------

    def answer(self, path: str, query: dict[str, str], token: str) -> tuple[int, Any]:
        """Status and body (JSON data, or text) of a GET."""
        if self.token and token != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == ["version"]:
            return 200, {"major": "1", "minor": "32", "gitVersion": "v1.32.4"}
        if parts[0] == "api" and len(parts) >= 2:
            return self._resource(parts[1], parts[2:], query)
        if parts[0] == "apis" and len(parts) == 2:
            return self._group(parts[1])
        if parts[0] == "apis" and len(parts) >= 3:
            return self._resource(f"{parts[1]}/{parts[2]}", parts[3:], query)
        return _status(404, "NotFound", "the server could not find the requested resource")

    def _group(self, group: str) -> tuple[int, Any]:
        versions = [version for version in self._resources if version.startswith(f"{group}/")]
        if not versions:
            return _status(404, "NotFound", "the server could not find the requested resource")
        named = [{"groupVersion": each, "version": each.split("/")[1]} for each in versions]
        return 200, {
            "kind": "APIGroup",
            "apiVersion": "v1",
            "name": group,
            "versions": named,
            "preferredVersion": named[-1],
        }

    def _resource(self, api_version: str, parts: list[str], query: dict[str, str]) -> tuple[int, Any]:
        namespace = ""
        if len(parts) > 2 and parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        plural, name, sub = (*parts, "", "", "")[:3]
        if plural not in self._resources.get(api_version, {}):
            return _status(404, "NotFound", "the server could not find the requested resource")
        if plural in self._forbidden or f"{plural}/{sub}" in self._forbidden:
            what = f"{plural}/{sub}" if sub else plural
            return _status(403, "Forbidden", f'{what} is forbidden: User "test" cannot get resource "{what}"')
        if not name:
            return self._list(api_version, plural, namespace, query)
        found = self._objects.get((api_version, plural, namespace, name))
        if found is None:
            return _status(404, "NotFound", f'{plural} "{name}" not found')
        if sub == "log":
            return self._log(namespace, name, query)
        return 200, found

    def _list(self, api_version: str, plural: str, namespace: str, query: dict[str, str]) -> tuple[int, Any]:
        items = [
            each
            for (version, kind, where, _), each in sorted(self._objects.items())
            if (version, kind) == (api_version, plural) and namespace in ("", where)
            if _labels_match(each["metadata"].get("labels") or {}, query.get("labelSelector", ""))
            if _fields_match(each, query.get("fieldSelector", ""))
        ]
        kind = f"{self._resources[api_version][plural]}List"
        return 200, {"apiVersion": api_version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items}

    def _log(self, namespace: str, pod: str, query: dict[str, str]) -> tuple[int, Any]:
        container = query.get("container", "main")
        text = (
            self.logs.get((namespace, pod))
            if container == "main"
            else self.container_logs.get((namespace, pod, container))
        )
        if text is None:
            message = f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating'
            return _status(400, "BadRequest", message)
        lines = text.splitlines(keepends=True)
        tail = int(query.get("tailLines", len(lines)))
        return 200, "".join(lines[max(0, len(lines) - tail) :])


def _plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


def _labels_match(labels: dict[str, str], selector: str) -> bool:
    for part in re.split(r",(?![^(]*\))", selector):
        term = part.strip()
        if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", term):
            key, operator, values = found.groups()
            if (labels.get(key) in [value.strip() for value in values.split(",")]) != (operator == "in"):
                return False
        elif found := re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term):
            key, operator, value = found.groups()
            if (labels.get(key) == value) != (operator != "!="):
                return False
        elif term and (term.lstrip("!") in labels) == term.startswith("!"):
            return False
    return True


def _fields_match(manifest: dict[str, Any], selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        assert found, f"a malformed field selector: {selector}"
        path, operator, expected = found.groups()
        value: Any = manifest
        for key in path.split("."):
            value = (value or {}).get(key)
        if ((value or "") == expected) != (operator != "!="):
            return False
    return True


def _status(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return code, {**body, "reason": reason, "message": message, "code": code}


def _handler(api: KubernetesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            api.requests.append((self.command, self.path))
            split = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(split.query).items()}
            self._send(*api.answer(split.path, query, self.headers.get("Authorization", "")))

        def do_POST(self) -> None:
            """TokenRequest is all that is written here."""
            found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/serviceaccounts/([^/]+)/token", self.path)
            token = api.tokens.get("/".join(found.groups())) if found else None
            if token is None:
                self._refuse()
                return
            api.requests.append((self.command, self.path))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.audiences.append(body["spec"]["audiences"])
            status = {"token": token, "expirationTimestamp": "2026-11-25T04:00:00Z"}
            self._send(
                201, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", **body, "status": status}
            )

        def _refuse(self) -> None:
            api.requests.append((self.command, self.path))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(*_status(405, "MethodNotAllowed", "this server is read-only"))

        do_PUT = do_PATCH = do_DELETE = _refuse  # noqa: N815

        def _send(self, code: int, body: Any) -> None:
            text = isinstance(body, str)
            data = body.encode() if text else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _certificate(folder: Path) -> str:
    """A self-signed certificate for 127.0.0.1 with its key in ``folder``/server.pem; returns the certificate."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.PEM).decode()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    (folder / "server.pem").write_text(secret + certificate)
    return certificate


def node(name: str, labels: dict[str, str], allocatable: dict[str, str], *taints: str) -> dict[str, Any]:
    """A ready Node; taints as ``kubectl taint`` writes them (``KEY=VALUE:EFFECT``)."""
    parsed = []
    for taint in taints:
        pair, _, effect = taint.partition(":")
        key, _, value = pair.partition("=")
        parsed.append({"key": key, "value": value, "effect": effect})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": parsed},
        "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
    }
