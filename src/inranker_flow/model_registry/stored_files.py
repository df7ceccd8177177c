"""The files of a version: fetched, and compared with those that were registered."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.model_registry import registry
from inranker_flow.storage.local import digest_file, disk_errors
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained

log = logging.getLogger(__name__)


#: Tag of a version: JSON, file of the MLflow model -> [size in bytes, sha256], its code as one.
FILES = "digest.files"
#: What a model's folder may hold besides without being another model: a person's text, and what MLflow writes on the way.
FREE = ("README.md", "registered_model_meta")
#: Longer values of a tag are refused by some of MLflow's databases.
_TAG_LENGTH = 5000


class Damaged(UserError):
    """The stored files of a version are gone, or not those that were registered."""

    code = "registry-damaged"


def fetch(reference: str) -> Path:
    """Return the local Hugging Face folder of ``models:/NAME/VERSION`` (or ``@ALIAS``), downloaded where it is remote.

    Raises :class:`UserError` where there is none, and :class:`Damaged` where a file of it is not what was registered.
    """
    import mlflow

    name, number = registry.parts(reference)
    return _fetch(mlflow.get_tracking_uri(), registry.version(name, number))


_RESTORE = "restore them, or let another version serve: make rollback WHY=..."
#: Folders by registry, version and its digests: a version never changes, and a download is not repeated for each look.
_fetched: dict[tuple[str, ...], Path] = {}


def _fetch(server: str, found: registry.Version) -> Path:
    # A model that was deleted and made anew has other versions of the same numbers.
    key = (server, found.reference, found.tags.get(registry.DIGEST, ""), found.tags.get(FILES, ""))
    if key not in _fetched:
        aside = Path(tempfile.mkdtemp(dir=_downloads().name))
        try:
            _fetched[key] = _download(found, aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # a part of it is of no use, and a full disk needs the room
            raise
    return _fetched[key]


def forget(reference: str) -> None:
    """Remove the local files of ``models:/NAME/VERSION``: nobody reads them any more."""
    for key in [each for each in _fetched if each[1] == reference]:
        folder = _fetched.pop(key)
        aside = next((each for each in folder.parents if each.parent == Path(_downloads().name)), None)
        if aside:
            shutil.rmtree(aside, ignore_errors=True)


def _download(found: registry.Version, aside: Path) -> Path:
    """Return the checkpoint of a version, fetched into the folder ``aside`` and compared."""
    import mlflow

    registered = _registered_files(found)
    # Of a version without its list, as older code registered it, only the checkpoint is looked at.
    uri = found.reference if registered else f"{found.reference}/artifacts/checkpoint"
    try:
        with explained(f"download {found.reference}"), disk_errors(aside):
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(aside)))
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
    return checkpoint


#: Where an MLflow model has its checkpoint, and this project's code.
_CHECKPOINT, _CODE = "artifacts/checkpoint", "code"


def _gone(found: registry.Version) -> bool:
    """True where the store of a version's files answers and has none of them."""
    sizes = _sizes(found)
    return sizes is not None and not sizes


def _sizes(found: registry.Version) -> dict[str, int | None] | None:
    """Return the files of a version's checkpoint by a listing, each with its size where the store tells it; None for a version
    that no run has made."""
    import mlflow

    with explained(f"look for the files of {found.reference}"):
        if not connection.client().get_model_version(found.name, found.version).run_id:
            return None
        listed = mlflow.artifacts.list_artifacts(f"{found.reference}/{_CHECKPOINT}")
    return {f"{_CHECKPOINT}/{Path(each.path).name}": each.file_size for each in listed if not each.is_dir}


@cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="inranker-models-")


def digests(model: Path) -> dict[str, tuple[int, str]]:
    """Return the file of the MLflow model ``model`` -> (size, sha256); the code's files as one; without what may change.

    What would make the tag too long is one, too.
    """
    files: dict[str, tuple[int, str]] = {}
    code = sha256()
    size = 0
    for path in sorted(each for each in model.rglob("*") if each.is_file()):
        name = path.relative_to(model).as_posix()
        if path.name in FREE or "__pycache__" in path.parts:
            continue
        digest = digest_file(path)
        if name.startswith(f"{_CODE}/"):
            code.update(f"{name} {digest}\n".encode())
            size += path.stat().st_size
        else:
            files[name] = (path.stat().st_size, digest)
    files |= {_CODE: (size, code.hexdigest())} if size else {}
    return files if len(as_tag(files)) <= _TAG_LENGTH else {"": _together(files)}


def _together(files: Mapping[str, tuple[int, str]]) -> tuple[int, str]:
    return sum(size for size, _ in files.values()), sha256(as_tag(files).encode()).hexdigest()


def as_tag(files: Mapping[str, tuple[int, str]]) -> str:
    """Return files with sizes and digests as the text of a tag."""
    return json.dumps(files, sort_keys=True, separators=(",", ":"))


def _registered_files(found: registry.Version) -> dict[str, tuple[int, str]]:
    """Return the files of a version by its tag; empty for one without the tag."""
    text = found.tags.get(FILES, "")
    try:
        return {str(name): (int(size), str(digest)) for name, (size, digest) in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{found.reference}: its tag {FILES} was changed and cannot be read; {_RESTORE}") from error


def _check_files(
    found: registry.Version, registered: Mapping[str, tuple[int, str]], stored: Mapping[str, tuple[int, str]]
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
    """Return the fault of the stored checkpoint of ``models:/NAME/VERSION``, as far as a listing shows it; "" if there is
    none.

    Cheap: nothing is downloaded, names and sizes are compared. :func:`fetch` compares the content.
    """
    try:
        found = registry.version(*registry.parts(reference))
        registered = _registered_files(found)
        sizes = _sizes(found)
    except NoAnswer as error:
        log.warning("whether the files of %s are whole was not looked at: %s", reference, error)
        return ""
    except UserError as error:  # gone, or its tag was changed
        return str(error)
    if sizes is None:
        return ""
    if not sizes:
        return f"{reference}: its files are gone; {_RESTORE}"
    for name, (size, _) in registered.items():
        file = name.removeprefix(f"{_CHECKPOINT}/")
        if file == name or "/" in file:
            continue  # not in that listing
        if sizes.get(name, -1) not in (None, size):  # some stores tell no sizes
            return f"{reference}: {file} {'has changed' if name in sizes else 'is gone'} since it was registered; {_RESTORE}"
    return ""


def _check_weights(found: registry.Version, folder: Path) -> None:
    digest = weights_digest({path.name: digest_file(path) for path in folder.glob("*.safetensors")})
    registered = found.tags.get(registry.DIGEST, digest)
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
