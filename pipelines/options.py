"""The command line options that pipelines share: which profile, and what to change in it."""

from __future__ import annotations

import argparse
from typing import Any

from inranker_flow.errors import UserError
from pipelines import profile

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
    """The validated profile that the options describe; :class:`UserError` naming what is wrong."""
    overrides = profile.parse_overrides(options.settings)
    for option, key in OPTIONS.items():
        value = getattr(options, option)
        if value:
            overrides[key] = _typed(option, value)
    return profile.load(options.profile, overrides)


def _typed(option: str, value: str) -> Any:
    if option == "seed":
        if not value.lstrip("-").isdigit():
            raise UserError(f"SEED: expected a whole number, got {value!r}")
        return int(value)
    return [each.strip() for each in value.split(",") if each.strip()] if option == "targets" else value
