"""Profiles, settings and make's variables."""

from __future__ import annotations

from tests.inputs.table import Input, command


def compiled(*options: str) -> int:
    return command("compile", "inranker", "--out", "build", *options)


INPUTS = [
    Input(
        "a profile that is not there",
        lambda here: compiled("--profile", "nowhere"),
        ("PROFILE=nowhere: no such profile", "demo"),
    ),
]
