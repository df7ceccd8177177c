"""What `generate_queries` did, for people: a Markdown page that the Kubeflow UI shows beside the stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BAR = 40


def markdown(dataset: str, details: Mapping[str, Any]) -> str:
    """The manifest's ``details`` of a queries artifact as a page."""
    counts: Mapping[str, int] = details["counts"]
    lines = [f"# Synthetic queries for {dataset}", ""]
    if "generator" in details:
        sampling = ", ".join(f"{key} {value}" for key, value in details["sampling"].items())
        versions = ", ".join(f"{key} {value}" for key, value in details["versions"].items())
        lines += [
            f"{_cell(details['generator'])} {details['revision']}".strip()
            + f", prompt {_cell(details['prompt'])}. {sampling}."
        ]
        lines += [
            f"Backend {details['backend']} ({_cell(versions)}), {details['tokens_per_second']:,.0f} tokens per second.",
            "",
        ]
    lines += [
        "| | |",
        "|---|---:|",
        *(f"| {name.replace('_', ' ')} | {count:,} |" for name, count in counts.items()),
        "",
    ]
    if lengths := details.get("lengths"):
        most = max(lengths.values())
        lines += ["| words | queries | |", "|---|---:|---|"]
        lines += [f"| {words} | {count:,} | {'█' * round(_BAR * count / most)} |" for words, count in lengths.items()]
        lines += [""]
    if samples := details.get("samples"):
        lines += ["| query | document |", "|---|---|"]
        lines += [f"| {_cell(each['query'])} | {_cell(each['document'])} |" for each in samples]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that neither ends a cell nor is taken for HTML or Markdown."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\|`*_[]":
        text = text.replace(mark, f"\\{mark}")
    return text
