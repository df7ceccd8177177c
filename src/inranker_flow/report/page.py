"""The report: one HTML file that needs no network and no script, from summary.json and, once there is one, the decision.

`evaluate` renders the evidence, `promote` the same page with the run and the verdict on top and, for a run that was planned,
what became of the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from inranker_flow.exporting import record
from inranker_flow.report import curves, header, rows, unjudged, wording
from inranker_flow.report.chart import chart_svg, colours, title
from inranker_flow.report.plots import cost_svg, margins_svg
from inranker_flow.report.rows import SIGNIFICANT
from inranker_flow.report.wording import number


@cache
def _template() -> Any:
    """Compile the page's template, which takes longer than all that is filled into it: once in a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("inranker_flow", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"system": title, "number": number, "signed": wording.signed, "p": wording.probability}
    environment.filters |= {"effect": wording.effect, "interval": wording.interval, "bounds": wording.bounds}
    environment.filters |= {"milliseconds": wording.milliseconds, "megabytes": wording.megabytes}
    environment.filters |= {"sentence": wording.sentence, "amount": wording.amount, "share": wording.share}
    return environment.get_template("page.html.jinja")


def render(
    summary: Mapping[str, Any],
    decision: Mapping[str, Any] | None = None,
    reality: Mapping[str, Any] | None = None,
    exported: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    queries: str = "",
) -> str:
    """Return the page as HTML, for ``summary`` as the stage `evaluate` writes it and ``decision`` as `promote` does (None:
    there is none yet).

    ``reality`` (None: nothing was planned): "rows" as `planning.reality.compare` gives them, the "device" that was planned
    for, and the planned collections that the run went "without". ``exported``: the record of the stage `export`. ``origin``:
    of the run, as far as it is known, its "name", "date", "run" (MLflow's id), all its "settings", and addresses of its pages
    ("mlflow", "version", "kfp"). ``queries``: the CSV of all queries, which the page carries.
    """
    from markupsafe import Markup

    def both(draw: Callable[[int], str]) -> dict[str, Any]:
        # Figures escape their own text, so they go in as they are: wide for a screen, narrow for a phone.
        return {"wide": Markup(draw(860)), "narrow": Markup(draw(360))}

    origin = origin or {}
    systems, swept = summary["systems"], rows.sweeps(summary)
    charts = {
        "measures": both(partial(chart_svg, summary)),
        "cost": both(partial(cost_svg, summary)),
        "depths": both(partial(curves.depth_svg, swept[0], summary)) if swept else {},
        "cases": [both(partial(margins_svg, case, systems)) for case in summary["cases"]],
        "training": [Markup(curves.curve_svg(name, each, systems)) for name, each in summary["training"].items()],
    }
    first_stage = summary.get("first_stage", {}).get("name", "BM25")
    return _template().render(
        **{"left_out": {}, **summary, "first_stage": first_stage},  # a summary of older code knows of neither
        side_by_side=rows.side_by_side(summary, first_stage),
        decision=decision,
        reality=reality,
        exported={"left_out": {}, **(exported or {})},
        variants=record.rows(exported or {}),
        outcome=outcome(decision) if decision else "",
        charts=charts,
        colours=colours(summary["systems"]),
        head=header.title(summary, decision, origin),
        name=header.name(summary, origin),
        line=header.line(summary, origin),
        facts=header.facts(summary, decision, origin),
        csv=header.carried(queries),
        contents=[],
        sentence=headline_sentence(summary),
        tiles=_tiles(summary),
        rows=rows.measured(summary),
        sweeps=swept,
        without_judgements=unjudged.rows(summary),
        kept=unjudged.sentences(summary),
        slow=_slow(summary),
        paces=_paces(summary),
        read=[*_read(summary), *_rounded(summary)],
        generated=rows.generated(summary),
        ties=rows.ties(summary),
        steps=rows.steps(summary),
        leak_sentence=leak_sentence(summary["leaks"]),
        settings=json.dumps(_settings(summary, decision, origin), indent=2, ensure_ascii=False),
        significant=SIGNIFICANT,
    )


def outcome(decision: Mapping[str, Any]) -> str:
    """Return the consequence of a decision in one sentence."""
    name, version, champion = decision["model"], decision["version"], decision["champion"]
    if decision["verdict"] == "PROMOTE":
        return f"{name} version {version} serves now" + (f", instead of {champion}." if champion else ", as the first.")
    kept = f"{champion} goes on serving" if champion else "nothing serves yet"
    codes = {each["code"] for each in decision.get("reasons", ())}
    if "champion_gone" in codes:
        kept = "nothing serves, because the champion is gone"
    elif "champion_changed" in codes:
        kept = "what became champion meanwhile goes on serving"
    return f"{name} version {version} is registered as challenger; {kept}."


def _settings(
    summary: Mapping[str, Any], decision: Mapping[str, Any] | None, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the whole configuration of the run where it is known, else that of what is on the page."""
    return origin.get("settings") or {**summary["config"], **({"promotion": decision["policy"]} if decision else {})}


def _read(summary: Mapping[str, Any]) -> list[str]:
    """Return the sentences about the reading of students and champion, one for each way."""
    ways: dict[str, list[str]] = {}
    for name, model in summary["models"].items():
        reads, served = model.get("reads"), model.get("served", {})
        if not reads or name == "teacher":
            continue
        words = served.get("passage_words")
        text = f"{reads['max_length']} tokens" + (f", passages of {words} words" if words else "")
        text += ", cut as the reference code does" if reads["truncation"] == "reference" else ""
        ways.setdefault(text, []).append(title(name))
    return [f"{' and '.join(names)} read {text}, as they serve." for text, names in ways.items()]


def _rounded(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each model that computed in less than float32 on a CPU: what that changed."""
    return [
        f"{title(name)} computed in {model['served']['dtype']}: on {error['pairs']} pairs its logits differ from float32 by "
        f"{error['largest_difference']:.2g} at most (Spearman of the margins {error['spearman']:.4f})."
        for name, model in summary["models"].items()
        if (error := model.get("error_against_float32"))
    ]


def _paces(summary: Mapping[str, Any]) -> str:
    """Return what the pairs per second of each model rest on."""
    found = []
    for name, model in summary["models"].items():
        if model["same_as"] or model.get("timed_as"):
            continue
        pairs, processes = model.get("timed_pairs", 0), model.get("processes", 1)
        text = f"{title(name)} {f'{pairs:,} pairs in ' if pairs else ''}{wording.seconds(model['seconds'])}"
        text += f" with {processes} processes" if processes > 1 else ""
        text += ", a sample, because most of its scores were there" if model.get("sampled") else ""
        found.append(text)
    return "; ".join(found)


def _slow(summary: Mapping[str, Any]) -> list[str]:
    """Return systems of which fewer queries were timed than asked for, because a minute was over."""
    asked = summary["latency"]["queries"]
    timed = {name: model for name, model in summary["models"].items() if not model.get("timed_as")}
    return [name for name, model in timed.items() if 0 < model["latency_queries"] < asked]


def headline_sentence(summary: Mapping[str, Any]) -> str:
    """Return the finding of the evaluation in one sentence, which holds for a gain and for a loss."""
    if not summary["datasets"]:
        return unjudged.headline(summary) or "Nothing was measured: no collection has judged test queries."
    headline, average = summary["headline"], summary["average"]
    best = next((name for name in reversed(summary["students"]) if name in average), summary["systems"][0])
    value = average[best][headline]
    datasets = rows.names(summary)
    where = f"on {datasets[0]}" if len(datasets) == 1 else f"on average over {len(datasets)} datasets"
    parts = [f"{title(best)} reaches {headline} {number(value)} {where}"]
    if best != summary["systems"][0]:
        gains = [f"{_versus(value - average[other][headline], title(other))}" for other in _before(summary, best)]
        parts.append(" and ".join(gains))
    if "teacher" in summary["systems"] and average["teacher"][headline] > 0:
        parts.append(f"{wording.share(value / average['teacher'][headline], 0)} of the teacher's")
    if "champion" in summary["systems"]:
        parts.append(_versus(value - average["champion"][headline], "the champion"))
    return f"{parts[0]}: {', '.join(parts[1:])}." if parts[1:] else f"{parts[0]}."


def leak_sentence(leaks: Mapping[str, Any]) -> str:
    """Return the finding of the leak check in one sentence."""
    looked = (
        f"{leaks['training_queries']:,} training queries of {', '.join(leaks['training_sets']) or 'no training set'}"
    )
    if not leaks["found"]:
        return f"None of the test queries is among the {looked}."
    return (
        f"{leaks['queries']:,} test queries are among the {looked}: promotion is blocked unless the policy allows them."
    )


def _before(summary: Mapping[str, Any], system: str) -> list[str]:
    """The first stage, and the student before ``system``."""
    students = summary["students"]
    return [summary["systems"][0], *students[: students.index(system)][-1:]]


def _versus(gain: float, other: str) -> str:
    if abs(gain) < 0.00005:
        return f"level with {other}"
    return f"{number(abs(gain))} {'above' if gain > 0 else 'below'} {other}"


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the few numbers that a reader wants first."""
    if not summary["datasets"] or not summary["students"]:
        return []
    headline, average, models = summary["headline"], summary["average"], summary["models"]
    best = summary["students"][-1]
    value = average[best][headline]
    scope = "mean over datasets" if len(rows.names(summary)) > 1 else rows.names(summary)[0]
    tiles = [{"name": f"{headline}, {title(best)}", "value": number(value), "note": scope}]
    ours = [row for row in summary["comparisons"] if row["measure"] == headline and row["system"] == best]
    for other in [*_before(summary, best)[::-1], "champion"]:
        if other not in average:
            continue
        found = [row for row in ours if row["against"] == other]
        note = _significance(found)
        gain = wording.signed(value - average[other][headline])
        tiles.append({"name": f"over {title(other)}", "value": gain, "note": note})
    teacher = models.get("teacher")
    ratio = _faster(models[best], teacher) if teacher else None
    if teacher and ratio:
        note = "this machine"
        if teacher["parameters"] and models[best]["parameters"]:
            share = teacher["parameters"] / models[best]["parameters"]
            note = f"with 1/{share:.{0 if share >= 10 else 1}f} of its parameters" if share >= 1.05 else note
        tiles.append({"name": "speed of the teacher", "value": f"{ratio:.1f}×", "note": note})
    return tiles


def _faster(model: Mapping[str, Any], teacher: Mapping[str, Any]) -> float | None:
    """Return how many times as fast as the teacher; None where they were not measured alike."""
    if model["latency_median_ms"] and teacher["latency_median_ms"]:
        return float(teacher["latency_median_ms"] / model["latency_median_ms"])
    alike = model.get("processes", 1) == teacher.get("processes", 1) and teacher["pairs_per_second"]
    return model["pairs_per_second"] / teacher["pairs_per_second"] if alike else None


def _significance(rows: Sequence[Mapping[str, Any]]) -> str:
    """On how many of the datasets a step is better and worse, beyond what may be luck."""
    told = [row["difference"] for row in rows if row["p_holm"] < SIGNIFICANT]
    better, worse = sum(each > 0 for each in told), sum(each < 0 for each in told)
    if len(rows) == 1:
        return f"significantly {'better' if better else 'worse'}" if better or worse else "not significant"
    counts = [f"{count} {word}" for count, word in ((better, "better"), (worse, "worse")) if count]
    if len(rows) > better + worse:
        counts.append(f"{len(rows) - better - worse} neither")
    return f"significantly: {', '.join(counts)}"
