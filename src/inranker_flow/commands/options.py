"""The command line options that pipelines share: which profile, and what to change in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from inranker_flow import profiles
from inranker_flow.config.parsing import parse
from inranker_flow.errors import UserError
from inranker_flow.settings import checks
from inranker_flow.settings.profile import OPTIONS, Profile, apply, collection, overrides, parse_overrides, split


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which pipeline with which values."""
    parser.add_argument("pipeline", nargs="?", default="inranker")
    parser.add_argument(
        "--profile",
        default="",
        help="demo (default), smoke (default for collections of yours), small, encoder, paper, or a YAML file",
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="settings")
    parser.add_argument(
        "--settings", default="", dest="line", help="several of --set in one line, split as a shell would"
    )
    for option, key in OPTIONS.items():
        parser.add_argument(f"--{option}", help=f"sets {key}")


def profile_of(options: argparse.Namespace) -> str:
    """Return the profile that the options name; without one it is smoke for a collection of one's own, otherwise demo."""
    own = options.source or options.targets or any(each.startswith("targets=") for each in options.settings)
    return str(options.profile) or ("smoke" if own else "demo")


def resolve(options: argparse.Namespace) -> Profile:
    """Return the validated profile that the options describe; :class:`UserError` naming what is wrong.

    What works and is perhaps not meant is said on the standard error.
    """
    given = {option: getattr(options, option) or "" for option in OPTIONS}
    resolved = profiles.load(profile_of(options), overrides([*split(options.line), *options.settings], given))
    for note in checks.notes(resolved):
        print(f"NOTE: {note}", file=sys.stderr)
    return resolved


def sections(data: dict[str, Any], kinds: Mapping[str, type], settings: Sequence[str]) -> dict[str, Any]:
    """Return the collection ``source`` and the sections of ``kinds``, parsed from ``data`` with ``settings`` in it.

    Raises :class:`UserError` naming the setting that is wrong.
    """
    changes = parse_overrides(settings)
    for key in changes:
        if key.partition(".")[0] not in data:
            raise UserError(
                f"SET: {key}: only settings of {', '.join(data)} count here; leave it out", code="setting-unknown"
            )
    apply(data, changes)
    parsed: dict[str, Any] = {name: parse(kind, data[name], name) for name, kind in kinds.items()}
    return {"source": collection(data["source"], "source"), **parsed}
