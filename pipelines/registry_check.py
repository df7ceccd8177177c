"""Are the images of a pipeline in their registry? Asked with the registry's own protocol, before anything is created."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import web

#: Seconds to wait for a registry.
TIMEOUT = 5
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


@dataclass(frozen=True)
class Reference:
    """An image's name taken apart."""

    registry: str
    repository: str
    version: str

    @classmethod
    def parse(cls, image: str) -> Reference:
        """Return ``[REGISTRY/]REPOSITORY(:TAG|@DIGEST)`` by Docker's rules."""
        first, slash, rest = image.partition("/")
        if not slash or not ("." in first or ":" in first or first == "localhost"):
            first, rest = "docker.io", image
        name, at, digest = rest.partition("@")
        repository, _, tag = name.partition(":")
        return cls(first, repository, digest if at else tag or "latest")

    @property
    def address(self) -> str:
        """Where its manifest is. Registries on this machine speak plain HTTP, all others HTTPS."""
        host = {"docker.io": "registry-1.docker.io"}.get(self.registry, self.registry)
        scheme = "http" if _is_here(host) else "https"
        return f"{scheme}://{host}/v2/{self.repository}/manifests/{self.version}"


def check_pushed(images: Iterable[str]) -> list[str]:
    """Refuse images that their registry does not have; returns a warning for each that could not be asked about.

    The cluster may reach a registry that this machine does not: only a clear "not there" is an error
    (:class:`UserError`).
    """
    warnings: dict[str, str] = {}
    for image in sorted(set(images)):
        reference = Reference.parse(image)
        if reference.registry == "localhost":
            raise UserError(
                f"image {image}: no registry is named, so no cluster can pull it; set REGISTRY=HOST/PATH, then: "
                "make push REGISTRY=HOST/PATH, and submit with the same REGISTRY",
                code="image-not-pushed",
            )
        if reference.registry in warnings:
            continue
        try:
            status = _ask(reference)
        except (OSError, HTTPException, ValueError, UserError) as error:
            warnings[reference.registry] = f"registry {reference.registry} cannot be asked ({web.reason(error)})"
            continue
        if status == 404:
            name = image.partition("/inranker-flow-")[0]
            raise UserError(f"image {image} is not pushed: make push REGISTRY={name}", code="image-not-pushed")
        if status >= 300:
            warnings[reference.registry] = f"registry {reference.registry} does not tell us (HTTP {status})"
    return [f"{warning}: whether the images are pushed is not checked" for warning in warnings.values()]


def _ask(reference: Reference) -> int:
    """Return the status of the manifest's HEAD: asked without, then with what the registry wants to see."""
    stored = _stored_login(reference.registry)
    status, challenge = _head(reference.address, "")
    if status != 401:
        return status
    scheme, _, details = challenge.partition(" ")
    if scheme.lower() == "bearer":
        token = _token(dict(re.findall(r'(\w+)="([^"]*)"', details)), stored)
        return _head(reference.address, f"Bearer {token}")[0] if token else status
    return _head(reference.address, f"Basic {stored}")[0] if stored else status


def _head(url: str, authorization: str) -> tuple[int, str]:
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": _MANIFESTS})
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return int(answer.status), ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("WWW-Authenticate", "")


def _token(challenge: dict[str, str], stored: str) -> str:
    """Return a token from the address that the registry names; the stored login goes there over TLS only."""
    realm = challenge.pop("realm", "")
    request = urllib.request.Request(f"{realm}?{urllib.parse.urlencode(challenge)}")
    parts = urllib.parse.urlsplit(realm)
    if parts.scheme not in ("http", "https"):
        return ""
    if stored and (parts.scheme == "https" or _is_here(parts.netloc)):
        request.add_unredirected_header("Authorization", f"Basic {stored}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError:
        return ""
    return str(body.get("token") or body.get("access_token") or "")


def _stored_login(registry: str) -> str:
    """Return the login of `docker login` for a registry (base64 of user:password), or ""."""
    folder = variables.docker_config()
    try:
        logins = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auths", {})
    except (OSError, ValueError):
        return ""
    names = (
        ("https://index.docker.io/v1/", "docker.io") if registry == "docker.io" else (registry, f"https://{registry}")
    )
    return next((str(logins[name]["auth"]) for name in names if logins.get(name, {}).get("auth")), "")


def _is_here(host: str) -> bool:
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "127.0.0.1", "::1")
