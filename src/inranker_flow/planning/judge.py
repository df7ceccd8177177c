"""What a judge will be asked: calls, the tokens that it reads and writes, and how its speed is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.judging import prompts
from inranker_flow.judging.model import as_generator
from inranker_flow.planning.counting import Counted
from inranker_flow.planning.models import TOKEN_CHARACTERS

if TYPE_CHECKING:
    from inranker_flow.settings.profile import Profile

#: Of the systems' first passages together, how many times as many as of one (assumed: rerankers of the same candidates mostly
#: agree), and tokens of an answer.
SPREAD, NEW_TOKENS = 2.0, 8


@dataclass(frozen=True)
class Asked:
    """``calls`` of a judge at most, each of ``tokens`` that it reads and NEW_TOKENS that it writes."""

    queries: int
    calls: int
    tokens: float

    @property
    def all_tokens(self) -> int:
        return round(self.calls * (self.tokens + NEW_TOKENS))


def asked(profile: Profile, every: Sequence[tuple[Counted, float, float]], held_out: Mapping[str, int]) -> Asked:
    """Return what a judge is asked about collections, each given with its characters of a token in passages and in queries.

    ``held_out``: collection -> held-out queries, which are graded where nobody has judged any.
    """
    judge = profile.evaluation.judge
    template = len(prompts.load(judge.prompt).template.text)
    depth = min(round(SPREAD * judge.depth), profile.retrieval.test_depth)
    queries = calls = 0
    tokens = 0.0
    for counted, of_passage, of_query in every:
        own = counted.test_queries or held_out.get(counted.name, 0)
        mine = min(own, judge.queries or own)
        read = template / TOKEN_CHARACTERS + counted.query_characters / of_query
        read += min(counted.passage_characters / of_passage, judge.max_passage_tokens)
        queries, calls, tokens = queries + mine, calls + mine * depth, tokens + mine * depth * read
    return Asked(queries, calls, tokens / calls if calls else 0.0)


def measurable(profile: Profile) -> GenerateConfig:
    """Return the judge as a generator whose speed is looked up, or measured with its own prompt."""
    judge = profile.evaluation.judge
    template = prompts.load(judge.prompt).template
    head = "---\nchat: true\n---\n" if template.chat else "---\nchat: false\n---\n"
    return replace(as_generator(judge), prompt=f"{head}{template.text}", max_document_tokens=judge.max_passage_tokens)


def note(profile: Profile) -> str:
    """Return what is assumed of the calls."""
    judge = profile.evaluation.judge
    served = "; asked at its server, whose time and price are not in the plan" if judge.backend == "openai" else ""
    return (
        f"judge: {judge.checkpoint}: a call for each of {SPREAD:g} x {judge.depth} passages of a query (assumed: the systems' "
        f"first {judge.depth} together), {NEW_TOKENS} tokens an answer{served}; grades that are in the store cost nothing"
    )
