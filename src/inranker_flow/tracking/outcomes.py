"""What the run of a pipeline shows in MLflow once its student was decided about: verdict, measures, collections.

The stage `promote` writes it, which no cache answers: so a repeated run shows the numbers that it found done, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from inranker_flow.artifacts.manifest import Manifest
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained, recording
from inranker_flow.tracking.values import batches, metrics

NOTE = "mlflow.note.content"
#: End of a link into MLflow's UI, which else shows what it has of prompts and traces.
OPENS = "workflowType=machine_learning"
#: Tag of a pipeline's run: what was decided, in a line.
SAID = "inranker.outcome"
#: Under this context a run has its collections.
COLLECTION = "collection"
#: More collections than this, and only the means of their measures are kept, and none of them is listed.
MOST = 50
#: Characters of a description, a schema and a profile that MLflow takes at least.
_ROOM = 4500


def in_a_line(record: Mapping[str, Any], measure: str, against: str) -> str:
    """Return what was decided (the stage `promote`'s ``record``) as ``PROMOTE inranker v7: +0.021 nDCG@10 over the champion
    (p=0.003) on 5 data sets, worst -0.002``; another reason than a gain as it is worded. ``against``: what was to be beaten.
    """
    begin = f"{record['verdict']} {record['model']} v{record['version']}"
    first, *others = record["reasons"]
    numbers = first.get("numbers", {})
    gains = [each["numbers"]["gain"] for each in others if each["code"] == "dataset_gain"]
    if first["code"] != "gain" or not gains or not {"gain", "datasets", "p"} <= set(numbers):
        return f"{begin}: {first['message']}"
    p = f"p={numbers['p']:.3f}" if numbers["p"] >= 0.001 else "p<0.001"
    sets = f"{numbers['datasets']:.0f} data set" + ("s" if numbers["datasets"] != 1 else "")
    gain = f"{numbers['gain']:+.3f} {measure} over {against} ({p}) on {sets}"
    return f"{begin}: {gain}, worst {min(gains):+.3f}"


def said(parent: str) -> tuple[str, float]:
    """Return what was decided about the student of the run ``parent``, "" where nothing was, and the seconds since it began."""
    with explained(f"read run {parent}"):
        run = connection.client().get_run(parent)
    return run.data.tags.get(SAID, ""), max(time.time() - run.info.start_time / 1000, 0.0)


def tell(parent: str, line: str, note: str, summary: Mapping[str, Any]) -> None:
    """Give the run ``parent`` what was decided in a ``line``, its description, the evaluation's measures and the collections.

    ``{experiment}`` in ``note`` is the id of the run's experiment.
    """
    if not parent:
        return
    mlflow_client = connection.client()
    with explained(f"read run {parent}"):
        own = mlflow_client.get_run(parent)
    begun = own.data.tags.get(NOTE, "").split("\n")[0]
    link = f"{begun}\n\n" if begun.startswith("[The run in Kubeflow") else ""
    with recording(parent, "keep the verdict"):
        told = note.replace("{experiment}", str(own.info.experiment_id))
        mlflow_client.set_tag(parent, SAID, line[:_ROOM])
        mlflow_client.set_tag(parent, NOTE, f"{link}{told}"[:_ROOM])
        for part in batches(metrics(_measures(summary))):
            mlflow_client.log_batch(parent, metrics=part)
        found = _collections(mlflow_client, own.info.experiment_id, summary["datasets"])
        if found:
            mlflow_client.log_inputs(parent, datasets=found)


def note(verdict: str, model: str, version: str, reason: str, summary: Mapping[str, Any], links: Sequence[str]) -> str:
    """Return the description: verdict, table of the headline measure, links; Markdown."""
    systems, headline = summary["systems"], summary["headline"]
    rows = [[headline, *systems], ["---", *("--:" for _ in systems)]]
    means = {name: each["systems"] for name, each in summary["datasets"].items()}
    for name, found in list(means.items())[:MOST]:
        rows.append([name, *(f"{found[s]['means'][headline]:.4f}" if s in found else "" for s in systems)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    version_page = f"[{model} version {version}](#/models/{model}/versions/{version})"
    return f"**{verdict}** {version_page}: {reason}\n\n{table}\n\n" + " · ".join(links)


def dataset_of(manifest: Manifest) -> Any:
    """Return a collection as MLflow's data set: where it is from, the columns of its tables, its counts."""
    from mlflow.entities import Dataset

    details = manifest.details
    schema = {name.partition(".")[0]: each.get("columns", {}) for name, each in manifest.tables.items()}
    return Dataset(
        name=manifest.dataset[:500],
        digest=manifest.content[:36],
        source_type="local",
        source=json.dumps({"uri": details.get("uri", "")}),
        schema=json.dumps(schema)[:_ROOM],
        profile=json.dumps(details.get("counts", {}))[:_ROOM],
    )


def _measures(summary: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    if len(summary["datasets"]) <= MOST:
        for name, each in summary["datasets"].items():
            for system, told in each["systems"].items():
                found |= {f"{measure}/{name}/{system}": value for measure, value in told["means"].items()}
    for system, means in summary.get("average", {}).items():
        found |= {f"{measure}/mean/{system}": value for measure, value in means.items()}
    return found


def _collections(mlflow_client: Any, experiment: str, datasets: Mapping[str, Any]) -> list[Any]:
    """Return the collections as the run that prepared each describes it, whichever that was."""
    from mlflow.entities import DatasetInput, InputTag

    found: list[Any] = []
    for name, each in list(datasets.items())[:MOST]:
        digest = each.get("digests", {}).get("collection", "")
        prepared = mlflow_client.search_runs([experiment], f"tags.`digest.collection` = '{digest}'", max_results=1)
        inputs = prepared[0].inputs.dataset_inputs if digest and prepared else []
        found += [
            DatasetInput(given.dataset, tags=[InputTag("mlflow.data.context", COLLECTION)])
            for given in inputs
            if given.dataset.name == name
        ]
    return found
