"""Prompts of causal rerankers: ``NAME.txt`` in this folder, a file of the user's own, or the text itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inranker_flow import text_files
from inranker_flow.errors import UserError
from inranker_flow.text_files import shown

FOLDER = Path(__file__).parent
QUERY, DOCUMENT, INSTRUCTION, ANSWER = "{query}", "{document}", "{instruction}", "{answer}"
#: What stands on its two sides is tokenised apart.
SEAM = "{|}"


@dataclass(frozen=True)
class Template:
    """``before`` {query} ``between`` {document} ``after``, and then the model's answer; no slot is left in them but seams."""

    before: str
    between: str
    after: str


@dataclass(frozen=True)
class Pieces:
    """A template's texts as they are tokenised.

    Each of ``beginning``, ``middle`` and ``closing`` is tokenised by itself. Other texts are as they go on: the query, with
    ``query_space`` before and ``between`` behind it, after ``query_context``; the document likewise; ``joined`` after any word.
    """

    beginning: tuple[str, ...]
    query_context: str
    query_space: str
    between: str
    middle: tuple[str, ...]
    document_context: str
    document_space: str
    joined: str
    closing: tuple[str, ...]


def pieces(template: Template) -> Pieces:
    """Return the texts of ``template``: apart at its seams, and with spaces at the text that follows them, where most
    vocabularies hold them."""
    *apart, fixed = template.before.split(SEAM)
    fixed, query_space = _split_spaces(fixed)
    #: What follows the query without a seam, and what stands behind that, up to the document.
    between, *rest = template.between.split(SEAM)
    *middle, last = rest or [between]
    last, document_space = _split_spaces(last)
    joined, *closing = template.after.split(SEAM)
    return Pieces(
        beginning=(*apart, fixed),
        query_context=_last_line(fixed),
        query_space=query_space,
        between=between if rest else last,
        middle=(*middle, last) if rest else (),
        document_context=_last_line(last),
        document_space=document_space,
        joined=joined,
        closing=tuple(closing),
    )


def _split_spaces(text: str) -> tuple[str, str]:
    return text.rstrip(" "), text[len(text.rstrip(" ")) :]


def _last_line(text: str) -> str:
    """Return the end of ``text`` from its last line that holds something."""
    return text[text.rstrip("\n").rfind("\n") + 1 :]


def load(prompt: str, instruction: str) -> Template:
    """Return the template of that name, at that path, or with that text.

    Raises :class:`UserError` where there is none, or its slots are not ``{query}``, ``{document}``, ``{answer}``, each
    once and in this order.
    """
    text = read(prompt)
    where = "scoring.prompt" if text == prompt else f"scoring.prompt: {shown(prompt)}"
    if [text.count(slot) for slot in (QUERY, DOCUMENT, ANSWER)] != [1, 1, 1]:
        raise UserError(f"{where}: the template needs {QUERY}, {DOCUMENT} and {ANSWER}, each once", code="prompt-form")
    before, _, rest = text.partition(QUERY)
    between, found, rest = rest.partition(DOCUMENT)
    after, answer, rest = rest.partition(ANSWER)
    if not (found and answer) or rest.strip():
        raise UserError(
            f"{where}: the template's order must be {QUERY}, {DOCUMENT}, {ANSWER}, and nothing after that",
            code="prompt-form",
        )
    # Only the template's own braces are slots: texts are never searched for any.
    return Template(*(part.replace(INSTRUCTION, instruction) for part in (before, between, after)))


def names() -> list[str]:
    """Return the templates of this folder."""
    return sorted(each.stem for each in FOLDER.glob("*.txt"))


def read(prompt: str) -> str:
    """Return the template's text: of a name, a path, or ``prompt`` itself where it holds ``{document}``."""
    if DOCUMENT in prompt:
        return prompt
    path = FOLDER / f"{prompt}.txt" if prompt in names() else prompt
    try:
        return text_files.read(path, "scoring.prompt")
    except FileNotFoundError as error:
        raise UserError(
            f"scoring.prompt: {shown(prompt)}: no readable template file; give a path or one of: {', '.join(names())}",
            code="prompt-missing",
        ) from error
