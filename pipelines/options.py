"""The command line options that pipelines share: which profile, and what to change in it."""

from __future__ import annotations

import argparse
import re
import shlex
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
    parser.add_argument(
        "--settings", default="", dest="line", help="several of --set in one line, split as a shell would"
    )
    for option, key in OPTIONS.items():
        parser.add_argument(f"--{option}", help=f"sets {key}")


def split(line: str) -> list[str]:
    """The settings of make's ``SET``, split as a shell splits words. A list or mapping (``=[...]``, ``={...}``) is one word
    as it stands: its blanks and quotes are YAML's."""
    words, rest = [], line.strip()
    while rest:
        listed = re.match(r"[\w.-]+=(?=[\[{])", rest)
        length = _balanced(rest, listed.end(), line) if listed else _word(rest, line)
        words += [rest[:length]] if listed else shlex.split(rest[:length])
        rest = rest[length:].lstrip()
    return words


def _word(text: str, line: str) -> int:
    """Length of the word that ``text`` begins with."""
    found = re.match(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", text, re.DOTALL)
    length = found.end() if found else 0
    if length < len(text) and not text[length].isspace():
        raise UserError(
            f"SET: {line!r}: {text[length]} is not closed; close it, or put the other kind of quotes around it"
        )
    return length


def _balanced(text: str, start: int, line: str) -> int:
    """Where the list or mapping at ``start`` ends."""
    depth = 0
    for found in re.finditer(r"""[\[{]|[\]}]|"(?:[^"\\]|\\.)*"|'[^']*'""", text[start:]):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.end()
    raise UserError(f"SET: {line!r}: {text[start]} is not closed")


def resolve(options: argparse.Namespace) -> profile.Profile:
    """The validated profile that the options describe; :class:`UserError` naming what is wrong.

    What works and is perhaps not meant is said on the standard error.
    """
    overrides = profile.parse_overrides([*split(options.line), *options.settings])
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
