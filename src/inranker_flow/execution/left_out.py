"""One target that is refused leaves the others going: what stands for its results, and who goes on without it.

A stage that finds a :class:`CollectionFault` in a target writes a manifest with the reason in place of each of its
artifacts. Later stages of the same target hand it on, and those that read all targets go without it. All of that is done
in `run_stage`.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from inranker_flow.artifacts.manifest import FILENAME, Manifest, read_manifest, write_manifest
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import uris
from inranker_flow.storage.local import atomic_write

log = logging.getLogger(__name__)

#: Key of a manifest's details: stage and reason of what was left out; and what becomes of its target (a collection's).
LEFT_OUT, REFUSED = "left_out", "refused"
#: Outputs that are one file for people, and not a folder.
_PAGES = ("report",)
#: Reasons that a line about a run without targets names.
_NAMED = 3


@dataclass(frozen=True)
class Reason:
    """The ``stage`` that refused a target, and its reason."""

    stage: str
    text: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.text}"


@dataclass(frozen=True)
class LeftOutStats:
    """The stats of a stage whose target was left out by it or by a stage before it."""

    why: Reason
    left_out: int = 1

    @property
    def reason(self) -> str:
        return str(self.why)


def settled(targets: Sequence[CorpusConfig], refused: Literal["leave_out", "end"]) -> tuple[CorpusConfig, ...]:
    """Return ``targets``, each with what becomes of it when it is refused: as it says itself, else as the profile does.

    The only target always ends the run. One that was left out before is another input for KFP's cache, which would else
    answer with that for ever, whatever a person has mended.
    """
    usual = refused if len(targets) > 1 else "end"
    return tuple(replace(each, refused=each.refused or usual, again=_again(each.name)) for each in targets)


def may_be(corpus: Any, inputs: Mapping[str, Any]) -> bool:
    """Return whether a stage works for a target that may be left out: its own setting says so, or its collection's manifest."""
    if isinstance(corpus, CorpusConfig):
        return corpus.refused == "leave_out"
    collection = inputs.get("collection")
    return isinstance(collection, Path) and read_manifest(collection).details.get(REFUSED) == "leave_out"


def reason_of(manifest: Manifest) -> Reason | None:
    """Return the reason for which an artifact is empty; None for one with results."""
    found = manifest.details.get(LEFT_OUT)
    return Reason(str(found["stage"]), str(found["reason"])) if isinstance(found, dict) else None


def handed_on(inputs: Mapping[str, Any]) -> Reason | None:
    """Return the reason for which an earlier stage left out the target; None if none did."""
    paths = (path for path in inputs.values() if isinstance(path, Path))
    return next(filter(None, map(_reason, paths)), None)


def without(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Reason]]:
    """Return ``inputs`` whose lists lack every artifact of a target that was left out at any stage, and why, by its name."""
    listed = [path for value in inputs.values() if isinstance(value, list) for path in value]
    dropped = {read_manifest(path).dataset: reason for path in listed if (reason := _reason(path))}
    if not dropped:
        return dict(inputs), {}
    kept = {
        key: [path for path in value if read_manifest(path).dataset not in dropped]
        if isinstance(value, list)
        else value
        for key, value in inputs.items()
    }
    return kept, dropped


def check(kept: Mapping[str, Any], dropped: Mapping[str, Reason]) -> None:
    """Raise :class:`UserError` with the first reasons where nothing is left of a list from which targets were ``dropped``."""
    if not dropped or [] not in kept.values():
        return
    told = [f"{name}: {reason}" for name, reason in dropped.items()]
    more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    raise UserError(
        f"every target was left out, so there is nothing to adapt to: {'; '.join(told[:_NAMED])}{more}",
        code="all-left-out",
    )


def _reason(path: Path) -> Reason | None:
    return reason_of(read_manifest(path)) if (path / FILENAME).is_file() else None


def write(outputs: Mapping[str, Path], dataset: str, stage: str, reason: Reason) -> None:
    """Let each of the ``outputs`` of ``stage`` say that ``dataset`` was left out, in place of what is there."""
    for name, path in outputs.items():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if name in _PAGES:
            with atomic_write(path) as out:
                out.write(f"**Left out** by {reason}\n".encode())
        else:
            path.mkdir(parents=True)
            details = {LEFT_OUT: {"stage": reason.stage, "reason": reason.text}}
            write_manifest(path, dataset=dataset, stage=stage, **details)


def note(dataset: str) -> None:
    """Remember in the store that ``dataset`` was left out just now, for :func:`settled` in the next run."""
    place = _place(dataset)
    if not place:
        return
    try:
        uris.put(secrets.token_hex(4).encode(), place)
    except (UserError, OSError) as error:
        log.warning("that %s was left out is not kept for the next run: %s", dataset, error)


def _again(dataset: str) -> str:
    """Return another text for each time that ``dataset`` was left out; "" where it never was, or there is no store."""
    place = _place(dataset)
    try:
        return uris.read(place).decode() if place else ""
    except OSError:
        return ""


def _place(dataset: str) -> str:
    root = variables.store_root()
    return f"{root}/left-out/{dataset}" if root else ""
