"""The command line options that pipelines share: which profile, and what to change in it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.text_files import quoted
from pipelines import checks, profile

#: Option -> key of the profile that it sets.
OPTIONS = {
    "seed": "seed",
    "tokenizer": "tokenizer",
    "source": "source",
    "targets": "targets",
    "teacher": "teacher.checkpoint",
    "student": "phase1.checkpoint",
    "generator": "generation.checkpoint",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which pipeline with which values."""
    parser.add_argument("pipeline", nargs="?", default="inranker")
    parser.add_argument("--profile", default="demo", help="a name in pipelines/profiles, or a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings")
    for option, key in OPTIONS.items():
        parser.add_argument(f"--{option}", help=f"sets {key}")


def resolve(options: argparse.Namespace) -> profile.Profile:
    """The validated profile that the options describe; :class:`UserError` naming what is wrong.

    What works and is perhaps not meant is said on the standard error.
    """
    overrides = profile.parse_overrides(options.settings)
    for option, key in OPTIONS.items():
        value = getattr(options, option)
        if value:
            typed = _typed(option, value)
            if overrides.get(key, typed) != typed:
                raise UserError(
                    f"{option.upper()} and SET={key} differ: {quoted(typed)} and {quoted(overrides[key])}; give one of them"
                )
            overrides[key] = typed
    resolved = profile.load(options.profile, overrides)
    for note in checks.notes(resolved):
        print(f"NOTE: {note}", file=sys.stderr)
    return resolved


def _typed(option: str, value: str) -> Any:
    if option == "seed":
        if not re.fullmatch("[0-9]{1,10}", value):
            raise UserError(f"SEED: expected a whole number from 0 to {2**31 - 1}, got {quoted(value)}")
        return int(value)
    if option != "targets":
        return value
    listed = [each.strip() for each in value.split(",") if each.strip()]
    if not listed:
        raise UserError(f"TARGETS: {quoted(value)} names no collection; give them as A,B")
    return listed
