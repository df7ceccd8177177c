"""`inranker settings`: every setting of a profile, with its type, default, range and meaning.

    inranker settings                  # all of them
    inranker settings phase1           # those of a section, or one: phase1.loss
    inranker settings --markdown       # docs/settings.md

The table is read from the classes of `config/` themselves: the fields, their types and the comments above them.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from inranker_flow.commands.command import Parser, listing
from inranker_flow.config.parsing import as_plain
from inranker_flow.config.rules import NO_RESULT, Above, Below, Range, Text
from inranker_flow.errors import UserError
from inranker_flow.settings.profile import Profile

#: What a profile holds beside its sections.
_TOP = {
    "seed": ("whole number", "0", "0 to 2147483647", "Seed of every section that has none of its own."),
    "tokenizer": ("text", "", "", "Put wherever a value of the profile says {tokenizer}: for random checkpoints."),
}


#: Said of a setting that changes no result.
FREE = " *Changes no result.*"


@dataclass(frozen=True)
class Setting:
    """One row: ``key`` as SET takes it; ``default`` as YAML writes it, "" if there is none."""

    key: str
    type: str
    default: str
    range: str
    meaning: str
    #: False: it changes no result, so what was computed with another value is used.
    decides: bool = True


@listing
def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = Parser("inranker settings")
    parser.add_argument("section", nargs="?", default="", help="a section, or one key")
    parser.add_argument("--markdown", action="store_true", help="as docs/settings.md")
    options = parser.parse_args(arguments)
    found = [each for each in settings() if f"{each.key}.".startswith(f"{options.section}." if options.section else "")]
    if not found:
        sections = dict.fromkeys(each.key.partition(".")[0] for each in settings())
        raise UserError(
            f"{options.section[:80]!r}: no such section or setting; there is: {', '.join(sections)}",
            code="setting-unknown",
        )
    print(_markdown(found) if options.markdown else "\n\n".join(map(_text, found)))
    return 0


def settings() -> list[Setting]:
    """Return every setting, in the order of the profile's sections."""
    hints = get_type_hints(Profile)
    top = [Setting(key, *row) for key, row in _TOP.items()]
    return [*top, *(row for section, hint in hints.items() for row in _rows(section, hint))]


def _rows(prefix: str, hint: Any) -> Iterator[Setting]:
    """Yield the settings of one section; those of a list's elements and of a mapping's values by ``[]`` and ``NAME``."""
    if get_origin(hint) is tuple:
        yield from _rows(f"{prefix}[]", get_args(hint)[0])
        return
    hints = get_type_hints(hint, include_extras=True)
    meanings = _meanings(hint)
    for field in dataclasses.fields(hint):
        key, kind = f"{prefix}.{field.name}", hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _rows(key, kind)
            continue
        decides = NO_RESULT not in get_args(kind)
        yield Setting(key, _type(kind), _default(field), _range(kind), meanings.get(field.name, ""), decides)
        # Elements that are what the section extends have its settings.
        if (
            get_origin(kind) is tuple
            and dataclasses.is_dataclass(element := get_args(kind)[0])
            and element not in hint.__mro__
        ):
            yield from _rows(f"{key}[]", get_args(kind)[0])
        if get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[1]):
            yield from _rows(f"{key}.NAME", get_args(kind)[1])


def _meanings(section: type) -> dict[str, str]:
    """Return field -> the comment above it (``#:``), those of the classes that it extends too."""
    found = {
        name: text
        for base in section.__bases__
        if dataclasses.is_dataclass(base)
        for name, text in _meanings(base).items()
    }
    comment: list[str] = []
    for line in textwrap.dedent(inspect.getsource(section)).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            comment.append(text.removeprefix("#:").strip())
        elif (named := re.match(r"    (\w+): ", line)) and comment:
            found[named[1]] = " ".join(comment)
        if not text.startswith("#:"):
            comment = []
    return found


_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}


def _type(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        return _type(get_args(hint)[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in get_args(hint))
    if origin is tuple:
        return f"list of {_plural(get_args(hint)[0])}"
    if origin is dict:
        return f"mapping of {_plural(get_args(hint)[1])}"
    if dataclasses.is_dataclass(hint):
        return "section"
    return _NAMES[typing.cast("Any", hint)]


def _plural(hint: Any) -> str:
    text = _type(hint)
    return text if text == "anything" else f"{text}s"


def _range(hint: Any) -> str:
    if get_origin(hint) in (tuple, dict):
        return _range(get_args(hint)[-1] if get_origin(hint) is dict else get_args(hint)[0])
    if get_origin(hint) is not Annotated:
        return ""
    rule = next((mark for mark in get_args(hint)[1:] if isinstance(mark, Range | Text)), None)
    if rule is None:
        return ""
    if isinstance(rule, Text):
        return re.sub(r"^(is no|is|may hold) ", "", rule.says)
    least = f"above {rule.least:,.10g}" if isinstance(rule, Above) else f"{rule.least:,.10g}"
    most = "" if rule.most in (math.inf, 2**31 - 1) else f"{rule.most:,.10g}"
    below = f"below {most}" if isinstance(rule, Below) else f"to {most}"
    text = f"{least} {below}" if most else (least if isinstance(rule, Above) else f"{least} or more")
    return ", or ".join([text, *(f"{each:g}" for each in rule.also)])


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return ""
    else:
        value = field.default
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:g}"
    return json.dumps(as_plain(value), ensure_ascii=False)


def _text(setting: Setting) -> str:
    facts = [
        setting.type.replace("`", ""),
        setting.range,
        f"default {setting.default}" if setting.default else "no default",
    ]
    told = setting.meaning if setting.decides else f"{setting.meaning}{FREE.replace('*', '')}"
    meaning = textwrap.fill(told, 100, initial_indent="    ", subsequent_indent="    ")
    return f"{setting.key}  ({'; '.join(filter(None, facts))})" + (f"\n{meaning}" if told else "")


def _same(hints: dict[str, Any], earlier: str, here: str) -> bool:
    """Return whether section ``earlier`` comes before ``here`` and has the same fields (or is a list of such)."""
    names = list(hints)
    kind = get_args(hints[here])[0] if get_origin(hints[here]) is tuple else hints[here]
    return names.index(earlier) < names.index(here) and hints[earlier] is kind


def _markdown(found: list[Setting]) -> str:
    """Return the page: a table for each section."""
    lines = [
        "# Settings",
        "",
        'Every value of a profile, as `inranker settings` prints it. `SET="phase1.loss=kl"` for make, `--set phase1.loss=kl`',
        'for `inranker`, `phase1={"loss": "kl"}` for `distil`. This page is written from the code:',
        "`inranker settings --markdown > docs/settings.md`.",
    ]
    section = ""
    hints = get_type_hints(Profile)
    for each in found:
        here = each.key.partition(".")[0].removesuffix("[]") if "." in each.key else "for all sections"
        # A section with the fields of an earlier one is told in a line.
        if like := next((name for name in hints if hints.get(here) and name != here and _same(hints, name, here)), ""):
            if here != section:
                section = here
                lines += ["", f"## {section}", "", f"The settings of `{like}`, for `{each.key.rpartition('.')[0]}`."]
            continue
        if here != section:
            section = here
            lines += [
                "",
                f"## {section}",
                "",
                "| setting | type | default | range | meaning |",
                "|---|---|---|---|---|",
            ]
        default = f"`{each.default}`" if each.default else ""
        cells = [f"`{each.key}`", each.type, default, each.range, f"{each.meaning}{'' if each.decides else FREE}"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in cells) + " |")
    return "\n".join(lines)
