"""The MLflow model registry: log a student, register it, move the aliases.

Aliases only (``champion``, ``challenger``), never stages. A version is a pyfunc around a plain Hugging Face folder.
The champion alias is moved last, so a crash before it leaves the old champion serving.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow import tracking
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Version:
    """A registered version and its tags."""

    name: str
    version: str
    tags: Mapping[str, str]

    @property
    def reference(self) -> str:
        """What `rankers.load_ranker` and MLflow load: ``models:/NAME/VERSION``."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Serving:
    """What the pyfunc needs: ``scoring`` (ScoringConfig as data) and the ``versions`` of its packages."""

    scoring: Mapping[str, Any]
    versions: Mapping[str, str]


def champion(name: str) -> Version | None:
    """The version that serves now, or None."""
    from mlflow.exceptions import MlflowException

    try:
        found = tracking.client().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # Only "there is none" means none: a registry that is in trouble must not look empty.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return Version(name, str(found.version), dict(found.tags))


def opponent(name: str, run_key: str) -> str:
    """Reference of the champion that the work ``run_key`` is measured against, or "": the one that serves, unless this
    very work made it.

    Then it is the one that served before: a repeated run asks the same question and meets its cached answer, instead of
    comparing a model with itself.
    """
    serving = champion(name)
    if serving is None:
        return ""
    return serving.tags.get("inranker.against", "") if serving.tags.get("run_key") == run_key else serving.reference


def fetch(reference: str) -> Path:
    """Local Hugging Face folder of ``models:/NAME/VERSION`` (or ``@ALIAS``), downloaded where it is remote."""
    import mlflow
    from mlflow.exceptions import MlflowException

    tracking.client()
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=reference))
    except MlflowException as error:
        raise UserError(f"{reference}: not in the model registry at {mlflow.get_tracking_uri()}: {error}") from error
    return folder / "artifacts" / "checkpoint"


def register(name: str, student: Path, digest: str, tags: Mapping[str, str], serving: Serving, run_id: str) -> Version:
    """Log the folder ``student`` into MLflow run ``run_id`` and register it as a version of ``name``.

    The same content (``digest``) registered by an earlier, interrupted attempt is found again, not made twice.
    """
    from mlflow.exceptions import MlflowException

    mlflow_client = tracking.client()
    try:
        mlflow_client.create_registered_model(name, description="Reranker distilled by InRanker Flow.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in mlflow_client.search_model_versions(f"name = '{name}'"):
        if known.tags.get("digest.model") == digest and known.status == "READY":
            log.info("%s version %s already holds this model", name, known.version)
            return Version(name, str(known.version), dict(known.tags))
    with tempfile.TemporaryDirectory() as folder:
        save_pyfunc(Path(folder) / "model", student, serving)
        mlflow_client.log_artifacts(run_id, str(Path(folder) / "model"), "model")
    made = mlflow_client.create_model_version(
        name, f"runs:/{run_id}/model", run_id, tags={**tags, "digest.model": digest}
    )
    log.info("registered %s version %s", name, made.version)
    return Version(name, str(made.version), {**tags, "digest.model": digest})


def save_pyfunc(path: Path, student: Path, serving: Serving) -> None:
    """Write the MLflow model: pyfunc code, this package (so that it loads anywhere), and the checkpoint folder."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    package = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # It asks for type hints and an input example; the signature below says more than either.
        warnings.simplefilter("ignore", UserWarning)
        code = Path(folder) / package.name
        shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__", "demo"))
        checkpoint = Path(folder) / "checkpoint"
        shutil.copytree(student, checkpoint)
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(package / "serving.py"),
            artifacts={"checkpoint": str(checkpoint)},
            model_config=dict(serving.scoring),
            code_paths=[str(code)],
            pip_requirements=_requirements(serving.versions),
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string, "query"), ColSpec(Array(DataType.string), "passages")]),
                outputs=Schema([ColSpec(Array(DataType.double))]),
            ),
        )


def _requirements(versions: Mapping[str, str]) -> list[str]:
    """What `serving.Reranker` imports: the training's versions, and those of what is installed here."""
    from importlib.metadata import version

    import mlflow

    # The images hold `mlflow-skinny`, which brings the same package under another name.
    here = {"mlflow": mlflow.__version__, **{name: version(name) for name in ("pyarrow", "boto3")}}
    return [f"{name}=={number}" for name, number in {**here, **versions}.items()]


def set_alias(version: Version, alias: str) -> None:
    """Point ``alias`` at ``version``: one atomic write in the registry."""
    tracking.client().set_registered_model_alias(version.name, alias, version.version)


def set_tags(version: Version, tags: Mapping[str, str]) -> None:
    """Add or replace tags of a version."""
    for key, value in tags.items():
        tracking.client().set_model_version_tag(version.name, version.version, key, value)
