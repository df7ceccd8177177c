"""The part of a section that says which language model answers, and how a server that has it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from inranker_flow.config.rules import Range
from inranker_flow.config.values import Concurrency, Count, Positive, Prompt, Retries, ServerAddress, Timeout


@dataclass(frozen=True)
class LanguageModelConfig:
    """A language model here, or behind a server with OpenAI's API."""

    #: The key of the section in a profile.
    section: ClassVar[str]

    #: The language model: folder, s3://, hub id, ``demo:generator`` or ``init:...``. openai: the name of the served model.
    checkpoint: str = ""
    #: Hub revision, or the content digest of a local folder (filled in at submission).
    revision: str = ""
    #: openai: the address that OpenAI's own clients take, http://HOST:PORT/v1. Its key is OPENAI_API_KEY's value.
    endpoint: ServerAddress = ""
    #: openai: requests that are under way at a time.
    concurrency: Concurrency = 64
    #: openai: seconds until a request counts as lost.
    request_timeout: Timeout = 120.0
    #: openai: how often a lost request is sent again.
    retries: Retries = 8
    #: openai: folder or hub id of the served model's tokenizer, which cuts documents exactly. Empty: a token counts as
    #: four characters.
    tokenizer: str = ""
    #: openai: more fields of each request, as the server wants them: {chat_template_kwargs: {enable_thinking: false}}.
    request_fields: dict[str, Any] = field(default_factory=dict)
    #: Documents in one batch.
    batch_size: Annotated[int, Range(1, 100_000)] = 16
    #: auto: bfloat16 where the device computes in it, otherwise float32.
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass(frozen=True)
class JudgeConfig(LanguageModelConfig):
    """A language model that grades what the systems put on top, 0 to 3. Without a `checkpoint` there is none."""

    section = "evaluation.judge"

    #: transformers: on this machine. vllm: the same with vLLM (an environment of its own, which the image of `evaluate` has
    #: not). openai: a server with OpenAI's API at `endpoint`.
    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    #: A template in ``judging/prompts`` by name, a path, or the text itself, with {query} before {passage}.
    prompt: Prompt = "umbrela"
    #: Passages of each query that are graded: the first so many of every system's ranking, each once.
    depth: Positive = 10
    #: Queries of a data set at most, drawn by their ids; 0: all.
    queries: Count = 200
    #: Tokens of a passage that the prompt may hold.
    max_passage_tokens: Annotated[int, Range(16, 1_000_000)] = 512
    #: Tokens of an answer at most: a model that thinks first needs more.
    max_new_tokens: Annotated[int, Range(1, 100_000)] = 100
