"""What `generate_queries` did, for people: a Markdown page that the Kubeflow UI shows beside the stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inranker_flow.markdown import escape

#: Letters of the longest bar, which fits beside its numbers in the 500 pixels of KFP's panel.
_BAR = 20


def markdown(dataset: str, details: Mapping[str, Any]) -> str:
    """Return the manifest's ``details`` of a queries artifact as a page; counts of nothing are left out."""
    counts: Mapping[str, int] = details.get("counts", {})
    lines = [f"# Synthetic queries for {escape(dataset)}", ""]
    if generator := details.get("generator"):
        sampling = ", ".join(f"{key} {value}" for key, value in details.get("sampling", {}).items())
        versions = ", ".join(f"{key} {value}" for key, value in details.get("versions", {}).items())
        said = [" ".join(filter(None, (escape(generator), details.get("revision", ""))))]
        said += [f"prompt {escape(details['prompt'])}"] if details.get("prompt") else []
        lines += [f"{', '.join(said)}." + (f" {sampling}." if sampling else "")]
        backend = f"Backend {details.get('backend', 'not recorded')}" + (f" ({escape(versions)})" if versions else "")
        speed = details.get("tokens_per_second")  # none where everything was found done
        lines += [f"{backend}, {speed:,.0f} tokens per second." if speed else f"{backend}.", ""]
    lines += [
        "| | |",
        "|---|---:|",
        *(f"| {name.replace('_', ' ')} | {count:,} |" for name, count in counts.items() if count),
        "",
    ]
    if lengths := details.get("lengths"):
        most = max(lengths.values())
        lines += ["| words | queries | |", "|---|---:|---|"]
        lines += [f"| {words} | {count:,} | {'█' * round(_BAR * count / most)} |" for words, count in lengths.items()]
        lines += [""]
    if samples := details.get("samples"):
        lines += ["| query | document |", "|---|---|"]
        lines += [f"| {escape(each['query'])} | {escape(each['document'])} |" for each in samples]
    return "\n".join(lines) + "\n"
