"""The MLflow model registry: log a student, register it, move the aliases.

Aliases only (``champion``, ``challenger``), never stages. A version is a pyfunc around a plain Hugging Face folder.
The champion's alias is moved by `history` alone, last of all, so a crash before it leaves the old champion serving.
"""

from __future__ import annotations

import json
import logging
import os.path
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
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config import parse
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.reading import Served, of_folder
from inranker_flow.storage import digest_file

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
#: Tag of a version: sha256 of its weights.
DIGEST = "digest.model"
#: Tag of a version: sha256 of all that its scores follow from: the checkpoint's files and how it reads. Versions that were
#: registered by older code have none, and neither have they the next.
IDENTITY = "digest.identity"
#: Tag of a version: JSON, file of the MLflow model -> [size in bytes, sha256], its code as one.
FILES = "digest.files"
#: What a model's folder may hold besides without being another model: a person's text, and what MLflow writes on the way.
_FREE = ("README.md", "registered_model_meta")
#: Longer values of a tag are refused by some of MLflow's databases.
_TAG_LENGTH = 5000
#: MLflow's databases hold names of 256 characters, and the history's is this one's with an ending.
_NAME_LENGTH = 240
#: Tag of a version: what it is served with beside what its folder says (`reading.Served`), as JSON; none for the defaults.
SERVED = "inranker.served"


class Damaged(UserError):
    """The stored files of a version are gone, or not those that were registered."""


def name_problem(name: str) -> str:
    """Why a registered model cannot be called ``name``; "" where it can. Pure: it asks no server."""
    if not name.strip():
        return "is empty"
    if len(name) > _NAME_LENGTH:
        return f"has {len(name)} characters; {_NAME_LENGTH} are possible"
    if name != name.strip() or not name.isprintable():
        return "begins or ends with a blank, or holds a character that cannot be seen"
    bad = [each for each in "/:@?#\\" if each in name]
    if bad:
        return f"holds {bad[0]!r}, which separates the parts of a model's address"
    if "'" in name and '"' in name:
        return "holds both kinds of quotes, which no search in MLflow can name"
    return "is a path" if os.path.normpath(name) != name or name == ".." else ""


def _check_name(name: str) -> None:
    """MLflow says of a name that it refuses what it says of one that nobody has used: there is none."""
    problem = name_problem(name)
    if problem:
        raise UserError(f"promotion.model_name: {name[:80]!r} {problem}; give another name (MODEL for make)")


def _not_there(error: Any) -> bool:
    """True where MLflow says that a model, version or alias does not exist: no other refusal must look like that."""
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return True
    return error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error)


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

    _check_name(name)
    with tracking.explained(f"ask for the {alias} of {name}"):
        try:
            found = tracking.client().get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # Only "there is none" means none: a registry that is in trouble must not look empty.
            if _not_there(error):
                return None
            raise
    return Version(name, str(found.version), dict(found.tags))


def opponent(name: str, run_key: str) -> str:
    """Reference of the champion that the work ``run_key`` is measured against, or "": the one that serves, unless this
    very work made it.

    Then it is the one that served before: a repeated run asks the same question and meets its cached answer, instead of
    comparing a model with itself. A warning says early what the gate will say: that the champion is gone.
    """
    from inranker_flow.model_registry import history

    serving = champion(name)
    if serving is None:
        if gone := history.gone(name):
            log.warning("%s; until then the gate holds every student (champion_gone)", gone)
        return ""
    return serving.tags.get("inranker.against", "") if serving.tags.get("run_key") == run_key else serving.reference


def version(name: str, number: str) -> Version:
    """The registered version ``number`` of ``name``; :class:`UserError` where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    _check_name(name)
    client = tracking.client()
    with tracking.explained(f"read version {number} of {name}"):
        try:
            found = client.get_model_version(name, number)
        except MlflowException as error:
            if not _not_there(error):
                raise
            raise UserError(
                f"models:/{name}/{number}: not in the model registry at {mlflow.get_tracking_uri()}: {error}; make history "
                "says what served and what is gone"
            ) from error
    return Version(name, str(found.version), dict(found.tags))


def versions(name: str) -> dict[str, Version]:
    """All registered versions of ``name`` by their number; none where there is no such model."""
    _check_name(name)
    found = search(name, f"list the versions of {name}")
    return {each.version: each for each in map(_as_version, found)}


def _as_version(found: Any) -> Version:
    return Version(found.name, str(found.version), dict(found.tags))


def search(name: str, action: str) -> list[Any]:
    """MLflow's versions of ``name``, in no order; ``action`` says what for."""
    client = tracking.client()
    quote = '"' if "'" in name else "'"
    found: list[Any] = []
    page = None
    with tracking.explained(action):
        while True:
            # Not ordered by the server: it would order numbers as it pleases.
            page = client.search_model_versions(f"name = {quote}{name}{quote}", page_token=page.token if page else None)
            found += page
            if not page.token:
                return found


def digest(reference: str) -> str:
    """The digest of what ``models:/NAME/VERSION`` was registered as (of its weights alone, by older code); "" where none
    was recorded."""
    tags = version(*_parts(reference)).tags
    return tags.get(IDENTITY) or tags.get(DIGEST, "")


def served(reference: str) -> Served:
    """What ``models:/NAME/VERSION`` is served with beside what its folder says."""
    tag = version(*_parts(reference)).tags.get(SERVED)
    try:
        return parse(Served, json.loads(tag) if tag else {}, f"{reference}, tag {SERVED}")
    except ValueError as error:
        raise UserError(f"{reference}: its tag {SERVED} is no JSON ({error}); restore it from MLmodel") from error


def fetch(reference: str) -> Path:
    """Local Hugging Face folder of ``models:/NAME/VERSION`` (or ``@ALIAS``), downloaded where it is remote.

    Raises :class:`UserError` where there is none, and :class:`Damaged` where a file of it is not what was registered.
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
#: Folders by registry, version and its digests: a version never changes, and a download is not repeated for each look.
_fetched: dict[tuple[str, ...], Path] = {}


def _fetch(registry: str, found: Version) -> Path:
    import mlflow

    # A model that was deleted and made anew has other versions of the same numbers.
    key = (registry, found.reference, found.tags.get(DIGEST, ""), found.tags.get(FILES, ""))
    if key not in _fetched:
        registered = _registered_files(found)
        # Of a version without its list, as older code registered it, only the checkpoint is looked at.
        uri = found.reference if registered else f"{found.reference}/artifacts/checkpoint"
        aside = tempfile.mkdtemp(dir=_downloads().name)
        try:
            with tracking.explained(f"download {found.reference}"):
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=aside))
        except NoAnswer as error:
            # MLflow says the same of files that are not there and of a store that does not answer.
            if _gone(found):
                raise Damaged(f"{found.reference}: its files are gone; {_RESTORE}") from error
            raise
        checkpoint = folder / _CHECKPOINT if registered else folder
        if not any(checkpoint.glob("*")):
            raise Damaged(f"{found.reference}: its files are gone; {_RESTORE}")
        if not registered:
            log.info(
                "%s was registered before all its files were recorded: its weights alone are compared", found.reference
            )
        _check_weights(found, checkpoint)
        if registered:
            _check_files(found, registered, digests(folder))
        _fetched[key] = checkpoint
    return _fetched[key]


#: Where an MLflow model has its checkpoint, and this project's code.
_CHECKPOINT, _CODE = "artifacts/checkpoint", "code"


def _gone(found: Version) -> bool:
    """True where the store of a version's files answers and has none of them."""
    client = tracking.client()
    with tracking.explained(f"look for the files of {found.reference}"):
        run_id = client.get_model_version(found.name, found.version).run_id
        return bool(run_id) and not client.list_artifacts(run_id, f"model/{_CHECKPOINT}")


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="inranker-models-")


def digests(model: Path) -> dict[str, tuple[int, str]]:
    """File of the MLflow model ``model`` -> (size, sha256); the code's files as one; without what may change.

    What would make the tag too long is one, too.
    """
    files: dict[str, tuple[int, str]] = {}
    code = sha256()
    size = 0
    for path in sorted(each for each in model.rglob("*") if each.is_file()):
        name = path.relative_to(model).as_posix()
        if path.name in _FREE or "__pycache__" in path.parts:
            continue
        digest = digest_file(path)
        if name.startswith(f"{_CODE}/"):
            code.update(f"{name} {digest}\n".encode())
            size += path.stat().st_size
        else:
            files[name] = (path.stat().st_size, digest)
    files |= {_CODE: (size, code.hexdigest())} if size else {}
    return files if len(_as_tag(files)) <= _TAG_LENGTH else {"": _together(files)}


def _together(files: Mapping[str, tuple[int, str]]) -> tuple[int, str]:
    return sum(size for size, _ in files.values()), sha256(_as_tag(files).encode()).hexdigest()


def _as_tag(files: Mapping[str, tuple[int, str]]) -> str:
    return json.dumps(files, sort_keys=True, separators=(",", ":"))


def _registered_files(found: Version) -> dict[str, tuple[int, str]]:
    """What the tag of a version says about its files; empty for one that has none."""
    text = found.tags.get(FILES, "")
    try:
        return {str(name): (int(size), str(digest)) for name, (size, digest) in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{found.reference}: its tag {FILES} was changed and cannot be read; {_RESTORE}") from error


def _check_files(
    found: Version, registered: Mapping[str, tuple[int, str]], stored: Mapping[str, tuple[int, str]]
) -> None:
    """A damaged champion must not lose a comparison, or win one: all files are what was registered, and no more."""
    for name in sorted({*registered, *stored}):
        if registered.get(name) != stored.get(name):
            wrong = (
                "is gone" if name not in stored else "was not registered" if name not in registered else "has changed"
            )
            file = "one of its files" if not name else name.removeprefix(f"{_CHECKPOINT}/")
            raise Damaged(f"{found.reference}: {file} {wrong} since it was registered; {_RESTORE}")


def damage(reference: str) -> str:
    """What is wrong with the stored checkpoint of ``models:/NAME/VERSION`` as far as a listing tells; "" where nothing is.

    Cheap: nothing is downloaded, names and sizes are compared. :func:`fetch` compares the content.
    """
    client = tracking.client()
    try:
        found = version(*_parts(reference))
        registered = _registered_files(found)
        with tracking.explained(f"look for the files of {reference}"):
            run_id = client.get_model_version(found.name, found.version).run_id
            stored = client.list_artifacts(run_id, f"model/{_CHECKPOINT}") if run_id else []
    except NoAnswer as error:
        log.warning("whether the files of %s are whole was not looked at: %s", reference, error)
        return ""
    except UserError as error:  # gone, or its tag was changed
        return str(error)
    sizes = {each.path.removeprefix("model/"): each.file_size for each in stored if not each.is_dir}
    if run_id and not sizes:
        return f"{reference}: its files are gone; {_RESTORE}"
    for name, (size, _) in registered.items() if run_id else ():
        file = name.removeprefix(f"{_CHECKPOINT}/")
        if file == name or "/" in file:
            continue  # not in that listing
        if sizes.get(name, -1) not in (None, size):  # some stores tell no sizes
            return f"{reference}: {file} {'has changed' if name in sizes else 'is gone'} since it was registered; {_RESTORE}"
    return ""


def _check_weights(found: Version, folder: Path) -> None:
    digest = weights_digest({path.name: digest_file(path) for path in folder.glob("*.safetensors")})
    registered = found.tags.get(DIGEST, digest)
    if digest != registered:
        raise Damaged(
            f"{found.reference}: its stored weights are not those that were registered (sha256 {digest[:12] or 'none'}, "
            f"not {registered[:12]}); {_RESTORE}"
        )


def weights_digest(files: Mapping[str, str]) -> str:
    """Digest of a model's weights out of the digests of its ``files``, whatever else lies beside them; "" for none."""
    weights = {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
    if len(weights) < 2:
        return next(iter(weights.values()), "")
    return sha256("\n".join(f"{name} {digest}" for name, digest in sorted(weights.items())).encode()).hexdigest()


def identity(student: Path, scoring: Mapping[str, Any]) -> str:
    """Digest of what a model's scores follow from: the files of its folder without what only tells of it, how the folder says
    that it reads, and the ``scoring`` that it is served with."""
    files = read_manifest(student).files
    decisive = {name: each for name, each in files.items() if name not in (*_FREE, "manifest.json", "training.json")}
    reads = of_folder(student)  # from training.json in folders of earlier days
    return sha256(
        json.dumps([decisive, {**scoring, **(vars(reads) if reads else {})}], sort_keys=True).encode()
    ).hexdigest()


def register(
    name: str, student: Path, digest: str, tags: Mapping[str, str], serving: Serving, run_id: str, card: str, about: str
) -> Version:
    """Log the folder ``student`` with its model ``card`` into MLflow run ``run_id`` and register it as a version of
    ``name`` that ``about`` describes.

    The same content (``digest`` of the weights, and :func:`identity`) registered by an earlier, interrupted attempt is found
    again, not made twice.
    """
    _create_model(name, "Reranker distilled by InRanker Flow.")
    same = identity(student, serving.scoring)
    known = registered(name, digest, same)
    if known:
        log.info("%s version %s already holds this model", name, known.version)
        return known
    client = tracking.client()
    with tempfile.TemporaryDirectory() as folder:
        save_pyfunc(Path(folder) / "model", student, serving, card)
        files = digests(Path(folder) / "model")
        with tracking.explained(f"upload the model into run {run_id}"):
            client.log_artifacts(run_id, str(Path(folder) / "model"), "model")
    tags = {
        **tags,
        DIGEST: digest,
        IDENTITY: same,
        FILES: _as_tag(files),
        **({SERVED: serving.tag} if serving.tag else {}),
    }
    with tracking.explained(f"register a version of {name}"):
        made = client.create_model_version(name, f"runs:/{run_id}/model", run_id, tags=tags, description=about)
    first = registered(name, digest, same)
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

    _check_name(name)
    client = tracking.client()
    with tracking.explained(f"create the registered model {name}"):
        try:
            client.get_registered_model(name)
            return
        except MlflowException as error:
            if not _not_there(error):
                raise
        try:
            client.create_registered_model(name, description=description)
        except MlflowException as error:  # another process was first
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def registered(name: str, digest: str, identity: str) -> Version | None:
    """The first version of ``name`` with these weights and, where it says, with this :func:`identity`, or None."""
    same = [
        each
        for each in search(name, f"list the versions of {name}")
        if each.tags.get(DIGEST) == digest and each.status == "READY" and each.tags.get(IDENTITY, identity) == identity
    ]
    first = min(same, key=lambda each: int(each.version), default=None)
    return _as_version(first) if first else None


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

    package = Path(__file__).parents[1]
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
    """What `pyfunc.Reranker` imports: the training's versions, and those of what is installed here."""
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
