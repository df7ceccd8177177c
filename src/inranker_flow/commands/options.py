"""The command line options that pipelines share: which profile, and what to change in it."""

from __future__ import annotations

import argparse
import sys

from inranker_flow import profiles
from inranker_flow.settings import checks
from inranker_flow.settings.profile import OPTIONS, Profile, overrides, split


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
