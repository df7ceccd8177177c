"""What a pod is told: every key of the settings ConfigMap and of its Secrets, mounted as folders of files, as variables.

KFP can mount a ConfigMap or a Secret whole, but not hand it over as environment. So each is a folder below
``/etc/inranker``, and :func:`settle` makes variables of it before anything else of a stage reads any. Outside a pod there
are no such folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError

#: Where `placement.py` mounts: ``settings``, and a folder for each Secret of the stage.
MOUNTS = Path("/etc/inranker")
#: Variables of whom an empty one means that it is not set; their libraries take "" for a value.
_BLANK_IS_UNSET = re.compile(
    r"(AWS|MLFLOW|HF|KF_PIPELINES|OPENAI|TEACHER|INRANKER)_|(REQUESTS|CURL)_CA_BUNDLE$|SSL_CERT_"
)
#: A key of another form stays a file: a certificate, say, that a variable names by its path.
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: A longer value stays a file, too (a bundle of certificates): Linux starts no process with more than 128 KiB in a variable.
_LONGEST = 120_000


def settle() -> None:
    """Turn what is mounted into variables, once; what is set already stays. Raises :class:`UserError` for what is unreadable.

    Also forgets empty variables.
    """
    forget_blanks()
    secrets = {name: value for folder in _secrets() for name, value in _read(folder)}
    for name, value in [*secrets.items(), *_read(MOUNTS / "settings")]:
        changes.default(name, value)
    if secrets:
        changes.put(variables.SECRET_NAMES, ",".join(sorted(variables.secret_names().union(secrets))))


def forget_blanks() -> None:
    """Unset what is set to nothing, for an empty address, key or profile means none; blanks around the others go, too."""
    for name, value in list(variables.everything().items()):
        if value != value.strip() and _BLANK_IS_UNSET.match(name):
            changes.put(name, value.strip())
        if not value.strip() and _BLANK_IS_UNSET.match(name):
            changes.drop(name)


def _secrets() -> list[Path]:
    """Return all but the settings; a level of folders more would be repeated in each task's part of the workflow's status."""
    return sorted(each for each in _listed(MOUNTS) if each.is_dir() and each.name != "settings")


def _read(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (variable, value) of each file whose name can be a variable's; empty ones are as if they were not there."""
    for path in sorted(_listed(folder)):
        if not _VARIABLE.fullmatch(path.name) or not path.is_file():  # `..data` is Kubernetes' own link
            continue
        try:
            if path.stat().st_size > _LONGEST:
                continue
            value = path.read_bytes().decode("utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); let user {os.getuid()} read what is mounted there",
                code="secret-unreadable",
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: is no UTF-8 text, so it cannot be a variable; give this key a file's name", code="secret-form"
            ) from error
        if "\0" in value:
            raise UserError(
                f"{path}: holds a zero byte, so it cannot be a variable; give this key a file's name",
                code="secret-form",
            )
        if value.strip():
            yield path.name, value


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}); let user {os.getuid()} read what is mounted there",
            code="secret-unreadable",
        ) from error
