"""A cluster's surroundings for tests of the commands: KFP's API, a registry with every image, no Kubernetes."""

from __future__ import annotations

import sys

import pytest

from pipelines import kfp_api, release
from tests.kfp_api import KfpApi
from tests.registry import Registry

_SETTINGS = (
    "KF_PIPELINES_UI_ENDPOINT",
    "KF_PIPELINES_TOKEN_FILE",
    "KF_PIPELINES_SA_TOKEN_PATH",
    "KF_PIPELINES_COOKIES",
    "KF_PIPELINES_NAMESPACE",
    "KUBERNETES_SERVICE_HOST",
    "SSL_CERT_FILE",
)


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """An environment that names nothing outside of the test; short pauses."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(release, "BUILD", tmp_path / "build")
    monkeypatch.setattr(kfp_api, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(kfp_api, "LOOKS", (0.01, 0.02, 0.05))


@pytest.fixture
def use_registry(surroundings, monkeypatch):
    """Use a registry as REGISTRY; the components are defined anew, because they name their image when they are defined."""

    def use(name: str) -> None:
        monkeypatch.setenv("INRANKER_REGISTRY", name)
        for module in [
            each for each in sys.modules if each.split(".")[0] == "components" or each == "pipelines.inranker"
        ]:
            monkeypatch.delitem(sys.modules, module)

    return use


@pytest.fixture
def registry(use_registry):
    """A registry that has every image."""
    with Registry(everything=True) as found:
        use_registry(f"{found.name}/search")
        yield found


@pytest.fixture
def server(surroundings, registry, monkeypatch):
    """A multi-user KFP API, found through the environment."""
    with KfpApi() as api:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.url)
        monkeypatch.setenv("KF_PIPELINES_TOKEN", "good")
        yield api
        assert not api.violations
