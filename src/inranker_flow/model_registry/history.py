"""Which version served when, why and by whose hand; and the only way to change the champion.

MLflow's aliases, tags and descriptions have no compare-and-swap; a run's parameters are written once, but whoever deletes the
run deletes them. What every MLflow has is the number of a model version: unique, and given in the order of creation. So a
change of the champion is first appended as a version of the registered model ``zz-NAME-history`` (which stands last in a list
of models), whose number is its place in the log. It counts only if it names the entry that counted before it, so
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
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from inranker_flow.errors import UserError
from inranker_flow.model_registry import registry
from inranker_flow.model_registry.registry import CHALLENGER, CHAMPION, Version

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
class Place:
    """A version that served: its number, and the digest of its weights ("" where it was not recorded).

    A registered model that was deleted and made anew gives the same numbers to other models.
    """

    version: str = ""
    digest: str = ""

    def same(self, other: Place) -> bool:
        """True for the same model under the same number, as far as is known."""
        return self.version == other.version and (not self.digest or not other.digest or self.digest == other.digest)


@dataclass(frozen=True)
class State:
    """The state after some entries of the log: the version that serves ``now``; the ``places`` that a rollback leads back to,
    the nearest last; what a person took ``out`` of service, and by which entry: the gate does not bring it back.

    ``lost``: numbers of entries that came too late and changed nothing.
    """

    now: Place = Place()
    last: Entry | None = None
    places: tuple[Place, ...] = ()
    out: tuple[tuple[Place, Entry], ...] = ()
    lost: frozenset[int] = frozenset()

    @property
    def number(self) -> int:
        """Of the entry that counted last; 0 before the first."""
        return self.last.number if self.last else 0

    @property
    def serving(self) -> str:
        """The number of the version that serves; "" for none."""
        return self.now.version

    @property
    def before(self) -> tuple[str, ...]:
        """The numbers of ``places``."""
        return tuple(each.version for each in self.places)

    def taken_out(self, version: Version) -> Entry | None:
        """Return the entry by which a person took ``version`` out of service, or None."""
        return next((entry for place, entry in self.out if place.same(_place(version))), None)


def replay(entries: Sequence[Entry]) -> State:
    """Return the state after ``entries``, given in any order: a pure function, the same for everyone who reads the log."""
    state = State()
    for entry in sorted(entries, key=lambda each: each.number):
        if entry.after != state.number:
            state = replace(state, lost=state.lost | {entry.number})
            continue
        target = Place(entry.target, entry.details.get("digest", ""))
        out = [(place, by) for place, by in state.out if not place.same(target)]
        moved = bool(state.serving) and not state.now.same(target)
        if moved and entry.kind != "PROMOTE":
            out = [*((place, by) for place, by in out if not place.same(state.now)), (state.now, entry)]
        back = [number for number, place in enumerate(state.places) if place.same(target)]
        if entry.kind == "ROLLBACK" and back:
            # Back to where it was: rolling back once more goes further back. What lay between was gone.
            places = state.places[: back[-1]]
        else:
            places = (*state.places, state.now) if moved else state.places
        state = State(target, entry, places, tuple(out), state.lost)
    return state


def _place(version: Version | None) -> Place:
    return Place(version.version, version.tags.get(registry.DIGEST, "")) if version else Place()


def log_name(name: str) -> str:
    """Return the registered model whose versions are the log of ``name``: the last in a list of models, for it is none."""
    return f"zz-{name}-history"


def _older_log(name: str) -> str:
    """Return what older code called the log of ``name``; the next change gives it its name."""
    return f"{name}-history"


def read(name: str) -> list[Entry]:
    """Return all entries about ``name``, the oldest first; empty where there is no log yet."""
    action = f"read the history of {name}"
    found = registry.search(log_name(name), action) or registry.search(_older_log(name), action)
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
    registry.check_name(name)
    registry.rename_model(_older_log(name), log_name(name))
    while True:
        # The log before the alias: an alias that moved in between is then the work of an entry that was not seen yet,
        # and what is appended for it comes too late to count.
        state = replay(read(name))
        serving = registry.champion(name)
        now = _place(serving)
        if now.same(state.now):
            if state.last and not state.last.applied:
                _mark(name, state.last)
            return state
        known = registry.versions(name)
        lost = problem(state.now, known)
        if state.last and not state.last.applied and not lost:
            log.info("%s: finishing the change to version %s that was interrupted", name, state.last.target)
            _apply(name, state.last)
            continue
        why = "the alias was moved outside of this project" if state.last else "served before this history began"
        why = f"{lost}, so this serves instead" if lost and serving else lost or why
        _append(name, state, "FOUND", now.version, "unknown", why, {"digest": now.digest}, applied=True)


def problem(place: Place, known: Mapping[str, Version]) -> str:
    """Return the reason for which the version at ``place`` cannot serve again; "" if it can. ``known``: versions in the
    registry."""
    if not place.version:
        return ""
    if place.version not in known:
        return f"version {place.version} is gone"
    return "" if place.same(_place(known[place.version])) else f"version {place.version} is another model now"


def gone(name: str) -> str:
    """Return a line about the champion of ``name`` that the log knows and that no longer serves, with the remedy; otherwise
    ""."""
    if registry.champion(name):
        return ""
    state = replay(read(name))
    place = state.now if state.serving else state.places[-1] if state.places else None
    if place is None:
        return ""
    lost = problem(place, registry.versions(name))
    if lost:
        return (
            f"{name}: no champion serves, and the last one cannot serve again: {lost}; let another serve: make rollback "
            "WHY=... or make promote VERSION=N WHY=... (make history shows what served)"
        )
    if state.last and not state.last.applied:
        return ""  # interrupted before the alias moved: the next change finishes it
    return (
        f"{name}: no champion serves: the alias was taken from version {place.version}; bring it back, or let another "
        f"serve: make promote VERSION={place.version} WHY=..."
    )


def opponent(name: str, run_key: str) -> str:
    """Return the reference of the champion that the work ``run_key`` is measured against, or "": the one that serves, unless
    this very work made it.

    Then it is the one that served before: a repeated run asks the same question and meets its cached answer, instead of
    comparing a model with itself. A warning says early what the gate will say: that the champion is gone.
    """
    serving = registry.champion(name)
    if serving is None:
        if why := gone(name):
            log.warning("%s; until then the gate holds every student (champion_gone)", why)
        return ""
    return serving.tags.get("inranker.against", "") if serving.tags.get("run_key") == run_key else serving.reference


def move(
    version: Version, kind: Kind, who: str, why: str, details: Mapping[str, str], expected: str | None = None
) -> bool:
    """Make ``version`` the champion; False where another change came first, and then nothing has changed.

    ``expected``: the version that must serve now ("" for none); None takes whatever serves. Where ``version`` serves
    already nothing is written. Raises :class:`UserError` where MLflow refuses or does not answer; calling it again
    finishes what was begun.
    """
    state = settle(version.name)
    if state.now.same(_place(version)):
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


def leads_back(name: str, state: State) -> list[tuple[Version | None, str]]:
    """Return the places that a rollback meets, the nearest first: a version that may serve, or None and why it is skipped.

    What is gone is skipped, and what is another model under its number. :class:`UserError` where no version is left.
    """
    known = registry.versions(name)
    found: dict[str, tuple[Version | None, str]] = {}
    for place in reversed(state.places):
        why = problem(place, known)
        if why or not place.same(state.now):
            found.setdefault(why or place.version, (None if why else known[place.version], why))
    if not any(version for version, _ in found.values()):
        raise UserError(nowhere(name, state, list(found)), code="history-nowhere")
    return list(found.values())


def nowhere(name: str, state: State, skipped: Sequence[str]) -> str:
    """Return the reason for which a rollback leads nowhere, and the way out."""
    now = f"before version {state.serving}" if state.serving else "of this name"
    known = f"is left: {'; '.join(skipped)}" if skipped else "is known"
    return f"{name}: no champion {now} {known}; choose a version with: make promote VERSION=N WHY=..."


def person() -> str:
    """Return the name of the account that runs this process."""
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
    """Say of the last entry that the alias has followed. What serves challenges nobody, and what was held against the champion
    before it no longer does."""
    challenger = registry.challenger(name)
    if challenger and (entry.kind == "PROMOTE" or challenger.version == entry.target):
        registry.drop_alias(name, CHALLENGER)
    registry.set_tags(Version(log_name(name), str(entry.number), {}), {_APPLIED: "true"})
