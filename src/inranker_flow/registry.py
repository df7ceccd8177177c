"""The MLflow model registry: log a student, register it, move the aliases.

Aliases only (``champion``, ``challenger``), never stages. A version is a pyfunc around a plain Hugging Face folder.
The champion's alias is moved by `history` alone, last of all, so a crash before it leaves the old champion serving.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow import tracking
from inranker_flow.config import parse
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.reading import Served
from inranker_flow.storage import digest_file

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
#: Tag of a version: sha256 of its weights.
DIGEST = "digest.model"
#: Tag of a version: what it is served with beside what its folder says (`reading.Served`), as JSON; none for the defaults.
SERVED = "inranker.served"
#: What MLflow answers where a model, version or alias does not exist.
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


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
    """What the pyfunc needs: ``scoring`` (settings of `ScoringConfig` and `reading.Served`, where its folder does not say
    them) and the ``versions`` of its packages."""

    scoring: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def tag(self) -> str:
        """Of a version that is served with other than the defaults; else ""."""
        default = asdict(Served())
        other = {name: self.scoring[name] for name in default if self.scoring.get(name, default[name]) != default[name]}
        return json.dumps(other) if other else ""


def champion(name: str) -> Version | None:
    """The version that serves now, or None."""
    return _aliased(name, CHAMPION)


def challenger(name: str) -> Version | None:
    """The version that was registered last, or None."""
    return _aliased(name, CHALLENGER)


def _aliased(name: str, alias: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    with tracking.explained(f"ask for the {alias} of {name}"):
        try:
            found = tracking.client().get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # Only "there is none" means none: a registry that is in trouble must not look empty.
            if error.error_code in _NOT_THERE:
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


def version(name: str, number: str) -> Version:
    """The registered version ``number`` of ``name``; :class:`UserError` where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    try:
        with tracking.explained(f"read version {number} of {name}"):
            found = client.get_model_version(name, number)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, MlflowException) and cause.error_code in _NOT_THERE:
            raise UserError(
                f"models:/{name}/{number}: not in the model registry at {mlflow.get_tracking_uri()}: {cause}"
            ) from cause
        raise
    return Version(name, str(found.version), dict(found.tags))


def digest(reference: str) -> str:
    """The digest under which the weights of ``models:/NAME/VERSION`` were registered; "" where none was recorded."""
    return version(*_parts(reference)).tags.get(DIGEST, "")


def served(reference: str) -> Served:
    """What ``models:/NAME/VERSION`` is served with beside what its folder says."""
    tag = version(*_parts(reference)).tags.get(SERVED)
    try:
        return parse(Served, json.loads(tag) if tag else {}, f"{reference}, tag {SERVED}")
    except ValueError as error:
        raise UserError(f"{reference}: its tag {SERVED} is no JSON ({error}); restore it from MLmodel") from error


def fetch(reference: str) -> Path:
    """Local Hugging Face folder of ``models:/NAME/VERSION`` (or ``@ALIAS``), downloaded where it is remote.

    Raises :class:`UserError` where there is none, or where its weights are not those that were registered.
    """
    import mlflow

    name, number = _parts(reference)
    return _fetch(mlflow.get_tracking_uri(), version(name, number))


def _parts(reference: str) -> tuple[str, str]:
    """(name, version number) of a model's reference."""
    path = reference.removeprefix("models:/")
    name, _, alias = path.partition("@")
    if alias:
        with tracking.explained(f"find {reference}"):
            return name, str(tracking.client().get_model_version_by_alias(name, alias).version)
    name, _, number = path.rpartition("/")
    if not name or not number.isdigit():
        raise UserError(f"{reference}: models are named models:/NAME/VERSION or models:/NAME@ALIAS")
    return name, number


_RESTORE = "restore them, or let another version serve: make rollback WHY=..."
#: Folders by registry and version: a version never changes, and a download is not repeated for each look at it.
_fetched: dict[tuple[str, str], Path] = {}


def _fetch(registry: str, found: Version) -> Path:
    import mlflow

    key = (registry, found.reference)
    if key not in _fetched:
        uri = f"{found.reference}/artifacts/checkpoint"
        aside = tempfile.mkdtemp(dir=_downloads().name)
        try:
            with tracking.explained(f"download {found.reference}"):
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=aside))
        except NoAnswer as error:
            # MLflow says the same of files that are not there and of a store that does not answer.
            if _gone(found):
                raise UserError(f"{found.reference}: its files are gone; {_RESTORE}") from error
            raise
        _check_weights(found, folder)
        _fetched[key] = folder
    return _fetched[key]


def _gone(found: Version) -> bool:
    """True where the store of a version's files answers and has none of them."""
    client = tracking.client()
    with tracking.explained(f"look for the files of {found.reference}"):
        run_id = client.get_model_version(found.name, found.version).run_id
        return bool(run_id) and not client.list_artifacts(run_id, "model/artifacts/checkpoint")


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="inranker-models-")


def _check_weights(found: Version, folder: Path) -> None:
    """A damaged champion must not lose a comparison, or win one, with weights that nobody registered."""
    digest = weights_digest({path.name: digest_file(path) for path in folder.glob("*.safetensors")})
    registered = found.tags.get(DIGEST, digest)
    if digest != registered:
        raise UserError(
            f"{found.reference}: its stored weights are not those that were registered (sha256 {digest[:12] or 'none'}, "
            f"not {registered[:12]}); {_RESTORE}"
        )


def weights_digest(files: Mapping[str, str]) -> str:
    """Digest of a model's weights out of the digests of its ``files``, whatever else lies beside them; "" for none."""
    weights = {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
    if len(weights) < 2:
        return next(iter(weights.values()), "")
    return sha256("\n".join(f"{name} {digest}" for name, digest in sorted(weights.items())).encode()).hexdigest()


def register(
    name: str, student: Path, digest: str, tags: Mapping[str, str], serving: Serving, run_id: str, card: str, about: str
) -> Version:
    """Log the folder ``student`` with its model ``card`` into MLflow run ``run_id`` and register it as a version of
    ``name`` that ``about`` describes.

    The same content (``digest``) registered by an earlier, interrupted attempt is found again, not made twice.
    """
    _create_model(name, "Reranker distilled by InRanker Flow.")
    known = registered(name, digest, serving.tag)
    if known:
        log.info("%s version %s already holds this model", name, known.version)
        return known
    client = tracking.client()
    with tempfile.TemporaryDirectory() as folder:
        save_pyfunc(Path(folder) / "model", student, serving, card)
        with tracking.explained(f"upload the model into run {run_id}"):
            client.log_artifacts(run_id, str(Path(folder) / "model"), "model")
    tags = {**tags, DIGEST: digest, **({SERVED: serving.tag} if serving.tag else {})}
    with tracking.explained(f"register a version of {name}"):
        made = client.create_model_version(name, f"runs:/{run_id}/model", run_id, tags=tags, description=about)
    first = registered(name, digest, serving.tag)
    if first and int(first.version) < int(made.version):
        # Two attempts at the same time: both keep the first.
        with tracking.explained(f"delete version {made.version} of {name}, the same model as version {first.version}"):
            client.delete_model_version(name, str(made.version))
        return first
    log.info("registered %s version %s", name, made.version)
    return Version(name, str(made.version), tags)


def _create_model(name: str, description: str) -> None:
    """Make the registered model ``name`` unless it is there."""
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with tracking.explained(f"create the registered model {name}"):
        try:
            client.get_registered_model(name)
            return
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise
        try:
            client.create_registered_model(name, description=description)
        except MlflowException as error:  # another process was first
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def registered(name: str, digest: str, tag: str = "") -> Version | None:
    """The first version of ``name`` with these weights that is served as ``tag`` (`Serving.tag`) says, or None."""
    with tracking.explained(f"list the versions of {name}"):
        versions = tracking.client().search_model_versions(f"name = '{name}'")
    asked = [each for each in versions if each.tags.get(DIGEST) == digest and each.tags.get(SERVED, "") == tag]
    same = [each for each in asked if each.status == "READY"]
    first = min(same, key=lambda each: int(each.version), default=None)
    return Version(name, str(first.version), dict(first.tags)) if first else None


def append(name: str, description: str, source: str, tags: Mapping[str, str], about: str) -> int:
    """Add a version to ``name``, which is used as a log; its number is unique and in the order of creation."""
    _create_model(name, description)
    with tracking.explained(f"write into {name}"):
        made = tracking.client().create_model_version(name, source, tags=dict(tags), description=about)
    return int(made.version)


def save_pyfunc(path: Path, student: Path, serving: Serving, card: str) -> None:
    """Write the MLflow model: pyfunc code, this package (so that it loads anywhere), and the checkpoint folder with the
    model ``card`` as its README.md."""
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
        checkpoint.chmod(0o755)  # the copy of a folder that nobody may write is such a folder
        (checkpoint / "README.md").write_text(card, encoding="utf-8")
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
    """Point ``alias`` at ``version``: one atomic write in the registry. `history.move` alone moves the champion."""
    with tracking.explained(f"point the alias {alias} at version {version.version} of {version.name}"):
        tracking.client().set_registered_model_alias(version.name, alias, version.version)


def set_tags(version: Version, tags: Mapping[str, str]) -> None:
    """Add or replace tags of a version; those that it has already (``version.tags``) are not written again."""
    client = tracking.client()
    with tracking.explained(f"describe version {version.version} of {version.name}"):
        for key, value in tags.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(version.name, version.version, key, value)
