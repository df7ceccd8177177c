"""From documents to token ids, with the model's own tokenizer: what the backends on this machine share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from inranker_flow.beginnings import Beginnings, chunks
from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import UserError
from inranker_flow.generation.prompts import Template

#: Tokens that may come to a prompt where a document's end and the template's next words meet.
_SEAM = 8
#: Documents of which no two begin with the same token.
_UNLIKE = ("a", "1", "(", "的")


class Prompter:
    """Fills ``template`` with documents, which are cut to ``config.max_document_tokens`` and to the model's context.

    ``context``: tokens that the model can hold; None where there is no such limit. ``beside``: of these, what is not for
    the prompt. Raises :class:`UserError` for a chat prompt where the tokenizer has no chat template.
    """

    def __init__(
        self, tokenizer: Any, template: Template, config: GenerateConfig, context: int | None = None, beside: int = 0
    ) -> None:
        self.tokenizer, self.template, self.config = tokenizer, template, config
        if template.chat and not tokenizer.chat_template:
            raise UserError(
                f"{config.checkpoint}: its tokenizer has no chat template, and the prompt is a chat prompt; give an "
                f"instruction-tuned checkpoint, or a {config.section}.prompt without `chat` and `system`",
                code="prompt-no-chat",
            )
        self.context, self.beside = context, beside

    @property
    def longest(self) -> int:
        """Tokens that a prompt has at most."""
        return len(self._ids([""])[0]) + self.config.max_document_tokens + _SEAM

    @property
    def beginning(self) -> list[int]:
        """Token ids with which prompts begin, whatever the document is: all but every one does."""
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*self._ids(_UNLIKE), strict=False))
        return [token for token, *_ in alike]

    def prompted(self, template: Template) -> Prompter:
        """Return the same with another template."""
        return Prompter(self.tokenizer, template, self.config, self.context, self.beside)

    def cut(self, texts: Sequence[str], most: int) -> list[str]:
        """Return the beginning of each text, exactly as it stands there, that ``most`` tokens cover."""
        cut: list[str] = []
        for chunk in chunks(Beginnings(self.tokenizer, most + 1).of(texts), len(texts)):
            found = self.tokenizer(
                chunk, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
            )
            cut += [
                text[: spans[most - 1][1]].rstrip() if len(spans) > most else text
                for text, spans in zip(chunk, found["offset_mapping"], strict=True)
            ]
        return cut

    def fit(self, documents: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return token ids of each document's prompt, and whether the document was cut."""
        texts = self.cut(documents, self.config.max_document_tokens)
        ids = self._ids(texts)
        if self.context is not None:
            room = self.context - self.beside
            for row in (row for row, each in enumerate(ids) if len(each) > room):
                texts[row], ids[row] = self._shorten(texts[row], ids[row], room)
        return ids, [text != whole for text, whole in zip(texts, documents, strict=True)]

    def _shorten(self, text: str, ids: list[int], room: int) -> tuple[str, list[int]]:
        """Return the text cut until its prompt has ``room`` tokens at most."""
        while len(ids) > room:
            held = len(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
            most = held - (len(ids) - room)
            if most < 1:
                raise UserError(
                    f"{self.config.checkpoint}: its context of {self.context} tokens has no room for a document: prompt "
                    f"{self.template.name} alone has {len(self._ids([''])[0])} and {self.config.section}.max_new_tokens is "
                    f"{self.config.max_new_tokens}; give a shorter prompt or a model with a longer context",
                    code="prompt-too-long",
                )
            text = self.cut([text], most)[0]
            ids = self._ids([text])[0]
        return text, ids

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # A chat template writes the special tokens itself.
        settings = {"truncation": False, "return_attention_mask": False, "verbose": False}
        settings["add_special_tokens"] = not self.template.chat
        ids: list[list[int]] = self.tokenizer([self._prompt(text) for text in texts], **settings)["input_ids"]
        return ids

    def _prompt(self, text: str) -> str:
        if not self.template.chat:
            return self.template.fill(text)
        prompt: str = self.tokenizer.apply_chat_template(
            # Where a model can think before it answers, it should not: the first line is the query.
            self.template.messages(text), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )  # fmt: skip
        return prompt
