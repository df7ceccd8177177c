"""What stands above the evidence: which run this is, from what to what it distilled, and where its records are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

#: More datasets than this are counted, not named.
_NAMED = 12
#: Characters of a CSV that the page carries; a longer one lies beside it.
_CARRIED = 250_000


def name(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """Return what the page is called: the run, else what was measured."""
    return str(origin.get("name") or f"Evaluation on {', '.join(list(summary['datasets'])[:3]) or 'no dataset'}")


def title(summary: Mapping[str, Any], decision: Mapping[str, Any] | None, origin: Mapping[str, Any]) -> str:
    """Return the title of the browser's tab: the verdict first, because tabs are narrow."""
    verdict = f"{decision['verdict']} {decision['model']} {decision['version']} · " if decision else ""
    return f"{verdict}{name(summary, origin)} · InRanker Flow"


def line(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """Return when the run began and with which profile and seed, as far as it is known."""
    settings = origin.get("settings", {})
    seeds = dict.fromkeys(each["seed"] for each in summary["training"].values() if each.get("seed") is not None)
    label = str(settings.get("label", ""))
    told = [
        origin.get("date", ""),
        f"profile {label.partition('-')[2]}" if "-" in label else "",
        f"seed {' and '.join(map(str, seeds))}" if seeds else "",
    ]
    return " · ".join(filter(None, told))


def facts(
    summary: Mapping[str, Any], decision: Mapping[str, Any] | None, origin: Mapping[str, Any]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (what, [(text, address or "")]) of the list below the verdict."""
    models, students = summary["models"], summary["students"]
    found: list[tuple[str, list[tuple[str, str]]]] = []
    if teacher := models.get("teacher"):
        found.append(("Teacher", [(_model(teacher, teacher["reference"]), "")]))
    if students and (student := models.get(students[-1])):
        begun = summary.get("base") or student["reference"]
        found.append(("Student", [(_model(student, begun if summary.get("base") else _short(begun)), "")]))
    sets = [(_dataset(name, each["queries"], summary), "") for name, each in summary["datasets"].items()]
    if len(sets) > _NAMED:
        sets = [*sets[:_NAMED], (f"and {len(sets) - _NAMED} more", "")]
    found.append(("Datasets", sets or [("none with judged test queries", "")]))
    links = [(f"MLflow run {origin['run'][:8]}", origin.get("mlflow", ""))] if origin.get("run") else []
    if decision:
        links.append((f"{decision['model']} version {decision['version']}", origin.get("version", "")))
    if origin.get("kfp"):
        links.append(("Kubeflow run", origin["kfp"]))
    if links:
        found.append(("Records", links))
    return [
        (what, [(text, at if at.startswith(("http://", "https://")) else "") for text, at in told])
        for what, told in found
    ]


def carried(queries: str) -> str:
    """Return the address by which the page carries the CSV of all queries; "" where it would be too long."""
    return f"data:text/csv;charset=utf-8,{quote(queries, safe=' ,:/?=')}" if 0 < len(queries) <= _CARRIED else ""


def _model(model: Mapping[str, Any], reference: str) -> str:
    return f"{reference} ({model['parameters']:,} parameters)" if model["parameters"] else reference


def _short(reference: str) -> str:
    return "/".join(reference.split("/")[-3:])


def _dataset(name: str, queries: int, summary: Mapping[str, Any]) -> str:
    first: Mapping[str, Any] = next(iter(summary["training"].values()), {})
    source = "source, " if len(summary["training"]) > 1 and name in first.get("sets", {}) else ""
    return f"{name} ({source}{queries:,} test queries)"
