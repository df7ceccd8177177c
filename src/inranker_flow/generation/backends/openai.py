"""The backend `openai`: a server with OpenAI's API, such as a vLLM server that a whole cluster shares. Needs no torch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import copy
from dataclasses import dataclass
from typing import Any

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import UserError
from inranker_flow.generation.backends import Written
from inranker_flow.generation.backends.local import Prompter
from inranker_flow.generation.backends.served import connect, describe
from inranker_flow.generation.prompts import Template
from inranker_flow.rankers.checkpoints import load_tokenizer
from inranker_flow.services.endpoint import Refused
from inranker_flow.words import has_blanks

log = logging.getLogger(__name__)

#: Characters of a token, where the served model's tokenizer is not known. English has four to five.
_CHARACTERS = 4
#: What is left of a document that a server finds too long, each time.
_SHORTER = 0.75


class OpenAIBackend:
    """One request for each document, `config.concurrency` at a time.

    /v1/completions, or /v1/chat/completions for a chat prompt. A document whose prompt the server finds too long for its
    context is cut until it is taken.
    """

    def __init__(self, config: GenerateConfig, template: Template) -> None:
        self.config, self.template = config, template
        self.endpoint = connect(config)
        self.versions = describe(self.endpoint, config.checkpoint)
        self._tokenizer: Any = None
        if config.tokenizer:
            # What a chat looks like is the server's affair.
            self._tokenizer = Prompter(load_tokenizer(config.tokenizer), template.plain(), config)
        # One word is asked for now: what the server does not do should not show after an hour.
        self._ask("A word.", 0, 1)
        log.info("%s at %s answers", config.checkpoint, self.endpoint.url)

    def generate(self, documents: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """Return the seed of a request: that of its place, so it does not matter which others are under way."""
        texts = self.cut(documents, self.config.max_document_tokens)
        cut = [text != whole for text, whole in zip(texts, documents, strict=True)]
        answers: list[_Answer | None] = [None] * len(texts)
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            asked = {pool.submit(self._ask, text, seed + row): row for row, text in enumerate(texts)}
            try:
                for future in as_completed(asked):
                    answers[asked[future]] = future.result()
                    done(1)
            except BaseException:
                self.endpoint.stop()  # what waits to be sent again gives up
                pool.shutdown(cancel_futures=True)
                raise
        found = [each for each in answers if each is not None]
        return Written(
            texts=[each.texts for each in found],
            log_probabilities=[each.means for each in found] if self.config.keep_probable else None,
            cut=[before or each.shortened for before, each in zip(cut, found, strict=True)],
            tokens=sum(each.tokens for each in found),
        )

    def cut(self, texts: Sequence[str], most: int) -> list[str]:
        """Return the beginning of each text that ``most`` tokens cover, about so where the tokenizer is not known."""
        if self._tokenizer:
            cut: list[str] = self._tokenizer.cut(texts, most)
            return cut
        return [_first(text, _room(text, most)) for text in texts]

    def prompted(self, template: Template) -> OpenAIBackend:
        """Return the same server, asked by another template."""
        other = copy(self)
        other.template = template
        return other

    def _ask(self, text: str, seed: int, tokens: int = 0) -> _Answer:
        """Return the server's texts for one document, which is shortened until its prompt fits."""
        shortened = False
        while True:
            try:
                answer = self.endpoint.post(self._route(), self._request(text, seed, tokens), self._read)
            except Refused as refused:
                if not refused.too_long or len(text) < 8:
                    raise
                text, shortened = _first(text, math.floor(len(text) * _SHORTER)), True
                continue
            return _Answer(answer.texts, answer.means, answer.tokens, shortened)

    def _route(self) -> str:
        return "chat/completions" if self.template.chat else "completions"

    def _request(self, text: str, seed: int, tokens: int) -> dict[str, Any]:
        config = self.config
        asked: dict[str, Any] = {
            **config.request_fields,
            "model": config.checkpoint,
            "max_tokens": tokens or config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "n": config.queries_per_document,
            "seed": seed,
        }
        if self.template.stop:
            asked["stop"] = list(self.template.stop)
        if self.template.chat:
            asked["messages"] = self.template.messages(text)
        else:
            asked["prompt"] = self.template.fill(text)
        if config.keep_probable:
            asked["logprobs"] = True if self.template.chat else 1
        return asked

    def _read(self, answer: dict[str, Any]) -> _Answer:
        """Return the parts of an answer that are of use. Raises ValueError for one that is none, :class:`UserError` for one
        that lacks what was asked for."""
        try:
            # Some servers that give one text give it no number.
            choices = sorted(answer["choices"], key=lambda choice: choice.get("index") or 0)
            texts = [
                _said(choice["message"]["content"] if self.template.chat else choice["text"]) for choice in choices
            ]
        except (KeyError, TypeError, AttributeError) as error:
            said = answer.get("error") if isinstance(answer, dict) else None
            why = json.dumps(said)[:200] if said else repr(error)
            raise ValueError(f"no answer of the form that was asked for ({why})") from error
        wanted = self.config.queries_per_document
        if not texts:
            raise ValueError("an answer without texts")
        if len(texts) != wanted:
            section = self.config.section
            remedy = (
                f"set {section}.queries_per_document to 1 for this server"
                if wanted > 1
                else f"correct what makes it give more ({section}.request_fields, its own settings), or use another server"
            )
            raise UserError(
                f"{self.endpoint.url}: gives {len(texts)} texts where n={wanted} was asked for; {remedy}",
                code="server-misbehaves",
            )
        means = [self._mean(*each) for each in zip(choices, texts, strict=True)] if self.config.keep_probable else []
        return _Answer(texts, means, _tokens(answer))

    def _mean(self, choice: dict[str, Any], text: str) -> float:
        """Return the mean of the log-probabilities of a text's tokens; the lowest for one that holds none."""
        known = _logprobs(choice.get("logprobs"))
        if not known and text:
            raise UserError(
                f"{self.endpoint.url}: leaves out the log-probabilities that generation.keep_probable needs, or gives them in "
                "no form of OpenAI's API; set it to 0, or use a server that gives them (vLLM does)",
                code="server-misbehaves",
            )
        return sum(known) / len(known) if known else -math.inf


def _logprobs(found: Any) -> list[float]:
    """Return the log-probabilities of the tokens, in the form of completions or of a chat: servers give either for both.

    None at all where one of them is no number.
    """
    if not isinstance(found, dict):
        return []
    values = found.get("token_logprobs") or [
        each.get("logprob") if isinstance(each, dict) else math.nan for each in found.get("content") or ()
    ]
    known = [value for value in values if value is not None]
    numbers = all(isinstance(value, int | float) and not math.isnan(value) for value in known)
    return known if isinstance(values, list) and numbers else []


def _tokens(answer: dict[str, Any]) -> int:
    """Return how many tokens a server says that it wrote; 0 where it says nothing: nothing depends on that."""
    usage = answer.get("usage")
    found = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return int(found) if isinstance(found, int | float) and math.isfinite(found) else 0


def _said(content: Any) -> str:
    """Return the text of a choice; of one in parts, the parts that are text and no thoughts.

    Raises TypeError for what is no text.
    """
    if isinstance(content, list):
        parts = [part if isinstance(part, str) else _part(part) for part in content]
        return _said("".join(parts))
    if not isinstance(content, str | None):
        raise TypeError(f"a {type(content).__name__} as its text")
    # Half a pair of surrogates cannot be written.
    return (content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _part(part: dict[str, Any]) -> str:
    return part["text"] if part.get("type") in ("text", "output_text") else ""


@dataclass(frozen=True)
class _Answer:
    texts: list[str]
    means: list[float]
    tokens: int
    shortened: bool = False


def _room(text: str, tokens: int) -> int:
    """Return characters of a text that so many tokens hold, about: four to a token, or one where there are no blanks between
    words."""
    most = tokens * _CHARACTERS
    if has_blanks(text[:most]):
        return most
    spent = 0
    for place, letter in enumerate(text[:most]):
        spent += 1 if has_blanks(letter) else _CHARACTERS
        if spent > most:
            return place
    return most


def _first(text: str, most: int) -> str:
    """At most so many characters, and whole words where there are any."""
    if len(text) <= most:
        return text
    if not has_blanks(text[max(most - 1, 0) : most + 1]):
        return text[:most].rstrip()  # between two letters of Chinese is as good as at a blank
    return text[: most + 1].rpartition(" ")[0].rstrip() or text[:most]
