"""A student becomes a version: a pyfunc around a plain Hugging Face folder, logged once and registered once."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow.artifacts.manifest import FILENAME as MANIFEST
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.model_registry import reference_scores, registry, stored_files
from inranker_flow.reading import Served, of_folder
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """The needs of the pyfunc: ``scoring`` (settings of `ScoringConfig` and `reading.Served`, where its folder does not say
    them) and the ``versions`` of its packages; ``reference``: the file with its reference scores, where there is one."""

    scoring: Mapping[str, Any]
    versions: Mapping[str, str]
    reference: Path = Path()

    @property
    def tag(self) -> str:
        """Of a version that is served with other than the defaults; else ""."""
        default = asdict(Served())
        other = {name: self.scoring[name] for name in default if self.scoring.get(name, default[name]) != default[name]}
        return json.dumps(other) if other else ""


def identity(student: Path, scoring: Mapping[str, Any]) -> str:
    """Digest of what a model's scores follow from: the files of its folder without what only tells of it, how the folder says
    that it reads, and the ``scoring`` that it is served with."""
    files = read_manifest(student).files
    decisive = {
        name: each for name, each in files.items() if name not in (*stored_files.FREE, "manifest.json", "training.json")
    }
    reads = of_folder(student)  # from training.json in folders of earlier days
    decided = reads.settings() if reads else {}
    if decided.get("kind") == "monot5":
        del decided["kind"]  # versions of earlier days do not say it, and are the same models
    return sha256(json.dumps([decisive, {**scoring, **decided}], sort_keys=True).encode()).hexdigest()


def register(
    name: str,
    student: Path,
    digest: str,
    tags: Mapping[str, str],
    serving: Serving,
    run_id: str,
    card: str,
    about: str,
    exported: Path | None = None,
) -> registry.Version:
    """Log the folder ``student`` with its model ``card`` into MLflow run ``run_id`` and register it as a version of
    ``name`` that ``about`` describes. What is ``exported`` of it lies in the same folder.

    The same content (``digest`` of the weights, and :func:`identity`) registered by an earlier, interrupted attempt is found
    again, not made twice.
    """
    registry.create_model(name, "Reranker distilled by InRanker Flow.")
    same = identity(student, serving.scoring)
    known = registry.registered(name, digest, same)
    if known:
        log.info("%s version %s already holds this model", name, known.version)
        return known
    client = connection.client()
    with tempfile.TemporaryDirectory() as folder:
        save_pyfunc(Path(folder) / "model", student, serving, card, exported)
        files = stored_files.digests(Path(folder) / "model")
        with explained(f"upload the model into run {run_id}"):
            client.log_artifacts(run_id, str(Path(folder) / "model"), "model")
    tags = {
        **tags,
        registry.DIGEST: digest,
        registry.IDENTITY: same,
        stored_files.FILES: stored_files.as_tag(files),
        **({registry.SERVED: serving.tag} if serving.tag else {}),
    }
    with explained(f"register a version of {name}"):
        made = client.create_model_version(name, f"runs:/{run_id}/model", run_id, tags=tags, description=about)
    first = registry.registered(name, digest, same)
    if first and int(first.version) < int(made.version):
        # Two attempts at the same time: both keep the first.
        with explained(f"delete version {made.version} of {name}, the same model as version {first.version}"):
            client.delete_model_version(name, str(made.version))
        return first
    log.info("registered %s version %s", name, made.version)
    return registry.Version(name, str(made.version), tags)


def save_pyfunc(path: Path, student: Path, serving: Serving, card: str, exported: Path | None = None) -> None:
    """Write the MLflow model: pyfunc code, this package (so that it loads anywhere), and the checkpoint folder with the
    model ``card`` as its README.md, with what is ``exported`` of it."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # It asks for type hints and an input example; the signature below says more than either.
        warnings.simplefilter("ignore", UserWarning)
        code = Path(folder) / package.name
        shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__", "demo"))
        checkpoint = Path(folder) / "checkpoint"
        shutil.copytree(student, checkpoint)
        checkpoint.chmod(0o755)  # the copy of a folder that nobody may write is such a folder
        if exported:
            shutil.copytree(exported, checkpoint, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
            checkpoint.chmod(0o755)
        (checkpoint / "README.md").write_text(card, encoding="utf-8")
        if serving.reference.is_file():
            shutil.copyfile(serving.reference, checkpoint / reference_scores.FILENAME)
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(package / "model_registry" / "pyfunc.py"),
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
    """Return the requirements of `pyfunc.Reranker`: the training's versions, and those of what is installed here."""
    from importlib.metadata import version

    import mlflow

    # The images hold `mlflow-skinny`, which brings the same package under another name.
    here = {"mlflow": mlflow.__version__, **{name: version(name) for name in ("pyarrow", "boto3")}}
    return [f"{name}=={number}" for name, number in {**here, **versions}.items()]
