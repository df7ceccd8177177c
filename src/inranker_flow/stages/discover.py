"""The stage `discover`: which corpora lie below a prefix, what is new about them, and is there anything to train for?

A corpus is a folder in BEIR layout, perhaps with a `corpus.yaml` (:class:`Wishes`). What the champion was trained on is in
the tags of its version: one for each corpus, and one for the configuration.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow.config.parsing import as_dict, without_defaults
from inranker_flow.config.sections import CorporaConfig, CorpusConfig, DistillConfig, PrepareConfig, PromoteConfig
from inranker_flow.corpora.folders import Folder, look_below, read_wishes
from inranker_flow.corpora.problems import BadCollection
from inranker_flow.corpora.sources import layout
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.execution import left_out
from inranker_flow.generation import prompts
from inranker_flow.markdown import escape
from inranker_flow.model_registry import age, history
from inranker_flow.model_registry.trained_on import Known, identity, last_known
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.storage import uris
from inranker_flow.storage.listing import fingerprint_of
from inranker_flow.storage.local import atomic_write, digest_folder
from inranker_flow.store import negatives
from inranker_flow.store.claims import claim
from inranker_flow.tracking.records import note_end

log = logging.getLogger(__name__)


#: Of what is remembered about corpora: raised when the reader reads what it refused before.
READER = 3


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
    known = last_known(promotion.model_name, work_key)
    found = look_below(config)
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
    champion = history.opponent(promotion.model_name, key)
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
        note_end("discover")
    told = age.line(promotion.model_name, config.alarm_days)
    log.log(logging.WARNING if told.startswith("ALARM") else logging.INFO, "%s", told)
    with atomic_write(report) as out:
        out.write(f"{_markdown(found, targets, removed, reason, go)}\n{escape(told)}.\n".encode())
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


def _with_earlier(corpus: CorpusConfig, known: Known) -> CorpusConfig:
    """Return ``corpus`` with the training set that was made of it before; `retrieve` asks whether it was drawn in the same
    way."""
    return replace(corpus, earlier=negatives.known(known.data.get(corpus.name, "")))


def _settle(each: Folder, config: CorporaConfig, corpus: PrepareConfig, known: Known) -> None:
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
            f"{layout.printable(each.uri)}: a corpus's name may hold only letters, digits, '.', '_' and '-'; rename the folder",
            code="collection-name",
        )
    if not each.holds_documents:
        raise BadCollection(
            f"{each.uri}: holds neither corpus.jsonl (BEIR layout) nor corpus.parquet nor files of text; upload it, or remove it",
            code="collection-form",
        )
    wishes = as_dict(read_wishes(each))
    return CorpusConfig(uri=each.uri, name=each.name, fingerprint=_content(each), **wishes)


def _content(each: Folder) -> str:
    """Digest of the corpus's content; it is read only where names, sizes and etags are new."""
    memo = _memo("content", each.look)
    if content := _remembered(memo):
        return content
    copy = uris.local_copy(each.uri)
    digest = digest_folder(copy)
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
    return fingerprint_of(each.uri, uris.look(each.uri)) == each.look


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
                raise UserError(f"it changed while it was read ({told})", code="collection-changed")
            _remember(told, memo)
        if told:
            raise BadCollection(told, code="wishes-form")
    except Exception as error:
        each.set_aside(error)


def _check_prompt(each: Folder) -> None:

    try:
        prompts.load(each.config.prompt if each.config else "")
    except UserError as error:
        raise BadCollection(str(error), code=error.code) from error


def _problem(corpus: CorpusConfig, config: PrepareConfig) -> str:
    """Return the reason for which `prepare_corpus` refuses ``corpus``; "" if it does not. Every other trouble is raised."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            stats = prepare_corpus(config, corpus, Path(folder) / "collection")
        except BadCollection as error:
            return str(error)
    return "" if stats.documents else f"{corpus.uri}: holds no document that can be used"


def _memo(kind: str, key: str) -> str:
    """Return the address of a remembered answer about ``key``; "" without a store."""
    root = variables.store_root()
    return f"{root}/corpora/{kind}/{key}" if root else ""


def _remembered(memo: str) -> str | None:
    """Return the remembered answer."""
    try:
        return uris.read(memo).decode() if memo else None
    except FileNotFoundError:
        return None


def _remember(answer: str, memo: str) -> None:
    """Keep an answer; where that cannot be done it is found again next time."""
    try:
        if memo:
            uris.put_if_absent(answer.encode(), memo)
    except (UserError, OSError) as error:
        log.warning("what was found is not kept for the next run: %s", error)


def _decide(
    config: CorporaConfig,
    found: Sequence[Folder],
    usable: Sequence[CorpusConfig],
    current: Mapping[str, str],
    removed: Sequence[str],
    known: Known,
    work_key: str,
) -> tuple[str, bool]:
    """Return (reason, whether a run is due)."""
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
