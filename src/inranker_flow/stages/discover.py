"""The stage `discover`: which corpora lie below a prefix, what is new about them, and is there anything to train for?

A corpus is a folder in BEIR layout, perhaps with a `corpus.yaml` (:class:`Wishes`). What the champion was trained on is in
the tags of its version: one for each corpus, and one for the configuration.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow import storage, text_files, tracking
from inranker_flow.config import (
    CorporaConfig,
    CorpusConfig,
    Count,
    DistillConfig,
    Language,
    PrepareConfig,
    PromoteConfig,
    Prompt,
    Split,
    as_dict,
    parse,
    without_defaults,
)
from inranker_flow.corpora.problems import BadCollection
from inranker_flow.corpora.sources import layout
from inranker_flow.errors import UserError
from inranker_flow.execution import left_out
from inranker_flow.markdown import escape
from inranker_flow.model_registry import registry
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.storage import FileInfo, atomic_write
from inranker_flow.store import kept_rows, negatives
from inranker_flow.store.claims import claim

log = logging.getLogger(__name__)

#: Tags of a version: identity of the corpus NAME, and of the configuration; digest of the training set of NAME; why the
#: target NAME was left out of its training.
CORPUS_TAG, WORK_TAG, DATA_TAG = "inranker.corpus.", "inranker.work", "digest.data."
LEFT_OUT_TAG = "inranker.left_out."
WISHES = "corpus.yaml"
#: Of what is remembered about corpora: raised when the reader reads what it refused before.
READER = 2


@dataclass(frozen=True)
class Wishes:
    """What a corpus.yaml may say: the template (by name, or its text) and the number of documents of its synthetic queries,
    the names of its splits in qrels/, and the language and the licence of its texts."""

    prompt: Prompt = ""
    documents: Count = 0
    train_split: Split = "train"
    test_split: Split = "test"
    language: Language = ""
    licence: str = ""


@dataclass(frozen=True)
class DiscoverStats:
    """``go`` is "yes" where there is something to train for; ``reason`` says why, or why not.

    ``targets`` are the collections to adapt to (CorpusConfig as data). ``run_key`` identifies the work: configuration and
    corpora. ``source`` is the collection with supervised queries. Both know the training set that was made of them before
    (`CorpusConfig.earlier`). ``champion`` is what it is measured against, ``start`` the same where phase 2 goes on from
    it, else empty.
    """

    corpora: int
    new: int
    changed: int
    removed: int
    quarantined: int
    uploading: int
    unread: int
    seconds: float
    go: str
    reason: str
    targets: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    run_key: str = ""
    champion: str = ""
    start: str = ""

    @property
    def found(self) -> tuple[str, list[dict[str, Any]], dict[str, Any], str, str, str]:
        """What later stages are told."""
        return self.go, self.targets, self.source, self.run_key, self.champion, self.start


@dataclass
class Folder:
    """One below the prefix; ``state``: same, new, changed, uploading, quarantined (what it holds is broken) or unread (it
    could not be read this time), with the reason."""

    name: str
    uri: str
    files: list[FileInfo]
    config: CorpusConfig | None = None
    state: str = ""
    reason: str = ""

    @property
    def names(self) -> set[str]:
        """Of its files, relative to it."""
        return {file.uri.removeprefix(f"{self.uri}/") for file in self.files}

    @property
    def holds_documents(self) -> bool:
        return layout.holds_documents(self.names)

    def set_aside(self, error: Exception) -> None:
        """Leave it out of this run. Only what a reader found wrong in the corpus itself says something about the corpus;
        whatever else happened, of whatever kind, passes."""
        self.config = None
        if isinstance(error, BadCollection):
            self.state, self.reason = "quarantined", str(error)
            return
        said = " ".join(str(error).split())
        said = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"[:300]
        self.state, self.reason = "unread", f"not read tonight: {said}; the next run tries again"
        log.debug("%s: not read", self.name, exc_info=error)

    @property
    def look(self) -> str:
        return storage.fingerprint_of(self.uri, self.files)


def identity(corpus: CorpusConfig) -> str:
    """What a student is trained on when it is trained for ``corpus``: its content (its address where that is unknown) and
    how it is read."""
    return sha256(json.dumps(corpus.content, sort_keys=True).encode()).hexdigest()[:32]


def trained_on(targets: Sequence[CorpusConfig], work: str, without: Mapping[str, str] | None = None) -> dict[str, str]:
    """Tags of a version that say what it was trained on, and ``without`` which targets (name -> why)."""
    gone = {f"{LEFT_OUT_TAG}{name}": why[:1000] for name, why in (without or {}).items()}
    return {**{f"{CORPUS_TAG}{each.name}": identity(each) for each in targets}, WORK_TAG: work, **gone}


def discover(
    config: CorporaConfig,
    corpus: PrepareConfig,
    source: CorpusConfig,
    targets: tuple[CorpusConfig, ...],
    phase2: DistillConfig,
    promotion: PromoteConfig,
    work_key: str,
    run_id: str,
    report: Path,
) -> DiscoverStats:
    """Find the corpora below `config.uri`, and say whether a run is due; ``targets`` always belong to it.

    ``work_key`` identifies the configuration. Nothing is due where champion or last challenger (if it was measured against
    this champion) was trained on the same corpora in the same way, or another run (``run_id`` is this one) is at it. A new
    or changed corpus is read once as `prepare_corpus` reads it; a broken one is left out, with the reason in ``report``
    (Markdown), and so is, this time, one that cannot be read for another reason. Raises :class:`UserError` where prefix,
    registry or store cannot be read.
    """
    started = time.monotonic()
    known = _known(promotion.model_name, work_key)
    found = look(config)
    for each in found:
        _settle(each, config, corpus, known)
    _wait(found, config)
    for each in found:
        _check(each, corpus)
    usable = [*targets, *(each.config for each in found if each.config)]
    current = {each.name: identity(each) for each in usable}
    away = {each.name for each in found if not each.config}
    removed = sorted(set(known.corpora) - set(current) - away)
    key = sha256(json.dumps([work_key, current], sort_keys=True).encode()).hexdigest()[:16]

    reason, go = _decide(config, found, usable, current, removed, known, work_key)
    if go:
        owner = claim(key, run_id)
        if owner != run_id:
            reason, go = f"run {owner} is doing this very work already", False
    champion = registry.opponent(promotion.model_name, key)
    counts = {
        state: sum(each.state == state for each in found)
        for state in ("new", "changed", "quarantined", "uploading", "unread")
    }
    for each in found:
        log.log(
            logging.WARNING if each.state in ("quarantined", "unread") else logging.INFO,
            "%s: %s%s", layout.printable(each.name), each.state, f" ({each.reason})" if each.reason else "",
        )  # fmt: skip
    log.info("%s: %s", "a run is due" if go else "nothing to do", reason)
    if not go:
        tracking.note_end("discover")
    with atomic_write(report) as out:
        out.write(_markdown(found, targets, removed, reason, go).encode())
    return DiscoverStats(
        corpora=len(usable),
        removed=len(removed),
        **counts,
        seconds=time.monotonic() - started,
        go="yes" if go else "no",
        reason=reason,
        targets=[without_defaults(_with_earlier(each, known)) for each in left_out.settled(usable, config.refused)]
        if go
        else [],
        source=without_defaults(_with_earlier(source, known)),
        run_key=key,
        champion=champion,
        start=champion if phase2.start == "champion" else "",
    )


@dataclass(frozen=True)
class _Known:
    """What a version was trained on: name -> identity, and name -> digest of the training set; ``work`` is its
    configuration, ``version`` names it, ``without`` are the targets that were left out."""

    corpora: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    work: str = ""
    version: str = ""
    without: frozenset[str] = frozenset()


def _known(name: str, work_key: str) -> _Known:
    """What the champion was trained on; or the last challenger, where that was held against this champion."""
    champion, challenger = registry.champion(name), registry.challenger(name)
    versions = [each for each in (champion, challenger) if each]
    if challenger and challenger.tags.get("inranker.against", "") != (champion.reference if champion else ""):
        versions.remove(challenger)
    read = [_read_tags(each) for each in versions]
    # The newest that was made in this way: what it was held for, it would be held for again.
    same = [each for each in read if each.work == work_key]
    return [_Known(), *read[:1], *same][-1]


def _read_tags(version: registry.Version) -> _Known:
    corpora, data, without = (
        {tag.removeprefix(prefix): value for tag, value in version.tags.items() if tag.startswith(prefix)}
        for prefix in (CORPUS_TAG, DATA_TAG, LEFT_OUT_TAG)
    )
    return _Known(corpora, data, version.tags.get(WORK_TAG, ""), version.reference, frozenset(without))


def _with_earlier(corpus: CorpusConfig, known: _Known) -> CorpusConfig:
    """``corpus`` with the training set that was made of it before; `retrieve` asks whether it was drawn in the same way."""
    return replace(corpus, earlier=negatives.known(known.data.get(corpus.name, "")))


def look(config: CorporaConfig) -> list[Folder]:
    """One for each folder below the prefix; files and hidden folders there are none of its business."""
    if not config.uri:
        return []
    root = config.uri.rstrip("/")
    if not root.startswith("s3://"):
        return _look_on_disk(config, root)
    files = storage.look(root)
    if not files:
        raise UserError(_nothing(config))
    folders: dict[str, list[FileInfo]] = {}
    for file in files:
        name, slash, _ = file.uri.removeprefix(f"{root}/").partition("/")
        if slash and not name.startswith("."):
            folders.setdefault(name, []).append(file)
    return [Folder(name, f"{root}/{name}", own) for name, own in sorted(folders.items())]


def _nothing(config: CorporaConfig) -> str:
    return f"corpora.uri: {config.uri}: nothing is stored there; correct the address, or upload a corpus"


def _look_on_disk(config: CorporaConfig, root: str) -> list[Folder]:
    """Each folder is looked at by itself: what hinders one (its rights, a mount that is gone) is its own."""
    try:
        with os.scandir(storage.local_path(root)) as entries:
            # A link that leads nowhere, or a file, is no folder.
            names = sorted(each.name for each in entries if not each.name.startswith(".") and _is_folder(each))
    except FileNotFoundError as error:
        raise UserError(_nothing(config)) from error
    except OSError as error:
        raise UserError(
            f"corpora.uri: {config.uri}: cannot be listed: {error.strerror}; give a folder with one folder for each corpus, "
            "which this user may read"
        ) from error
    found = []
    for name in names:
        each = Folder(name, f"{root}/{name}", [])
        try:
            layout.local_files(storage.local_path(each.uri))  # says what hinders, where a listing leaves that out
            each.files = storage.look(each.uri)
        except Exception as error:
            each.set_aside(error)
        found.append(each)
    return [each for each in found if each.files or each.state]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # looked at, and reported, as one


def _settle(each: Folder, config: CorporaConfig, corpus: PrepareConfig, known: _Known) -> None:
    """Configuration and state of a corpus as it looks now."""
    if each.state:
        return
    try:
        each.config = _read(each)
    except Exception as error:
        each.set_aside(error)
        return
    if each.name not in known.corpora:
        each.state = "new"
    else:
        each.state = "same" if known.corpora[each.name] == identity(each.config) else "changed"


def _read(each: Folder) -> CorpusConfig:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", each.name):
        raise BadCollection(
            f"{layout.printable(each.uri)}: a corpus's name may hold only letters, digits, '.', '_' and '-'; rename the folder"
        )
    if not each.holds_documents:
        raise BadCollection(
            f"{each.uri}: holds neither corpus.jsonl (BEIR layout) nor corpus.parquet; upload it, or remove the folder"
        )
    wishes = as_dict(read_wishes(each))
    return CorpusConfig(uri=each.uri, name=each.name, fingerprint=_content(each), **wishes)


def read_wishes(folder: Folder) -> Wishes:
    """What its corpus.yaml says. Raises :class:`UserError` for one that is no YAML or has other keys."""
    if WISHES not in folder.names:
        return Wishes()
    where = f"{folder.uri}/{WISHES}"
    content = storage.read(where)  # a store that does not answer says nothing about the corpus
    try:
        data = text_files.parse_yaml(text_files.decode(content, where), where)
        return parse(Wishes, data or {}, where)
    except UserError as error:
        raise BadCollection(str(error)) from error


def _content(each: Folder) -> str:
    """Digest of the corpus's content; it is read only where names, sizes and etags are new."""
    memo = _memo("content", each.look)
    if content := _remembered(memo):
        return content
    copy = storage.local_copy(each.uri)
    digest = storage.digest_folder(copy)
    # A marker that is written again says nothing about the content, but it is part of the folder: that is one more reading.
    _remember(digest, memo)
    return digest


def _wait(found: Sequence[Folder], config: CorporaConfig) -> None:
    """Look a second time at what is new and not marked as complete: what has changed meanwhile is being uploaded."""
    unsure = [each for each in found if each.state in ("new", "changed") and config.marker not in each.names]
    if not unsure:
        return
    names = ", ".join(each.name for each in unsure)
    log.info("%s: no %s, so looking again in %s s", names, config.marker, config.settle_seconds)
    time.sleep(config.settle_seconds)
    for each in unsure:
        try:
            same = _unchanged(each)
        except Exception as error:
            each.set_aside(error)
            continue
        if not same:
            each.reason = (
                f"it changed within {config.settle_seconds} s, so it is still being uploaded: the next run takes it"
            )
            each.state, each.config = "uploading", None


def _unchanged(each: Folder) -> bool:
    return storage.fingerprint_of(each.uri, storage.look(each.uri)) == each.look


def _check(each: Folder, corpus: PrepareConfig) -> None:
    """Read a new or changed corpus whole, as the run would: what would end the run is set aside instead.

    What the reader found wrong in it is remembered, so that it is read once; anything else is not.
    """
    if each.config is None or each.state == "same":
        return
    try:
        if each.config.prompt:
            _check_prompt(each)
        data = [READER, identity(each.config), as_dict(corpus)]
        memo = _memo("checked", sha256(json.dumps(data).encode()).hexdigest())
        told = _remembered(memo)
        if told is None:
            told = _problem(each.config, corpus)
            if told and not _unchanged(each):
                raise UserError(f"it changed while it was read ({told})")
            _remember(told, memo)
        if told:
            raise BadCollection(told)
    except Exception as error:
        each.set_aside(error)


def _check_prompt(each: Folder) -> None:
    from inranker_flow.generation import prompts

    try:
        prompts.load(each.config.prompt if each.config else "")
    except UserError as error:
        raise BadCollection(str(error)) from error


def _problem(corpus: CorpusConfig, config: PrepareConfig) -> str:
    """Why `prepare_corpus` refuses what ``corpus`` holds; "" where it does not. Every other trouble is raised."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            stats = prepare_corpus(config, corpus, Path(folder) / "collection")
        except BadCollection as error:
            return str(error)
    return "" if stats.documents else f"{corpus.uri}: holds no document that can be used"


def _memo(kind: str, key: str) -> str:
    """Where the store remembers an answer about ``key``; "" without a store."""
    root = kept_rows.root()
    return f"{root}/corpora/{kind}/{key}" if root else ""


def _remembered(memo: str) -> str | None:
    """What was answered before."""
    try:
        return storage.read(memo).decode() if memo else None
    except FileNotFoundError:
        return None


def _remember(answer: str, memo: str) -> None:
    """Keep an answer; where that cannot be done it is found again next time."""
    try:
        if memo:
            storage.put_if_absent(answer.encode(), memo)
    except (UserError, OSError) as error:
        log.warning("what was found is not kept for the next run: %s", error)


def _decide(
    config: CorporaConfig,
    found: Sequence[Folder],
    usable: Sequence[CorpusConfig],
    current: Mapping[str, str],
    removed: Sequence[str],
    known: _Known,
    work_key: str,
) -> tuple[str, bool]:
    """(reason, whether a run is due)."""
    states = ("new", "changed", "uploading", "unread")
    names = {state: [each.name for each in found if each.state == state] for state in states}
    lost = sorted(set(names["unread"]) & set(known.corpora))
    if lost:
        return (
            f"{', '.join(lost)} could not be read, which {known.version} was trained on: the next run tries again",
            False,
        )
    if not usable:
        if names["unread"]:
            return (
                f"{', '.join(map(layout.printable, names['unread']))} could not be read: the next run tries again",
                False,
            )
        return f"there is no corpus to adapt to below {config.uri or 'corpora.uri, which is not set'}", False
    busy = sorted(set(names["uploading"]) & set(known.corpora))
    if busy:
        # Without it the next student would have lost what this one knows.
        return f"{', '.join(busy)} is being uploaded anew: the next run takes it", False
    if not known.version:
        return f"no model was trained in this way yet: {', '.join(current)}", True
    # What a run left out is tried again, whether it was mended or not.
    again = sorted(known.without & set(current))
    new = [name for name in names["new"] if name not in again]
    changes = {"left out then:": again, "new": new, "changed": names["changed"], "removed": removed}
    told = [f"{word} {', '.join(each)}" for word, each in changes.items() if each]
    # Targets that the profile names have no state of their own.
    other = sorted(
        name
        for name in current
        if known.corpora.get(name) != current[name] and name not in (*names["new"], *names["changed"], *again)
    )
    if other:
        told.append(f"other settings for {', '.join(other)}")
    if known.work != work_key:
        told.append("another configuration")
    if told:
        return f"since {known.version}: {'; '.join(told)}", True
    return (
        f"{known.version} was trained in this way, on just these corpora: {', '.join(sorted(current))}",
        False,
    )


def _markdown(
    found: Sequence[Folder], targets: Sequence[CorpusConfig], removed: Sequence[str], reason: str, go: bool
) -> str:
    lines = [f"# {'A run is due' if go else 'Nothing to do'}", "", f"{escape(reason[:1].upper() + reason[1:])}.", ""]
    lines += ["| corpus | state | |", "|---|---|---|"]
    rows = [(each.name, each.state, each.reason) for each in found]
    rows += [(each.name, "of the profile", each.uri) for each in targets]
    rows += [(name, "removed", "") for name in removed]
    lines += [
        f"| {escape(layout.printable(name))} | {state} | {escape(layout.printable(text))} |"
        for name, state, text in rows
    ]
    return "\n".join(lines) + "\n"
