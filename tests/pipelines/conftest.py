"""A cluster's surroundings for tests of the commands: KFP's API, a registry with every image, no Kubernetes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from inranker_flow.commands import plan
from inranker_flow.planning.plans import Plan
from inranker_flow.settings.profile import Profile
from pipelines import kfp_api, release
from pipelines.compile import compile_pipeline
from tests import models
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
    monkeypatch.setattr(release, "compile_pipeline", _compiled_once)
    monkeypatch.setattr(plan, "outline", _outlined_once)
    monkeypatch.setattr(kfp_api, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(kfp_api, "LOOKS", (0.01, 0.02, 0.05))


#: What was compiled, by its arguments and the registry: the same gives the same (test_compiled.py), each time for half a
#: second.
_compiled: dict[tuple[str, ...], Path] = {}


def _compiled_once(name: str, path: Path, *more: object) -> Path:
    key = name, os.environ.get("INRANKER_REGISTRY", ""), repr(more)
    if key not in _compiled:
        _compiled[key] = compile_pipeline(name, models.folder() / f"{len(_compiled)}.yaml", *more)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_compiled[key], path)
    return path


#: What was planned, likewise: counting a collection takes a fifth of a second.
_outlined: dict[str, Plan] = {}
_outline = plan.outline


def _outlined_once(pipeline: str, profile: Profile, database: Path, device: str = "") -> Plan:
    key = repr((pipeline, profile, database, device))
    if key not in _outlined:
        _outlined[key] = _outline(pipeline, profile, database, device)
    return _outlined[key]


#: Modules that hold the pipeline, by the registry that they were defined with: defining them takes most of a second.
_defined: dict[str, dict[str, ModuleType]] = {}


def _take_pipeline() -> dict[str, ModuleType]:
    """Take the pipeline's modules out of those that are imported."""
    own = ("pipelines.inranker", "pipelines.retrain", "pipelines.two_phases", "pipelines.workers")
    names = [name for name in sys.modules if name.split(".")[0] == "components" or name in own]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def use_registry(surroundings, monkeypatch):
    """Use a registry as REGISTRY; components name their image when they are defined, so each registry has its own."""
    before = _take_pipeline()

    def use(name: str) -> None:
        _defined[os.environ.get("INRANKER_REGISTRY", "")] = _take_pipeline()
        monkeypatch.setenv("INRANKER_REGISTRY", name)
        sys.modules.update(_defined.get(name, {}))

    monkeypatch.setenv("INRANKER_REGISTRY", "none")
    yield use
    use("none")
    sys.modules.update(before)


@pytest.fixture(scope="session")
def _registry():
    with Registry() as found:
        yield found


@pytest.fixture
def registry(_registry, use_registry):
    """A registry that has every image."""
    _registry.everything, _registry.asks = True, ""
    _registry.images.clear()
    _registry.requests.clear()
    use_registry(f"{_registry.name}/search")
    return _registry


@pytest.fixture
def server(surroundings, registry, monkeypatch):
    """A multi-user KFP API, found through the environment."""
    with KfpApi() as api:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.url)
        monkeypatch.setenv("KF_PIPELINES_TOKEN", "good")
        yield api
        assert not api.violations
