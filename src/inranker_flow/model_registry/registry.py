"""The MLflow model registry: versions, their tags, and the aliases.

Aliases only (``champion``, ``challenger``), never stages. The champion's alias is moved by `history` alone, last of all, so
a crash before it leaves the old champion serving.
"""

from __future__ import annotations

import json
import logging
import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inranker_flow.config.parsing import parse
from inranker_flow.errors import UserError
from inranker_flow.reading import Served
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained

log = logging.getLogger(__name__)


CHAMPION, CHALLENGER = "champion", "challenger"
#: Tag of a version: sha256 of its weights.
DIGEST = "digest.model"
#: Tag of a version: sha256 of all that its scores follow from: the checkpoint's files and how it reads. Versions that were
#: registered by older code have none, and neither have they the next.
IDENTITY = "digest.identity"
#: MLflow's databases hold names of 256 characters, and the history's is this one's with an ending.
_NAME_LENGTH = 240
#: Tag of a version: what it is served with beside what its folder says (`reading.Served`), as JSON; none for the defaults.
SERVED = "inranker.served"


def name_problem(name: str) -> str:
    """Return the reason for which a registered model cannot be called ``name``; "" if it can. It asks no server."""
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


def check_name(name: str) -> None:
    """Refuse a name that MLflow refuses: of such it says what it says of one that nobody has used, that there is none."""
    problem = name_problem(name)
    if problem:
        raise UserError(
            f"promotion.model_name: {name[:80]!r} {problem}; give another name (MODEL for make)", code="model-name"
        )


def _not_there(error: Any) -> bool:
    """True where MLflow says that a model, version or alias does not exist: no other refusal must look like that."""
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return True
    return error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error)


@dataclass(frozen=True)
class Version:
    """A registered version and its tags; ``model_id``: of the model in MLflow that it holds, "" for one of older code."""

    name: str
    version: str
    tags: Mapping[str, str]
    model_id: str = ""

    @property
    def reference(self) -> str:
        """What `loading.load_ranker` and MLflow load: ``models:/NAME/VERSION``."""
        return f"models:/{self.name}/{self.version}"


def champion(name: str) -> Version | None:
    """Return the version that serves now, or None."""
    return _aliased(name, CHAMPION)


def challenger(name: str) -> Version | None:
    """Return the last version that was held or refused since the champion was promoted, or None."""
    return _aliased(name, CHALLENGER)


def _aliased(name: str, alias: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    check_name(name)
    with explained(f"ask for the {alias} of {name}"):
        try:
            found = connection.client().get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # Only "there is none" means none: a registry that is in trouble must not look empty.
            if _not_there(error):
                return None
            raise
    return _as_version(found)


def version(name: str, number: str) -> Version:
    """Return the registered version ``number`` of ``name``; :class:`UserError` where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    check_name(name)
    client = connection.client()
    with explained(f"read version {number} of {name}"):
        try:
            found = client.get_model_version(name, number)
        except MlflowException as error:
            if not _not_there(error):
                raise
            raise UserError(
                f"models:/{name}/{number}: not in the model registry at {mlflow.get_tracking_uri()}: {error}; make history "
                "says what served and what is gone",
                code="version-missing",
            ) from error
    return _as_version(found)


def versions(name: str) -> dict[str, Version]:
    """Return all registered versions of ``name`` by their number; none where there is no such model."""
    check_name(name)
    found = search(name, f"list the versions of {name}")
    return {each.version: each for each in map(_as_version, found)}


def _as_version(found: Any) -> Version:
    # Of a logged model `models:/m-...`; a database of MLflow keeps the id nowhere else.
    model_id = str(found.source).removeprefix("models:/") if str(found.source).startswith("models:/m-") else ""
    return Version(found.name, str(found.version), dict(found.tags), model_id)


def search(name: str, action: str) -> list[Any]:
    """Return MLflow's versions of ``name``, in no order; ``action`` says what for."""
    client = connection.client()
    quote = '"' if "'" in name else "'"
    found: list[Any] = []
    page = None
    with explained(action):
        while True:
            # Not ordered by the server: it would order numbers as it pleases.
            page = client.search_model_versions(f"name = {quote}{name}{quote}", page_token=page.token if page else None)
            found += page
            if not page.token:
                return found


def digest(reference: str) -> str:
    """Return the digest of what ``models:/NAME/VERSION`` was registered as (of its weights alone, by older code); "" where
    none was recorded."""
    tags = version(*parts(reference)).tags
    return tags.get(IDENTITY) or tags.get(DIGEST, "")


def served(reference: str) -> Served:
    """Return the serving settings of ``models:/NAME/VERSION`` that its folder does not hold."""
    tag = version(*parts(reference)).tags.get(SERVED)
    try:
        return parse(Served, json.loads(tag) if tag else {}, f"{reference}, tag {SERVED}")
    except ValueError as error:
        raise UserError(
            f"{reference}: its tag {SERVED} is no JSON ({error}); restore it from MLmodel", code="registry-damaged"
        ) from error


def parts(reference: str) -> tuple[str, str]:
    """Return (name, version number) of a model's reference."""
    path = reference.removeprefix("models:/")
    name, _, alias = path.partition("@")
    if alias:
        with explained(f"find {reference}"):
            return name, str(connection.client().get_model_version_by_alias(name, alias).version)
    name, _, number = path.rpartition("/")
    if not name or not number.isdigit():
        raise UserError(
            f"{reference}: models are named models:/NAME/VERSION or models:/NAME@ALIAS", code="address-form"
        )
    return name, number


def create_model(name: str, description: str) -> None:
    """Make the registered model ``name`` unless it is there."""
    from mlflow.exceptions import MlflowException

    check_name(name)
    client = connection.client()
    with explained(f"create the registered model {name}"):
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


def rename_model(name: str, other: str) -> None:
    """Let the registered model ``name`` be called ``other``, where there is one."""
    from mlflow.exceptions import MlflowException

    with explained(f"rename the registered model {name}"):
        try:
            connection.client().rename_registered_model(name, other)
        except MlflowException as error:
            if not _not_there(error):
                raise


def registered(name: str, digest: str, identity: str) -> Version | None:
    """Return the first version of ``name`` with these weights and, where it says, with this :func:`identity`, or None."""
    same = [
        each
        for each in search(name, f"list the versions of {name}")
        if each.tags.get(DIGEST) == digest and each.status == "READY" and each.tags.get(IDENTITY, identity) == identity
    ]
    first = min(same, key=lambda each: int(each.version), default=None)
    return _as_version(first) if first else None


def append(name: str, description: str, source: str, tags: Mapping[str, str], about: str) -> int:
    """Add a version to ``name``, which is used as a log; its number is unique and in the order of creation."""
    create_model(name, description)
    with explained(f"write into {name}"):
        made = connection.client().create_model_version(name, source, tags=dict(tags), description=about)
    return int(made.version)


def set_alias(version: Version, alias: str) -> None:
    """Point ``alias`` at ``version``: one atomic write in the registry. `history.move` alone moves the champion."""
    with explained(f"point the alias {alias} at version {version.version} of {version.name}"):
        connection.client().set_registered_model_alias(version.name, alias, version.version)


def drop_alias(name: str, alias: str) -> None:
    """Take ``alias`` from whichever version of ``name`` has it."""
    with explained(f"take the alias {alias} from {name}"):
        connection.client().delete_registered_model_alias(name, alias)


def describe(version: Version, about: str) -> None:
    """Let a version's description be ``about``."""
    with explained(f"describe version {version.version} of {version.name}"):
        connection.client().update_model_version(version.name, version.version, about)


def set_tags(version: Version, tags: Mapping[str, str]) -> None:
    """Add or replace tags of a version; those that it has already (``version.tags``) are not written again."""
    client = connection.client()
    with explained(f"describe version {version.version} of {version.name}"):
        for key, value in tags.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(version.name, version.version, key, value)
