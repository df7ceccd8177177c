"""Which version served when, why and by whose hand; and the only way to change the champion.

MLflow's aliases have no compare-and-swap. What every MLflow has is the number of a model version: unique, and given in
the order of creation. So a change of the champion is first appended as a version of the registered model
``NAME-history``, whose number is its place in the log. It counts only if it names the entry that counted before it, so
of two changes at once the first number wins, on both sides. Then the alias follows the log. A process that is killed in
between leaves the old champion serving and an entry that is not yet ``applied``; whoever changes the champion next
finishes it. An alias that was moved outside of this project is found, recorded and accepted.

Nothing is ever deleted from the log or changed in it, but for the mark ``applied``.
"""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from inranker_flow import registry, tracking
from inranker_flow.errors import UserError
from inranker_flow.registry import CHAMPION, Version

log = logging.getLogger(__name__)

#: PROMOTE: the gate. MANUAL, ROLLBACK: a person with `make`. FOUND: the alias was moved in another way.
Kind = Literal["PROMOTE", "MANUAL", "ROLLBACK", "FOUND"]

_TAG = "inranker."
_APPLIED = "inranker.applied"


@dataclass(frozen=True)
class Entry:
    """One change of the champion of a model from ``source`` to ``target`` (version numbers, "" for none).

    ``after`` is the number of the entry that counted last when this one was written, ``when`` the registry's time in
    milliseconds, ``details`` what else is worth keeping (digests, the run).
    """

    number: int
    after: int
    kind: Kind
    source: str
    target: str
    who: str
    why: str
    when: int
    applied: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What the log says. ``before`` are the versions that a rollback leads back to, the nearest last.

    ``barred``: versions that a person took out of service, and by which entry; the gate does not bring them back.
    ``lost``: numbers of entries that came too late and changed nothing.
    """

    serving: str = ""
    last: Entry | None = None
    before: tuple[str, ...] = ()
    barred: Mapping[str, Entry] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()

    @property
    def number(self) -> int:
        """Of the entry that counted last; 0 before the first."""
        return self.last.number if self.last else 0


def replay(entries: Sequence[Entry]) -> State:
    """What serves after ``entries``, given in any order: a pure function, the same for everyone who reads the log."""
    state = State()
    for entry in sorted(entries, key=lambda each: each.number):
        if entry.after != state.number:
            state = State(state.serving, state.last, state.before, state.barred, state.lost | {entry.number})
            continue
        barred = {version: by for version, by in state.barred.items() if version != entry.target}
        moved = state.serving not in ("", entry.target)
        if moved and entry.kind != "PROMOTE":
            barred[state.serving] = entry
        if entry.kind == "ROLLBACK" and state.before[-1:] == (entry.target,):
            before = state.before[:-1]  # back to where it was: rolling back once more goes further back
        else:
            before = (*state.before, state.serving) if moved else state.before
        state = State(entry.target, entry, before, barred, state.lost)
    return state


def log_name(name: str) -> str:
    """The registered model whose versions are the log of ``name``."""
    return f"{name}-history"


def read(name: str) -> list[Entry]:
    """All entries about ``name``, the oldest first; empty where there is no log yet."""
    client = tracking.client()
    found: list[Any] = []
    page = None
    with tracking.explained(f"read the history of {name}"):
        while True:
            # Not ordered by the server: it would order numbers as it pleases.
            page = client.search_model_versions(f"name = '{log_name(name)}'", page_token=page.token if page else None)
            found += page
            if not page.token:
                break
    return sorted((_entry(each) for each in found), key=lambda each: each.number)


def _entry(version: Any) -> Entry:
    tags = {key.removeprefix(_TAG): value for key, value in version.tags.items() if key.startswith(_TAG)}
    known: dict[str, Any] = {key: tags.pop(key, "") for key in ("kind", "from", "to", "who", "why", "after", "applied")}
    return Entry(
        number=int(version.version),
        after=int(known["after"] or 0),
        kind=known["kind"],
        source=known["from"],
        target=known["to"],
        who=known["who"],
        why=known["why"],
        when=int(version.creation_timestamp),
        applied=known["applied"] == "true",
        details=tags,
    )


def settle(name: str) -> State:
    """Finish a change that was interrupted, record an alias that was moved elsewhere; then log and alias agree."""
    while True:
        # The log before the alias: an alias that moved in between is then the work of an entry that was not seen yet,
        # and what is appended for it comes too late to count.
        state = replay(read(name))
        serving = registry.champion(name)
        version = serving.version if serving else ""
        if version == state.serving:
            if state.last and not state.last.applied:
                _mark(name, state.last)
            return state
        if state.last and not state.last.applied:
            log.info("%s: finishing the change to version %s that was interrupted", name, state.last.target)
            _apply(name, state.last)
            continue
        why = "the alias was moved outside of this project" if state.last else "served before this history began"
        _append(name, state, "FOUND", version, "unknown", why, {}, applied=True)


def move(
    version: Version, kind: Kind, who: str, why: str, details: Mapping[str, str], expected: str | None = None
) -> bool:
    """Make ``version`` the champion; False where another change came first, and then nothing has changed.

    ``expected``: the version that must serve now ("" for none); None takes whatever serves. Where ``version`` serves
    already nothing is written. Raises :class:`UserError` where MLflow refuses or does not answer; calling it again
    finishes what was begun.
    """
    state = settle(version.name)
    if state.serving == version.version:
        return True
    if expected is not None and state.serving != expected:
        return False
    number = _append(version.name, state, kind, version.version, who, why, details)
    state = replay(read(version.name))
    if number in state.lost:
        return False
    if state.last and state.last.number == number:
        _apply(version.name, state.last)
    return True


def previous(name: str) -> tuple[State, str]:
    """The settled state and the version that a rollback restores; :class:`UserError` where there is none."""
    state = settle(name)
    if not state.before:
        now = f"before version {state.serving}" if state.serving else "of this name"
        raise UserError(f"{name}: no champion {now} is known; choose a version with: make promote VERSION=N WHY=...")
    return state, state.before[-1]


def person() -> str:
    """Name of the account that runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        return f"user {os.getuid()}"


def _append(
    name: str,
    state: State,
    kind: Kind,
    target: str,
    who: str,
    why: str,
    details: Mapping[str, str],
    applied: bool = False,
) -> int:
    """Write one entry after ``state`` and return its number."""
    known = {
        "kind": kind,
        "from": state.serving,
        "to": target,
        "who": who,
        "why": " ".join(why.split())[:1000],
        "after": str(state.number),
        "applied": str(applied).lower(),
    }
    tags = {f"{_TAG}{key}": value for key, value in {**details, **known}.items()}
    return registry.append(
        log_name(name),
        f"Which version of {name} served when, and why: one version of this model for each change. Not a model.",
        # Loading an entry loads what it made champion.
        f"models:/{name}/{target}" if target else "s3://inranker-history/none",
        tags,
        f"{kind}: version {state.serving or 'none'} -> {target or 'none'}, by {who}: {why}"[:4900],
    )


def _apply(name: str, entry: Entry) -> None:
    """Let the alias follow the log, whose last entry was ``entry`` a moment ago."""
    while True:
        if entry.target:
            registry.set_alias(Version(name, entry.target, {}), CHAMPION)
        latest = replay(read(name)).last
        if latest is None or latest.number == entry.number:
            _mark(name, entry)
            return
        # Somebody was faster and has moved it further: what was just written is old, so put it right.
        entry = latest


def _mark(name: str, entry: Entry) -> None:
    registry.set_tags(Version(log_name(name), str(entry.number), {}), {_APPLIED: "true"})
