"""Prompt templates: ``NAME.txt`` in this folder, a file of the user's own, or the text itself (README.md: the form)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow import text_files
from inranker_flow.errors import UserError
from inranker_flow.text_files import quoted, shown

FOLDER = Path(__file__).parent
SLOT = "{document}"
_EXAMPLES = "{examples}"
#: The settings at the beginning, between two lines of dashes; editors leave blanks behind them, and empty lines before.
_HEAD = re.compile(r"\A\s*^---[^\S\n]*\n", re.MULTILINE)
_HEAD_END = re.compile(r"^---[^\S\n]*(?:\n|\Z)", re.MULTILINE)


@dataclass(frozen=True)
class Shelf:
    """Where templates of one kind lie, the setting that names one, what each must hold, and its settings with their types."""

    folder: Path
    setting: str
    slots: tuple[str, ...]
    settings: Mapping[str, type]

    def names(self) -> list[str]:
        """Return the templates that are there."""
        return sorted(each.stem for each in self.folder.glob("*.txt"))


@dataclass(frozen=True)
class Template:
    """Text around one document; braces other than the slots' are literal.

    ``chat``: the text is a user's message, after ``system`` where there is one. ``stop``: what ends a query. ``examples``:
    queries of the corpus that are shown, each in the form ``example``.
    """

    name: str
    text: str
    chat: bool = False
    system: str = ""
    stop: tuple[str, ...] = ("\n",)
    examples: int = 0
    example: str = ""
    #: What stands at ``{examples}``.
    shown: str = ""
    #: Whether what is written answers a prompt; else it is the query as it stands.
    answers: bool = True

    @property
    def digest(self) -> str:
        """Of all that decides what a prompt is, the examples from the corpus included."""
        if not (self.chat or self.examples):
            return sha256(self.text.encode()).hexdigest()
        return sha256(
            repr((self.text, self.chat, self.system, self.stop, self.example, self.shown)).encode()
        ).hexdigest()

    def fill(self, document: str) -> str:
        """Return the prompt, or the user's message of a chat."""
        # The slots are the template's: what stands in a document stays as it is.
        return document.join(part.replace(_EXAMPLES, self.shown) for part in self.text.split(SLOT))

    def messages(self, document: str) -> list[dict[str, str]]:
        """Return the chat, up to where the model is to answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.fill(document)}]

    def plain(self) -> Template:
        """Return the same, not as a chat."""
        return replace(self, chat=False)

    def showing(self, pairs: Sequence[tuple[str, str]]) -> Template:
        """Return the same with these (document, query) as its examples."""
        shown = "".join(
            query.join(part.replace(SLOT, document) for part in self.example.split("{query}"))
            for document, query in pairs
        )
        return replace(self, shown=shown)


#: No prompt at all, for what takes a query from the document itself.
NONE = Template("", SLOT, answers=False)


#: Setting -> its type.
_KNOWN: dict[str, type] = {"chat": bool, "system": str, "stop": list}
QUERIES = Shelf(FOLDER, "generation.prompt", (SLOT,), {**_KNOWN, "examples": int, "example": str})


def read(prompt: str, shelf: Shelf = QUERIES) -> str:
    """Return the source of a template: text of the one that is named or of the file at that path, or ``prompt`` itself.

    Raises :class:`UserError` where it is neither.
    """
    if "\n" in prompt or any(slot in prompt for slot in shelf.slots):
        return prompt
    known = shelf.names()
    path = shelf.folder / f"{prompt}.txt" if prompt in known else prompt
    try:
        return text_files.read(path, shelf.setting)
    except FileNotFoundError as error:
        raise UserError(
            f"{shelf.setting}: {shown(prompt)}: no readable template file; give a path or one of: {', '.join(known)}",
            code="prompt-missing",
        ) from error


def names() -> list[str]:
    """Return the templates of this folder."""
    return QUERIES.names()


def load(prompt: str, shelf: Shelf = QUERIES) -> Template:
    """Return the template of ``shelf`` that ``prompt`` names, or is.

    The line end at the end is not part of the prompt. Raises :class:`UserError` where there is no such template or it
    cannot work.
    """
    source = read(prompt, shelf)
    name = "of its own text" if source == prompt else shown(prompt)
    settings: dict[str, Any] = {}
    if begun := _HEAD.match(source):
        ended = _HEAD_END.search(source, begun.end())
        if not ended:
            raise UserError(
                f"{shelf.setting}: {name}: the settings at its beginning have no end; close them with a line ---",
                code="prompt-form",
            )
        head, source = source[begun.end() : ended.start()], source[ended.end() :]
        settings = _settings(f"{shelf.setting}: {name}", head, shelf.settings)
    text = source.rstrip()
    for slot in shelf.slots:
        if slot not in text:
            raise UserError(
                f"{shelf.setting}: {name}: the template has no {slot}, so every {slot[1:-1]} would get the same prompt; put "
                "it in",
                code="prompt-form",
            )
    template = Template(name, text, **settings)
    if "examples" in shelf.settings and bool(template.examples) != (_EXAMPLES in text):
        raise UserError(
            f"generation.prompt: {name}: `examples` (how many of the corpus's own queries are shown) and {_EXAMPLES} (where) "
            "need each other; put in both or none",
            code="prompt-form",
        )
    for slot in (SLOT, "{query}") if template.examples else ():
        if slot not in template.example:
            raise UserError(f"generation.prompt: {name}: its `example` has no {slot}; put it in", code="prompt-form")
    return template


def _settings(where: str, head: str, known: Mapping[str, type]) -> dict[str, Any]:
    """Return the settings at the head of a template, from YAML."""
    found = text_files.parse_yaml(head, f"{where}: its settings") or {}
    if not isinstance(found, dict):
        raise UserError(
            f"{where}: its settings must be keys with values; it knows: {', '.join(known)}",
            code="prompt-form",
        )
    for key, value in found.items():
        if key not in known:
            raise UserError(
                f"{where}: unknown setting {quoted(key)}; it knows: {', '.join(known)}",
                code="prompt-form",
            )
        if not isinstance(value, known[key]) or (key == "examples" and not _few(value)):
            raise UserError(
                f"{where}: {key}: {quoted(value)} is not of the kind {known[key].__name__}",
                code="prompt-form",
            )
    if not all(isinstance(each, str) and each for each in found.get("stop", ())):
        raise UserError(f"{where}: stop: {quoted(found['stop'])} is not a list of texts", code="prompt-form")
    if "stop" in found:
        found["stop"] = tuple(map(str, found["stop"]))
    found["chat"] = bool(found.get("chat") or found.get("system"))
    if found["chat"]:
        found.setdefault("stop", ())  # a chat model ends by itself, and may begin with a line end
    return found


def _few(value: Any) -> bool:
    """Return whether so many examples can be shown."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 100
