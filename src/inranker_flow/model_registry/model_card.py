"""The model card: what a student is, what it was made of, how well it does and how to load it.

`promote` writes it from what training and evaluation recorded. It lies as README.md in the model folder (with the Hugging Face
hub's front matter) and is the description of the version. What it says of a kind of student stands in ``cards/KIND.md.jinja``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from textwrap import shorten
from typing import Any

from inranker_flow.markdown import code, escape
from inranker_flow.model_registry import reference_scores
from inranker_flow.rankers import templates
from inranker_flow.reading import Trained, of_record
from inranker_flow.words import language

#: MLflow's databases hold this many characters of a description.
_DESCRIPTION = 5000
#: Around a section of a kind.
_BLANK = "\n"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Told:
    """What a card is written from: the student that is registered as ``name`` and was evaluated as ``system``.

    ``training`` is its training.json, ``summary`` the evaluation's summary.json, ``variants`` a table (`exporting.record.rows`),
    ``sample`` a query with passages to try it with, ``languages`` those of its collections, as far as they are said.
    """

    name: str
    system: str
    training: Mapping[str, Any]
    summary: Mapping[str, Any]
    variants: Sequence[Mapping[str, Any]] = ()
    sample: tuple[str, Sequence[str]] = reference_scores.SAMPLE
    languages: Sequence[str] = ()


def write(told: Told) -> str:
    """Return README.md of the student."""
    return f"---\n{_front_matter(told)}\n---\n\n{_body(told, _from_its_folder(told))}"


def describe(told: Told, version: str) -> str:
    """Return the description of its ``version``: without front matter, and only as many sections as fit."""
    body = _body(told, _from_the_registry(told, version))
    rest = "\n\n(More in README.md of the model folder, artifact `checkpoint`.)\n"
    sections = re.split(r"(?m)^(?=## )", body)
    if len(body) <= _DESCRIPTION:
        return body
    kept = ""
    for section in sections:
        if len(kept) + len(section) + len(rest) > _DESCRIPTION:
            break
        kept += section
    return (kept.rstrip() or body[: _DESCRIPTION - len(rest)]) + rest


def _front_matter(told: Told) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base, kind, summary = _base(told.training), _kind(told.name, told.training), told.summary
    licence = _licence_of_all(told)
    results = [
        EvalResult(
            task_type="text-ranking",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=summary["headline"].lower(),
            metric_name=summary["headline"],
            metric_value=round(found["systems"][told.system]["means"][summary["headline"]], 4),
        )
        for dataset, found in summary["datasets"].items()
    ]
    data = ModelCardData(
        model_name=told.name,
        library_name=kind.library,
        pipeline_tag="text-ranking",
        # The hub refuses anything but an id of its own.
        base_model=base if _HUB_ID.fullmatch(base) else None,
        datasets=_trained_on(told.training),
        language=sorted({language(each).code for each in told.languages} - {""}) or None,
        license=licence or "other",
        license_name=None if licence else "of-its-ancestors",
        license_link=None if licence else "README.md#licences",
        tags=["reranker", *kind.tags, "inranker", "distillation"],
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _licence_of_all(told: Told) -> str:
    """Return the licence that base model, teacher and texts have in common; "" where they have several, or one is not known."""
    known = told.summary["licences"]
    named = {known["base"], known["teacher"], *(known["data"].get(name, "") for name in _trained_on(told.training))}
    return named.pop().lower() if len(named) == 1 else ""


def _body(told: Told, loading: str) -> str:
    training, summary, system = told.training, told.summary, told.system
    kind = _kind(told.name, training)
    sections = [
        f"# {escape(told.name)}\n\n{kind.title}: it reads a query and a passage and says how relevant the passage is. It was "
        "distilled from a larger reranker by InRanker Flow (the method: arXiv 2401.06910), without human labels for the "
        "target collections.",
        f"## How to load it\n\n{loading}",
        f"## How well it does\n\n{_measures(system, summary)}",
        *([f"## Its variants\n\n{_variants(told.variants)}"] if told.variants else []),
        f"## How it was made\n\n{_made(training, summary)}",
        f"## Prompt\n\n{kind.prompt().strip(_BLANK)}{_served(summary['models'].get(system, {}).get('served', {}))}",
        f"## Limits\n\n{_limits(training, summary)}",
        f"## Licences\n\n{_licences(training, summary)}",
    ]
    return "\n\n".join(sections) + "\n"


def _from_its_folder(told: Told) -> str:
    """Return the ways to load the folder that the card lies in, with a query and passages to try each with."""
    ways = _kind(told.name, told.training).loading().strip(_BLANK)
    return f'```python\nFOLDER = "."  # the folder with this file\n{_sample(told)}\n```\n\n{ways}'


def _from_the_registry(told: Told, version: str) -> str:
    """Return code that asks a ``version`` at once, and that fetches its folder."""
    address = f"models:/{told.name}/{version}"
    return (
        f"```python\nimport mlflow\nimport pandas\n\n{_sample(told)}\n"
        f'model = mlflow.pyfunc.load_model("{address}")\n'
        'print(model.predict(pandas.DataFrame([{"query": QUERY, "passages": PASSAGES}])))\n\n'
        "# The plain Hugging Face folder; its README.md has the code for other libraries and for servers.\n"
        f'FOLDER = mlflow.artifacts.download_artifacts("{address}/artifacts/checkpoint")\n```\n\n'
        "A higher score is better. `MLFLOW_TRACKING_URI` names this registry; "
        f"`models:/{told.name}@champion` is the version that serves."
    )


def _sample(told: Told) -> str:
    query, passages = told.sample
    given = "".join(f"    {_text(each)},\n" for each in passages)
    return f"QUERY = {_text(query)}\nPASSAGES = [\n{given}]"


def _text(text: str) -> str:
    """Return a text as code: of a long one the beginning."""
    return json.dumps(shorten(text, 200, placeholder=" ..."), ensure_ascii=False)


# --- measures ---------------------------------------------------------------------------------------------------------


def _measures(system: str, summary: Mapping[str, Any]) -> str:
    headline, datasets, systems = summary["headline"], summary["datasets"], summary["systems"]
    found_by = escape(summary.get("first_stage", {}).get("name", "BM25"))
    without = _without_judgements(system, summary)
    if not datasets:
        text = f"It was measured on no dataset with judged test queries: there were none.{without}"
        return text + (_cost(summary["models"][system], summary["latency"]) if without else "")
    shown = {each: f"**this model** ({escape(each)})" if each == system else escape(each) for each in systems}
    rows = [["dataset", "test queries", *shown.values(), "first stage's limit"]]
    for dataset, found in datasets.items():
        means = [f"{found['systems'][each]['means'][headline]:.4f}" for each in systems]
        limit = found.get("ceiling", {}).get("means", {}).get(headline)
        rows.append([escape(dataset), str(found["queries"]), *means, "-" if limit is None else f"{limit:.4f}"])
    text = (
        f"Mean {headline}. Every system reranks the same candidates ({found_by}) of the same queries; the limit is what a "
        f"perfect reranker of them would reach.\n\n{_table(rows)}"
    )
    for measure in summary["measures"][1:]:
        each = "; ".join(
            f"{escape(dataset)} {found['systems'][system]['means'][measure]:.4f}" for dataset, found in datasets.items()
        )
        text += f"\n\n{measure} of this model: {each}."
    compared = [row for row in summary["comparisons"] if row["system"] == system and row["measure"] == headline]
    if compared:
        text += (
            f"\n\nDifference in mean {headline} between this model and another (in brackets its 95 % interval, where there "
            "is one), queries won and lost, and the p-value of a paired test over the queries, corrected over the datasets "
            f"(Holm).\n\n{_table(_differences(compared))}"
        )
    text += without + _cost(summary["models"][system], summary["latency"])
    missing = summary.get("unmeasured", {})
    if missing:
        text += "".join(f"\n\nNot measured: {escape(each)}: {escape(reason)}." for each, reason in missing.items())
    return text


#: Kind of evidence -> what it is.
_EVIDENCE = {
    "known_item": "known items: the passage that a held-out synthetic query was written for is its only relevant one",
    "agreement": "agreement with the teacher: its scores are the gains",
    "judge": "grades of a language model",
}


def _without_judgements(system: str, summary: Mapping[str, Any]) -> str:
    """Return a table for each kind of evidence that no person's judgement is behind."""
    text = ""
    for kind, words in _EVIDENCE.items():
        measured = {
            name: each[kind] for name, each in summary.get("unjudged", {}).items() if system in each.get(kind, ())
        }
        if not measured:
            continue
        measure = next(iter(next(iter(measured.values()))[system]["means"]))
        systems = [each for each in summary["systems"] if each in next(iter(measured.values()))]
        rows = [["dataset", "queries", *(f"**{each}**" if each == system else escape(each) for each in systems)]]
        for name, found in measured.items():
            means = [f"{found[each]['means'][measure]:.4f}" for each in systems]
            rows.append([escape(name), str(summary["unjudged"][name]["queries"]), *means])
        text += f"\n\n{measure} **without judgements**, by {words}.\n\n{_table(rows)}"
    return text


def _cost(model: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """Return the lines about the costs of serving, as the evaluation measured them."""
    size = "" if model["size_mb"] is None else f", {model['size_mb']:,.1f} MB"
    found = f"\n\nIt has {model['parameters']:,} parameters{size}."
    if model["latency_median_ms"] is None:
        return found
    return (
        f"{found} Reranking {latency['passages']} passages for one query took {model['latency_median_ms']:,.1f} ms in the "
        f"median and {model['latency_p95_ms']:,.1f} ms at the 95th percentile ({model['latency_queries']} queries, "
        f"{model['device']})."
    )


def _variants(variants: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the variants beside the weights; the checkpoint is the first row."""
    rows = [
        ["variant", "file", "MB", "Spearman", "largest difference", "p50, p95 ms: one CPU", "p50, p95 ms: all CPUs"]
    ]
    for each in variants:
        agreed = (
            ["", ""] if each["spearman"] is None else [f"{each['spearman']:.4f}", f"{each['largest_difference']:.4f}"]
        )
        times = [
            "-" if found["p50_ms"] is None else f"{found['p50_ms']:,.1f}, {found['p95_ms']:,.1f}"
            for found in (each["latency"]["one"], each["latency"]["all"])
        ]
        size = "-" if each["size_mb"] is None else f"{each['size_mb']:,.1f}"
        rows.append([each["name"], ", ".join(map(code, each.get("files", ()))), size, *agreed, *times])
    return (
        "The same model for other runtimes, in this folder. Each scored the same pairs of test queries as the checkpoint did; "
        f"the times are for 100 passages.\n\n{_table(rows)}"
    )


def _differences(compared: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["dataset", "against", "difference", "won", "lost", "p (Holm)"]]
    for row in compared:
        p = row.get("p_holm")
        low, high = row.get("interval") or (None, None)
        between = "" if low is None else f" [{low:+.4f}, {high:+.4f}]"
        rows.append(
            [
                escape(row["dataset"]),
                escape(row["against"]),
                f"{row['difference']:+.4f}{between}",
                str(row["better"]),
                str(row["worse"]),
                "-" if p is None else f"{p:.2g}",
            ]
        )
    return rows


# --- origin -----------------------------------------------------------------------------------------------------------


def _base(training: Mapping[str, Any]) -> str:
    """Return the lines about the base model of the first phase."""
    phases = [*training.get("lineage", []), training]
    return str(phases[0]["start"])


def _teachers(summary: Mapping[str, Any]) -> str:
    teacher = summary["config"]["teacher"]
    return ", ".join(code(each["checkpoint"]) for each in (teacher, *teacher.get("also", ())))


def _named(teacher: Mapping[str, Any]) -> str:
    revision = f" at revision {code(teacher['revision'])}" if teacher.get("revision") else ""
    served = ", asked at its server" if teacher.get("backend") == "server" else ""
    return f"{code(teacher['checkpoint'])}{revision}{served}"


def _made(training: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    teacher, config = summary["config"]["teacher"], training["config"]
    phases = [*training.get("lineage", []), training]
    teachers = (teacher, *teacher.get("also", ()))
    label = "its two logits for each pair are the labels"
    if len(teachers) > 1:
        label = "the mean of their scores, standardised on the pairs of each training set, is the label"
    lines = [
        f"- Base model: {code(_base(training))} ({phases[0]['inputs']['start']})",
        f"- Teacher{'s' if len(teachers) > 1 else ''}: {' and '.join(map(_named, teachers))}; {label}",
        f"- Loss of the last phase: {config['loss']}; {training['steps']} steps of {config['batch_size']} pairs, "
        f"learning rate {config['learning_rate']:g}, seed {config['seed']}, best step {training['best_step']}",
        f"- Code: {summary.get('code', 'unknown')}; "
        + ", ".join(f"{package} {number}" for package, number in training["versions"].items()),
    ]
    rows = [["phase", "training set", "pairs", "digest"]]
    for number, phase in enumerate(phases, 1):
        for place, each in enumerate(phase["inputs"]["training_sets"], 1):
            pairs = phase.get("sets", {}).get(f"{place} {each['dataset']}", {}).get("pairs", "-")
            rows.append([str(number), escape(each["dataset"]), str(pairs), f"`{each['digest'][:16]}`"])
    tested = [["test set", "artifact", "digest"]]
    for dataset, found in summary["datasets"].items():
        for artifact, digest in found["digests"].items():
            tested.append([escape(dataset), artifact, f"`{str(digest)[:16]}`"])
    text = "\n".join(lines) + f"\n\n{_table(rows)}"
    return f"{text}\n\n{_table(tested)}" if len(tested) > 1 else text


# --- use --------------------------------------------------------------------------------------------------------------


def _served(served: Mapping[str, Any]) -> str:
    """With what it was measured, and is served by MLflow, beside its prompt."""
    words, dtype = served.get("passage_words"), served.get("dtype", "auto")
    text = ""
    if words:
        apart = served.get("passage_stride") or max(1, words // 2)
        text += (
            f"\n\n**Long passages.** It was measured, and the MLflow model serves, by parts of {words} words, {apart} apart: the "
            "score of a longer text is that of its best part. The other ways to load it read the beginning alone."
        )
    if dtype != "auto":
        text += f"\n\nIt was measured, and the MLflow model computes, in {dtype}."
    return text


def _kind(name: str, training: Mapping[str, Any]) -> Any:
    """Return what the card says of the student's kind: ``library`` and ``tags`` of the front matter, the ``title`` of its first
    sentence, and the sections ``prompt()`` and ``loading()``."""
    reads = of_record(training)
    return _cards().get_template(f"{reads.kind}.md.jinja").make_module({"name": name, "reads": reads})


@cache
def _cards() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("inranker_flow", "model_registry/cards")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["py"] = repr
    environment.globals |= {"prompt_text": _prompt_text, "pieces": _pieces, "overrides": _overrides}
    return environment


def _prompt_text(reads: Trained) -> str:
    """Return the prompt of a causal model with its instruction, up to the answer."""
    filled = reads.prompt.replace(templates.INSTRUCTION, reads.instruction).replace(templates.SEAM, "")
    return filled.partition(templates.ANSWER)[0]


def _pieces(reads: Trained) -> templates.Pieces:
    return templates.pieces(templates.load(reads.prompt, reads.instruction))


def _overrides(reads: Trained) -> str:
    """Return vLLM's settings that make a classifier of a causal model."""
    changed = {
        "architectures": ["ARCHITECTUREForSequenceClassification"],
        "classifier_from_token": [reads.false_token, reads.true_token],
        "method": "from_2_way_softmax",
    }
    return json.dumps(changed, ensure_ascii=False)


def _limits(training: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    last = [each["dataset"] for each in training["inputs"]["training_sets"]]
    return "\n".join(
        [
            f"- Its last phase adapted it to {escape(_listed(last))}. "
            "Nothing is known of collections that are not in the table above.",
            *(
                f"- It was to be adapted to {escape(name)} too, which was left out: {escape(reason)}."
                for name, reason in summary.get("left_out", {}).items()
            ),
            f"- It reads {of_record(training).max_length} tokens of query and passage; what lies beyond counts for nothing.",
            "- It orders the candidates of a first stage and finds nothing that is not among them.",
            "- The score orders the passages of one query. It is no probability, and no threshold was calibrated.",
            "- Its labels are a teacher's opinions: it repeats the teacher's mistakes, and those of the model that wrote the "
            "queries.",
        ]
    )


def _licences(training: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    known = summary["licences"]
    rows = [["from", "what", "licence"]]
    rows.append(["base model", code(_base(training)), _licence(known["base"])])
    rows.append(["teacher, by its labels", _teachers(summary), _licence(known["teacher"])])
    rows += [["texts", escape(name), _licence(known["data"].get(name, ""))] for name in _trained_on(training)]
    return (
        "What may be done with this model depends on the licences of what it was made from, as far as they say so "
        f"themselves:\n\n{_table(rows)}\n\nThe code of InRanker Flow is under the Apache License 2.0."
    )


def _licence(named: str) -> str:
    return escape(named) or "not recorded: look it up before you hand the model on"


def _trained_on(training: Mapping[str, Any]) -> list[str]:
    """Return datasets of all phases, each once."""
    phases = [*training.get("lineage", []), training]
    return list(dict.fromkeys(each["dataset"] for phase in phases for each in phase["inputs"]["training_sets"]))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
