"""Which output of a classification head says "relevant": what config.json calls them, or what the settings say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from inranker_flow.errors import UserError


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_RELEVANT = _set(
    "relevant relevance true yes positive pos entailment entail entails entailed match matching matches matched answer "
    "answers answered answerable correct good related similar duplicate equivalent paraphrase helpful useful supported "
    "supports support pertinent relevante positivo sim sí si oui ja да 1 y t rel"
) | {"highly relevant", "perfectly relevant", "answers the query", "contains answer", "has answer"}
_IRRELEVANT = _set(
    "irrelevant nonrelevant notrelevant false no negative neg contradiction contradicts mismatch wrong incorrect bad "
    "unrelated different refuted refutes unhelpful useless irrelevante negativo não nao nein нет 0 n f nonentailment "
    "unanswerable dissimilar"
)
#: Between the two: says neither.
_NEITHER = frozenset({"neutral", "unknown", "other", "unsure", "maybe", "partially relevant", "not enough info"})
_NEGATION = re.compile(r"(?:not?|non|isn t|is not|does not|doesn t|nicht|não|нет|не) (.+)")
_NEGATING = ("not", "non", "ir", "un", "in", "dis")
_BARE = re.compile(r"label (\d+)")


@dataclass(frozen=True)
class Head:
    """Columns of the head's output: ``true`` says relevant and ``false`` not. Of a head with one output one of them is None.

    ``names``: what they are called (false, true); ``told``: how that is known; ``assumed``: it is a convention alone.
    """

    false: int | None
    true: int | None
    names: tuple[str, str]
    told: str
    assumed: bool = False


def find(reference: str, config: dict[str, Any], false_token: str = "", true_token: str = "") -> Head:
    """Return the head of a checkpoint with this ``config.json``; ``false_token`` and ``true_token`` name labels, or positions.

    Raises :class:`UserError` where labels do not say which is relevant, naming the settings that do.
    """
    names, doubt = _names(config)
    if false_token or true_token:
        return _named(reference, names, doubt, false_token, true_token)
    if doubt:
        raise UserError(
            f"{reference}: its config.json contradicts itself ({doubt}); {_remedy(names, by_place=True)}",
            code="checkpoint-config",
        )
    if len(names) == 1:
        if _meaning(names[0]) is False:
            raise UserError(
                f"{reference}: the one label of its head is called {names[0]!r}; set scoring.false_token to it if a high value "
                "means irrelevant, or scoring.true_token if it means relevant",
                code="checkpoint-labels",
            )
        return Head(None, 0, ("", names[0]), f"one label{_activation(config)}")
    if len(names) > 2:
        raise UserError(
            f"{reference}: its head has {len(names)} labels; a reranker's has one (a score) or two; {_remedy(names)}",
            code="checkpoint-labels",
        )
    bare = [_BARE.fullmatch(_plain(name)) for name in names]
    if all(bare):
        if [int(each[1]) for each in bare if each] != [0, 1]:
            raise UserError(
                f"{reference}: {_shown(names)} do not say which is relevant; {_remedy(names)}", code="checkpoint-labels"
            )
        told = f"{names[1]} taken for relevant by convention, for the labels have no names"
        return Head(0, 1, (names[0], names[1]), told, assumed=True)
    true = _relevant(names)
    if true is None:
        raise UserError(
            f"{reference}: {_shown(names)} do not say which is relevant; {_remedy(names)}", code="checkpoint-labels"
        )
    return Head(1 - true, true, (names[1 - true], names[true]), f"label {names[true]!r} says relevant")


def find_for_student(section: str, reference: str, config: dict[str, Any], false_token: str, true_token: str) -> Head:
    """As :func:`find`, of a student's start: what is said names the settings of ``section``."""
    try:
        return find(reference, config, false_token, true_token)
    except UserError as error:
        raise UserError(re.sub(r"(teacher\.)?scoring\.", f"{section}.", str(error)), code=error.code) from error


def count(config: dict[str, Any]) -> int:
    """Return the labels of a head, as far as ``config.json`` says."""
    return len(_names(config)[0])


def _relevant(names: list[str]) -> int | None:
    """Return the place of the one of two labels that says relevant."""
    plain = [_plain(name) for name in names]
    for place, (one, other) in enumerate((plain, plain[::-1])):
        if one != other and one in {f"{prefix}{joint}{other}" for prefix in _NEGATING for joint in ("", " ")}:
            return 1 - place
        if (match := _NEGATION.fullmatch(one)) and match[1] == other:
            return 1 - place
    meanings = [_meaning(name) for name in names]
    if sorted(map(str, meanings)) == ["False", "True"]:
        return meanings.index(True)
    for place, meaning in enumerate(meanings):
        if meaning is not None and meanings[1 - place] is None:
            if meaning:
                return place
            # What is not irrelevant is relevant, unless its name says that it is in between.
            return None if plain[1 - place] in _NEITHER or _BARE.fullmatch(plain[1 - place]) else 1 - place
    return None


def _meaning(name: str) -> bool | None:
    """Return whether a label says relevant; None where its name says nothing."""
    plain = _plain(name)
    if plain in _NEITHER or _BARE.fullmatch(plain):
        return None
    if plain in _RELEVANT or plain in _IRRELEVANT:
        return plain in _RELEVANT
    words = [each for each in plain.split() if each not in ("label", "class", "is", "the") and not each.isdigit()]
    short = " ".join(words)
    if short in _RELEVANT or short in _IRRELEVANT:
        return short in _RELEVANT
    if match := _NEGATION.fullmatch(short):
        known = _meaning(match[1])
        return None if known is None else not known
    for prefix in ("not", "non", "no"):
        if short.startswith(prefix) and short.removeprefix(prefix) in _RELEVANT:
            return False
    return None


def _plain(name: str) -> str:
    """In small letters, words apart: Not-Relevant, not_relevant and notRelevant are one."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\W_]+", name)).strip().casefold()


def _names(config: dict[str, Any]) -> tuple[list[str], str]:
    """Return the labels by position, and what is contradictory about them ("": nothing)."""
    by_id, by_name = _places(config.get("id2label")), _inverted(config.get("label2id"))
    count = config.get("num_labels", config.get("_num_labels"))
    count = count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None
    known = by_id or by_name or {}
    size = len(known) or count or 2
    names = [known.get(place, f"LABEL_{place}") for place in range(size)]
    if known and sorted(known) != list(range(size)):
        return names, f"id2label numbers its labels {sorted(known)}"
    if count is not None and count != size:
        return names, f"num_labels is {count}, and id2label has {size}"
    bare = bool(by_name) and all(_BARE.fullmatch(_plain(name)) for name in by_name.values())
    if (
        by_id
        and by_name
        and not bare
        and {k: _plain(v) for k, v in by_id.items()} != {k: _plain(v) for k, v in by_name.items()}
    ):
        return names, f"id2label says {_listed(names)}, and label2id otherwise"
    if len({_plain(name) for name in names}) < len(names):
        return names, f"two labels have one name: {_listed(names)}"
    return names, ""


def _places(found: Any) -> dict[int, str]:
    """Return id2label as JSON has it, or a list."""
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        return {}
    return {int(place): str(name) for place, name in found.items() if str(place).strip().isdigit()}


def _inverted(found: Any) -> dict[int, str]:
    if not isinstance(found, dict):
        return {}
    return {int(place): str(name) for name, place in found.items() if str(place).strip().isdigit()}


def _named(reference: str, names: list[str], doubt: str, false_token: str, true_token: str) -> Head:
    """Return the head as the settings say."""
    false, true = (
        _place(reference, names, doubt, token, setting)
        for token, setting in ((false_token, "scoring.false_token"), (true_token, "scoring.true_token"))
    )
    if len(names) == 1:
        if false is not None and true is not None:
            raise UserError(
                f"{reference}: its head has one label, {names[0]!r}; set one of scoring.true_token and scoring.false_token",
                code="setting-missing",
            )
        told = (
            "one label, a high value means " + ("relevant" if false is None else "irrelevant") + ", as the settings say"
        )
        return Head(false, true, (names[0], "") if true is None else ("", names[0]), told)
    if len(names) == 2:
        false = 1 - true if false is None and true is not None else false
        true = 1 - false if true is None and false is not None else true
    if false is None or true is None:
        raise UserError(f"{reference}: its head has {len(names)} labels; {_remedy(names)}", code="checkpoint-labels")
    if false == true:
        raise UserError(
            f"{reference}: scoring.true_token and scoring.false_token are both {names[true]!r}; they must differ",
            code="setting-conflict",
        )
    return Head(false, true, (names[false], names[true]), f"label {names[true]!r} says relevant, as the settings say")


def _place(reference: str, names: list[str], doubt: str, token: str, setting: str) -> int | None:
    if not token:
        return None
    same = [place for place, name in enumerate(names) if name == token] or [
        place for place, name in enumerate(names) if _plain(name) == _plain(token)
    ]
    if len(same) == 1 and not doubt:
        return same[0]
    if token.isdigit() and int(token) < len(names):
        return int(token)
    if doubt:
        raise UserError(
            f"{reference}: its config.json contradicts itself ({doubt}); {_remedy(names, by_place=True)}",
            code="checkpoint-config",
        )
    raise UserError(
        f"{reference}: {setting}: its head has no label {token!r}; it has {_listed(names)}", code="checkpoint-labels"
    )


def _remedy(names: list[str], by_place: bool = False) -> str:
    what = f"positions (0 to {len(names) - 1})" if by_place else f"names of labels, here {_listed(names)}"
    return f"set teacher.scoring.true_token and teacher.scoring.false_token to the {what}"


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")


def _shown(names: list[str]) -> str:
    return f"the labels of its head, {_listed(names)},"


def _activation(config: dict[str, Any]) -> str:
    """Return sentence-transformers' activation behind the head, which is left out here: order and margins are those of the
    logit."""
    nested = config.get("sentence_transformers")
    found = nested.get("activation_fn") if isinstance(nested, dict) else None
    name = str(found or config.get("sbert_ce_default_activation_function") or "").rpartition(".")[2]
    return f", its {name} left out (the order is the same)" if name and name != "Identity" else ""
