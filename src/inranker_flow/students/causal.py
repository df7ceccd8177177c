"""A causal language model that answers a prompt with one of two words, as Qwen3-Reranker does (arXiv 2506.05176)."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inranker_flow import reading
from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import families, forms, templates
from inranker_flow.rankers.causal import CausalReader
from inranker_flow.rankers.checkpoints import load_generator, locate, set_dropout
from inranker_flow.rankers.pair_prompts import check_positions
from inranker_flow.reading import Trained
from inranker_flow.students import adapters, layers
from inranker_flow.students.base import Student

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Words for (no, yes), the best first.
_ANSWERS = (("no", "yes"), ("false", "true"))


class CausalStudent(Student):
    """A causal model, trained whole or by adapters; the logits of its two answers at the prompt's end are the score."""

    reader: CausalReader

    def __init__(self, reference: str, config: DistillConfig, revision: str = "") -> None:
        model, self.tokenizer = load_generator(
            reference,
            revision,
            change=lambda found: set_dropout(found, config.dropout) if config.dropout >= 0 else None,
        )
        self.model = layers.kept(reference, model, config.layers)
        scoring = _scoring(reference, self.tokenizer, config, revision)
        self.reader = CausalReader(reference, self.tokenizer, scoring)
        check_positions(reference, self.model, config.max_length)
        self.reads = Trained(
            max_length=config.max_length,
            truncation="document",
            true_token=scoring.true_token,
            false_token=scoring.false_token,
            kind="causal",
            prompt=templates.read(scoring.prompt),
            instruction=scoring.instruction,
        )
        self._head = self.model.get_output_embeddings()
        self._adapted = adapters.add(self.model, config) if config.lora_rank else None

    def scorer(self, checkpointing: bool) -> nn.Module:
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        return _scorer(self.model, self._head, self.reader.labels)

    def finish(self) -> Any:
        self.model.set_output_embeddings(self._head)
        if self._adapted:
            self.model, self._adapted = adapters.merged(self._adapted), None
        return self.model


def _scoring(reference: str, tokenizer: Any, config: DistillConfig, revision: str) -> ScoringConfig:
    """Return how the student reads: as ``config`` says, otherwise as its own folder, its family, or (new) `plain` does."""
    scoring = ScoringConfig(
        kind="causal",
        max_length=config.max_length,
        truncation=config.truncation,
        prompt=config.prompt,
        instruction=config.instruction or ScoringConfig.instruction,
        true_token=config.true_token,
        false_token=config.false_token,
    )
    folder = None if reference.startswith("init:") else locate(reference)
    earlier = reading.of_folder(folder) if folder else None
    if earlier and earlier.kind == "causal" and not config.prompt:
        return replace(
            scoring,
            prompt=earlier.prompt,
            instruction=config.instruction or earlier.instruction,
            true_token=config.true_token or earlier.true_token,
            false_token=config.false_token or earlier.false_token,
        )
    if not config.prompt and not reference.startswith("init:"):
        family = forms.family_of(reference, revision)
        if family:
            scoring = replace(scoring, prompt=family.name)
    prompt = scoring.prompt or "plain"
    family = families.named(prompt)
    if family:
        usual = family.false, family.true
    elif config.false_token and config.true_token:
        usual = "", ""
    elif config.false_token or config.true_token:
        raise UserError(
            f"{reference}: of its two answers one is set ({config.true_token or config.false_token!r}); set phase1.true_token "
            "and phase1.false_token, or none",
            code="setting-missing",
        )
    else:
        usual = _answers(reference, tokenizer, templates.load(prompt, scoring.instruction))
    return replace(
        scoring,
        prompt=prompt,
        false_token=config.false_token or usual[0],
        true_token=config.true_token or usual[1],
    )


def _answers(reference: str, tokenizer: Any, template: templates.Template) -> tuple[str, str]:
    """Return the pieces (false, true) that the tokenizer itself makes of the two words where the answer stands.

    A model that goes on with the prompt writes these: ``Ġyes`` or ``▁yes`` after "Relevant:", ``yes`` on a new line.
    """
    end = "a" + template.after.replace(templates.SEAM, "")
    blanks = ("", " ") if end[-1].isspace() else (" ", "")
    for blank in blanks:
        for false, true in _ANSWERS:
            found = _next_piece(tokenizer, end, blank + false), _next_piece(tokenizer, end, blank + true)
            if all(found) and found[0] != found[1]:
                return found
    raise UserError(
        f"{reference}: its tokenizer makes more than one piece of yes and no, and of true and false; set phase1.true_token and "
        "phase1.false_token to two of its pieces",
        code="checkpoint-tokens",
    )


def _next_piece(tokenizer: Any, text: str, word: str) -> str:
    """Return the one piece by which ``word`` goes on after ``text``; empty where it is several, or changes the text's own."""
    known, both = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, text + word))
    if len(both) != len(known) + 1 or both[:-1] != known or both[-1] == tokenizer.unk_token_id:
        return ""
    return str(tokenizer.convert_ids_to_tokens(both[-1]))


def _scorer(model: Any, head: Any, answers: tuple[int, int]) -> nn.Module:
    import torch

    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    # One answer alone: its logit s is the pair (-s/2, s/2), as an encoder's is.
    signs = (-0.5, 0.5) if answers[0] == answers[1] else (1.0, 1.0)

    class TwoRows(torch.nn.Module):
        """The rows of the output layer that are read, in float32: bfloat16 would round logits to 3 digits.

        What a model does to its logits afterwards (scaling, soft caps) stays as it was.
        """

        def __init__(self) -> None:
            super().__init__()
            self.head = head

        @property
        def weight(self) -> Tensor:
            # Some models ask for the layer's dtype, or hand on its bias.
            weight: Tensor = self.head.weight
            return weight

        @property
        def bias(self) -> Tensor | None:
            bias: Tensor | None = self.head.bias
            return bias

        def forward(self, hidden: Tensor) -> Tensor:
            rows = list(answers)
            bias = None if self.bias is None else self.bias[rows].float()
            with torch.autocast(hidden.device.type, enabled=False):
                return torch.nn.functional.linear(hidden.float(), self.weight[rows].float(), bias)

    class CausalLogits(torch.nn.Module):
        """(B, L) ids and mask, padded on the left -> (B, 2) logits [false, true] in fp32."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor, in_document: Tensor) -> Tensor:
            # The first token of a prompt is at 0, however much padding is in front of it.
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits: Tensor = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **options
            ).logits[:, -1]
            return logits.float() * torch.tensor(signs, device=logits.device)

    model.set_output_embeddings(TwoRows())
    return CausalLogits()
