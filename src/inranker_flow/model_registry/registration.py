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
from inranker_flow.model_registry import packed_code, reference_scores, registry, stored_files
from inranker_flow.reading import Served, of_folder
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained
from inranker_flow.tracking.values import batches, metrics

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
    exported: Path | None = None,
) -> registry.Version:
    """Log the folder ``student`` with its model ``card`` as a model of the MLflow run ``run_id``, which made it, and register
    it as a version of ``name``. What is ``exported`` of it lies in the same folder.

    The same content (``digest`` of the weights, and :func:`identity`) registered by an earlier, interrupted attempt is found
    again, not made twice.
    """
    registry.create_model(name, "Reranker distilled by InRanker Flow.")
    same = identity(student, serving.scoring)
    known = registry.registered(name, digest, same)
    if known:
        log.info("%s version %s already holds this model", name, known.version)
        return known
    model_id, files = _log(student, serving, run_id, card, exported)
    tags = {
        **tags,
        registry.DIGEST: digest,
        registry.IDENTITY: same,
        stored_files.FILES: stored_files.as_tag(files),
        **({registry.SERVED: serving.tag} if serving.tag else {}),
    }
    client = connection.client()
    with explained(f"register a version of {name}"):
        made = client.create_model_version(name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)
    first = registry.registered(name, digest, same)
    if first and int(first.version) < int(made.version):
        # Two attempts at the same time: both keep the first.
        with explained(f"delete version {made.version} of {name}, the same model as version {first.version}"):
            client.delete_model_version(name, str(made.version))
            client.delete_logged_model(model_id)
        return first
    log.info("registered %s version %s", name, made.version)
    return registry.Version(name, str(made.version), tags, model_id)


def _log(
    student: Path, serving: Serving, run_id: str, card: str, exported: Path | None
) -> tuple[str, dict[str, tuple[int, str]]]:
    """Upload the model as an output of the run ``run_id``; return its id in MLflow, and its files."""
    from mlflow.entities import LoggedModelOutput

    client = connection.client()
    with explained(f"log the model of run {run_id}"):
        experiment = client.get_run(run_id).info.experiment_id
        model_id = client.create_logged_model(experiment, "model", run_id, model_type="reranker").model_id
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_pyfunc(path, student, serving, card, exported, run_id=run_id, model_id=model_id)
        with explained(f"upload the model of run {run_id}"):
            client.log_model_artifacts(model_id, str(path))
            client.finalize_logged_model(model_id, "READY")
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        return model_id, stored_files.digests(path)


def measured(version: registry.Version, run_id: str, numbers: Mapping[str, float]) -> None:
    """Link what the run ``run_id`` knows of a version's quality with its model in MLflow, which versions of older code lack.

    The numbers are the run's, too, and the model is its input.
    """
    if not version.model_id:
        return
    from mlflow.entities import LoggedModelInput, Metric

    client = connection.client()
    with explained(f"keep the numbers of {version.reference}"):
        found = [
            Metric(each.key, each.value, each.timestamp, each.step, model_id=version.model_id, run_id=run_id)
            for each in metrics(numbers)
        ]
        for part in batches(found):
            client.log_batch(run_id, metrics=part)
        client.log_inputs(run_id, models=[LoggedModelInput(version.model_id)])


def save_pyfunc(
    path: Path, student: Path, serving: Serving, card: str, exported: Path | None = None, **logged: str
) -> None:
    """Write the MLflow model: pyfunc code, what it needs of this package (so that it loads anywhere), and the checkpoint folder
    with the model ``card`` as its README.md, with what is ``exported`` of it. ``logged``: ids of MLflow's run and model."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it asks for type hints; the signature below says more
        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
        code = Path(folder) / packed_code.PYFUNC.parents[1].name
        packed_code.copy(code)
        checkpoint = Path(folder) / "checkpoint"
        shutil.copytree(student, checkpoint)
        checkpoint.chmod(0o755)  # the copy of a folder that nobody may write is such a folder
        if exported:
            shutil.copytree(exported, checkpoint, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
            checkpoint.chmod(0o755)
        (checkpoint / "README.md").write_text(card, encoding="utf-8")
        if serving.reference.is_file():
            shutil.copyfile(serving.reference, checkpoint / reference_scores.FILENAME)
        query, passages = reference_scores.example(checkpoint)
        mlflow.pyfunc.save_model(
            path=str(path),
            mlflow_model=Model(**logged),
            python_model=str(packed_code.PYFUNC),
            artifacts={"checkpoint": str(checkpoint)},
            model_config=dict(serving.scoring),
            code_paths=[str(code)],
            pip_requirements=_requirements(serving.versions),
            input_example=[{"query": query, "passages": list(passages)}],
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string, "query"), ColSpec(Array(DataType.string), "passages")]),
                outputs=Schema([ColSpec(Array(DataType.double))]),
            ),
        )
    written = Model.load(str(path))  # with folders of this machine
    written.flavors["python_function"]["artifacts"]["checkpoint"]["uri"] = "artifacts/checkpoint"
    written.flavors["python_function"]["model_code_path"] = packed_code.PYFUNC.name
    written.save(str(path / "MLmodel"))


def _requirements(versions: Mapping[str, str]) -> list[str]:
    """Return the requirements of `pyfunc.Reranker`: the training's versions, and those of what is installed here."""
    from importlib.metadata import version

    import mlflow

    # The images hold `mlflow-skinny`, which brings the same package under another name.
    here = {"mlflow": mlflow.__version__, **{name: version(name) for name in ("pyarrow", "boto3")}}
    return [f"{name}=={number}" for name, number in {**here, **versions}.items()]
