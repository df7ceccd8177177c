"""What the page says of queries that nobody has judged, each kind of evidence by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inranker_flow.judging import agreement
from inranker_flow.report.chart import title
from inranker_flow.report.wording import number, share

#: Kind of evidence -> what the page calls it.
NAMES = {"known_item": "known items", "agreement": "agreement with the teacher", "judge": "the judge's grades"}


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table: for each dataset and kind of evidence a row of every measure."""
    found: list[dict[str, Any]] = []
    unjudged = summary.get("unjudged", {})
    judged = (summary.get("judge") or {}).get("datasets", {})
    # Where people have judged, too, the judge's means stand here as well: apart from theirs.
    beside = {
        name: {"queries": each["queries"], "judge": each["systems"]}
        for name, each in judged.items()
        if name not in unjudged
    }
    for dataset, each in {**unjudged, **beside}.items():
        name = f"{dataset} ({each['queries']:,} queries)"
        for kind, label in NAMES.items():
            systems = each.get(kind, {})
            for place, measure in enumerate(next(iter(systems.values()))["means"] if systems else ()):
                best = max(own["means"][measure] for own in systems.values())
                cells = [
                    _cell(systems[one], measure, place, best) if one in systems else None for one in summary["systems"]
                ]
                found.append(
                    {"name": name, "measure": f"{measure}, {label}", "cells": cells, "rule": bool(name and found)}
                )
                name = ""
    return found


def _cell(system: Mapping[str, Any], measure: str, place: int, best: float) -> dict[str, Any]:
    value = system["means"][measure]
    return {"value": value, "top": value == best, "interval": None if place else system["interval"]}


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return how much of the teacher's gain each student keeps, what was left out, and how far a judge can be trusted."""
    found = []
    for dataset, each in summary.get("unjudged", {}).items():
        shares = [f"{title(one)} {share(kept, 0)}" for one, kept in each["kept"].items() if one in summary["students"]]
        if shares:
            found.append(
                f"Of the teacher's gain over the first stage on {dataset}, by known items: {', '.join(shares)}."
            )
        if each["leaked"]:
            found.append(
                f"{each['leaked']:,} held-out queries of {dataset} are like training queries of another dataset: left out."
            )
    judge = summary.get("judge") or {}
    for dataset, each in judge.get("datasets", {}).items():
        if each["agreement"]:
            found.append(f"On {dataset} {agreement.sentence(each['agreement'])}.")
    return [*found, *filter(None, [judge.get("kin")])]


def headline(summary: Mapping[str, Any]) -> str:
    """Return the finding where no dataset has judgements; "" where nothing was held out either."""
    told = []
    for kind, name in NAMES.items():
        measured = [each[kind] for each in summary.get("unjudged", {}).values() if kind in each]
        best = next((one for one in reversed(summary["students"]) if measured and one in measured[0]), "")
        if best:
            first = summary["systems"][0]
            means = {one: [next(iter(each[one]["means"].values())) for each in measured] for one in (best, first)}
            values = {one: sum(each) / len(each) for one, each in means.items()}
            measure = next(iter(measured[0][best]["means"]))
            told.append(f"{measure} {number(values[best])} by {name} ({number(values[first])} for {title(first)})")
    if not told:
        return ""
    return f"Nobody has judged a test query here. On held-out queries {title(best)} reaches {' and '.join(told)}."
