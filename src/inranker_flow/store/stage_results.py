"""A stage that is asked for the same again gives what it gave: by content, where KFP's caches go by identity.

KFP's caches have image, run and artifact ids in their keys: a rebuilt image misses them all. Here the key is what a result
follows from: the stage and the version of its code, the settings that change a result, the content of its inputs, and what
computes it (`conditions`). The outputs are
kept below ``INRANKER_STORE``, each file once under its digest, which is compared when it is used again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow.artifacts.manifest import FILENAME, Origin, content_digest, read_manifest
from inranker_flow.config.parsing import deciding
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.environment import variables
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.model_registry import registry
from inranker_flow.rankers.checkpoints import checkpoint_identity
from inranker_flow.storage import uris
from inranker_flow.storage.listing import check_names
from inranker_flow.storage.local import atomic_folder, digest_file
from inranker_flow.store.conditions import conditions

log = logging.getLogger(__name__)

#: The stages that are reused, and the version of their code. Raise one when the stage gives another result for the same
#: input; `pipelines/versions.lock` notices when its sources have changed (`make versions`). `prepare_corpus`, `preflight`,
#: `promote` and `notify` look at the world or change it, so they are always done.
VERSIONS = {
    "retrieve": 3,
    "generate_queries": 3,
    "teacher_label": 2,
    "distill_phase1": 2,
    "distill_phase2": 2,
    "evaluate": 3,
    "export": 1,
}


def origin(configs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Origin:
    """Return the origin that the manifests of a stage's outputs name."""

    parents = {key: [content_digest(path) for path in _flat(value)] for key, value in inputs.items()}
    return Origin(parents, _digest(_plain(configs)), code_version())


def work(stage: str, configs: Mapping[str, Any], inputs: Mapping[str, Any], values: Mapping[str, Any]) -> Work | None:
    """Return the work that ``stage`` is asked for; None if its results are not kept: no store, or a stage that always runs.

    ``configs``: parsed sections; ``inputs``: parameter -> paths; ``values``: other parameters.
    """
    if stage not in VERSIONS:
        return None
    root = variables.store_root()
    if not root:
        return None
    asked = {
        "stage": stage,
        "version": VERSIONS[stage],
        "configuration": _plain(configs),
        "named": _named(configs),
        "inputs": {key: _digests(value) for key, value in inputs.items()},
        "values": {key: _identity(value) for key, value in values.items()},
        "conditions": conditions(stage, any(getattr(each, "encoder", None) for each in configs.values())),
    }
    return Work(root, stage, asked)


class Work:
    """One thing that a stage was asked for: ``asked`` is all that its result follows from, as JSON data."""

    def __init__(self, root: str, stage: str, asked: Mapping[str, Any]) -> None:
        self.asked = asked
        self._content = f"{root}/content"
        self._entry = f"{root}/stages/{stage}/{_digest(asked)}.json"
        self._damaged = False

    def restore(self, kind: type[Any], outputs: Mapping[str, Path]) -> Any:
        """Put the outputs of the same work in place and return its stats (of the dataclass ``kind``); None to do it anew.

        What is missing or damaged there is told and made again.
        """
        try:
            entry = json.loads(uris.read(self._entry))
            stats = kind(**entry["stats"])
            for name, path in outputs.items():
                self._fetch(entry["outputs"][name], path)
                _check_complete(entry["outputs"][name], path)
        except FileNotFoundError as error:
            if str(error.filename) not in (self._entry, str(uris.local_path(self._entry))):
                self._again(f"{error.filename} is gone", outputs)
            return None
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            self._again(str(error), outputs)
            return None
        log.info("done before by %s: %s", entry["code"] or "the same code", self._entry)
        return stats

    def _again(self, reason: str, outputs: Mapping[str, Path]) -> None:
        log.warning("%s cannot be used (%s): the work is done again", self._entry, " ".join(reason.split()))
        self._damaged = True
        for path in outputs.values():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _fetch(self, files: Mapping[str, str], path: Path) -> None:
        """A folder's files by name, or under "" a single one."""
        if "" in files:
            aside = path.with_name(f".{path.name}.part")
            self._copy(files[""], aside)
            aside.replace(path)
            return
        check_names(files, self._entry, path)
        shutil.rmtree(path, ignore_errors=True)
        with atomic_folder(path) as folder:
            for name, digest in files.items():
                self._copy(digest, folder / name)

    def _copy(self, digest: str, path: Path) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UserError(f"{self._entry}: {digest[:80]!r} is no digest of a file", code="store-damaged")
        uris.download(f"{self._content}/{digest}", path)
        if digest_file(path) != digest:
            raise UserError(f"{self._content}/{digest}: damaged", code="store-damaged")

    def keep(self, stats: Any, outputs: Mapping[str, Path]) -> None:
        """Keep the outputs for the next time. Where they cannot be kept a warning says so: the work itself is done."""

        try:
            found = {name: self._store(path) for name, path in outputs.items()}
            entry = {"asked": self.asked, "stats": dataclasses.asdict(stats), "outputs": found, "code": code_version()}
            data = json.dumps(entry, indent=1, sort_keys=True).encode()
            if self._damaged:
                uris.put(data, self._entry)
            else:
                uris.put_if_absent(data, self._entry)
        except (UserError, OSError) as error:
            log.warning("not kept for the next run: %s", error)

    def _store(self, path: Path) -> dict[str, str]:
        files = {"": path} if path.is_file() else {each.relative_to(path).as_posix(): each for each in _files(path)}
        digests = {name: digest_file(file) for name, file in files.items()}
        for name, digest in digests.items():
            uri = f"{self._content}/{digest}"
            if self._damaged or not uris.exists(uri):
                uris.upload(files[name], uri)
        return digests


def _check_complete(files: Mapping[str, str], path: Path) -> None:
    """Raise :class:`UserError` where the ``files`` that were put into a folder are not those of their own manifest."""
    if FILENAME in files:
        said = read_manifest(path).files
        if said != {name: digest for name, digest in files.items() if name != FILENAME}:
            raise UserError(f"{path}: not the files that its manifest names", code="store-damaged")
        os.utime(path / FILENAME)  # all was compared just now: nothing is newer than this


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


def _digest(data: Any) -> str:
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _plain(configs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: [_section(one) for one in each] if isinstance(each, tuple) else _section(each)
            for key, each in configs.items()}  # fmt: skip


def _section(config: Any) -> dict[str, Any]:
    return config.content if isinstance(config, CorpusConfig) else deciding(config)


def _named(configs: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of what the configuration only names: files (a prompt), and checkpoints that no revision pins."""

    found = {text: digest_file(Path(text).expanduser()) for text in _texts(_plain(configs)) if _is_file(text)}
    for each in (part for config in configs.values() for part in (config, getattr(config, "encoder", None))):
        reference = getattr(each, "checkpoint", "")
        if each is not None and reference and not each.revision:
            found[reference] = checkpoint_identity(reference)
    return found


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for each in data.values() if isinstance(data, dict) else data:
            yield from _texts(each)


def _is_file(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().is_file()
    except (OSError, ValueError):  # too long for a name, or no name at all
        return False


def _identity(value: Any) -> Any:
    """Return the weights of a registered model: the same number means other weights in another registry."""
    if not isinstance(value, str) or not value.startswith("models:/"):
        return value

    try:
        return [value, registry.digest(value)]
    except NoAnswer:
        raise
    except UserError:  # gone since the run began: the stage says what follows from that
        return [value, "gone"]


def _digests(paths: Any) -> Any:
    """Return the same structure with each path replaced by the digest of its content."""
    if isinstance(paths, Mapping):
        return {key: _digests(value) for key, value in paths.items()}
    if isinstance(paths, list):
        return [_digests(value) for value in paths]
    return None if paths is None else content_digest(paths)


def _flat(paths: Any) -> Iterator[Path]:
    if isinstance(paths, Path):
        yield paths
    elif paths is not None:
        for each in paths.values() if isinstance(paths, Mapping) else paths:
            yield from _flat(each)
