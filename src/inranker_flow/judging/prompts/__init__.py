"""What a judge is asked: ``NAME.txt`` in this folder, a file of the user's own, or the text itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.generation.prompts import Shelf, Template

_QUERY, _PASSAGE = "{query}", "{passage}"
SHELF = Shelf(
    Path(__file__).parent, "evaluation.judge.prompt", (_QUERY, _PASSAGE), {"chat": bool, "system": str, "stop": list}
)
#: What is asked once more of a judge whose answer was no grade.
_FIRM = "Your whole answer is one digit, 0, 1, 2 or 3, and nothing else."


@dataclass(frozen=True)
class JudgePrompt:
    """A ``template`` whose document is query and passage with the words ``between`` them: what is too long is cut at the
    passage's end."""

    template: Template
    between: str

    def pair(self, query: str, passage: str) -> str:
        """Return what stands at the template's document."""
        return f"{query}{self.between}{passage}"

    @property
    def firm(self) -> JudgePrompt:
        """The same with a closing line that asks for the grade alone."""
        return replace(self, template=replace(self.template, text=f"{self.template.text}\n{_FIRM}"))


def load(prompt: str) -> JudgePrompt:
    """Return the prompt that ``evaluation.judge.prompt`` names, or is.

    Raises :class:`UserError` where there is none, and for one that cannot work.
    """
    template = prompts.load(prompt, SHELF)
    before, _, rest = template.text.partition(_QUERY)
    between, there, after = rest.partition(_PASSAGE)
    again = any(slot in part for slot in (*SHELF.slots, prompts.SLOT) for part in (before, between, after))
    if not there or again:
        raise UserError(
            f"{SHELF.setting}: {template.name}: must hold {_QUERY} once, and then {_PASSAGE} once (and no {prompts.SLOT}); "
            "change their order",
            code="prompt-form",
        )
    return JudgePrompt(replace(template, text=f"{before}{prompts.SLOT}{after}"), between)
