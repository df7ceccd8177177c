"""Prompt templates: ``NAME.txt`` in this folder, or a file of the user's own, with ``{document}`` where it belongs."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from inranker_flow.errors import UserError

FOLDER = Path(__file__).parent
SLOT = "{document}"


@dataclass(frozen=True)
class Template:
    """Text around one document; every other brace is literal."""

    text: str

    @property
    def digest(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    def fill(self, document: str) -> str:
        return self.text.replace(SLOT, document)


def load(name: str) -> Template:
    """The template ``name`` (``inpars-v1``, ``document``) or the file at that path.

    The line end at the end of a file is not part of the prompt. Raises :class:`UserError` where there is no such
    template or it has no ``{document}``.
    """
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.txt")))
        raise UserError(
            f"generation.prompt: {name}: no readable template file; give a path or one of: {known}"
        ) from error
    if SLOT not in text:
        raise UserError(f"{path}: the template has no {SLOT}, so every document would get the same prompt; put it in")
    return Template(text)
