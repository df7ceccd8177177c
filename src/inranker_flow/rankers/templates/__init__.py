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
