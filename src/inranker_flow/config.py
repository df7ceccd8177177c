"""One frozen dataclass per stage section, and the only code that turns JSON or YAML into them.

An unknown key or a wrong type is an error that names the key. Whole numbers that arrive as floats are accepted for
integers, because KFP carries JSON numbers as doubles.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from inranker_flow.errors import UserError
from inranker_flow.text_files import quoted, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Values from ``least`` to ``most``, both included, or one of ``also``."""

    least: float
    most: float = math.inf
    also: tuple[float, ...] = ()

    def problem(self, value: float) -> str:
        """What is wrong with it; "" for nothing."""
        if self.least <= value <= self.most or value in self.also:
            return ""
        return f"is below {self.least:g}" if value < self.least else f"is above {self.most:g}"


@dataclass(frozen=True)
class Above(Range):
    """As :class:`Range`, without ``least`` itself."""

    def problem(self, value: float) -> str:
        return f"must be above {self.least:g}" if value == self.least else super().problem(value)


@dataclass(frozen=True)
class Below(Range):
    """As :class:`Range`, without ``most`` itself."""

    def problem(self, value: float) -> str:
        return f"must be below {self.most:g}" if value == self.most else super().problem(value)


@dataclass(frozen=True)
class Text:
    """Words on one line, or (``lines``) a text. ``form``: a regular expression for the whole,
    which ``says`` describes. ``secret``: a wrong one may hold a key, and is not repeated. ``numbers``: YAML reads some as
    numbers."""

    form: str = ""
    says: str = ""
    empty: bool = True
    lines: bool = False
    most: int = 4096
    secret: bool = False
    numbers: bool = False

    def problem(self, value: str) -> str:
        """What is wrong with it; "" for nothing."""
        if not value:
            return "" if self.empty else "is empty, and has no default"
        if len(value) > self.most:
            return f"{_LONG}{len(value):,} characters; at most {self.most:,} can be right"
        if not self.lines and "://" in value and _CREDENTIALS.search(value):
            return _NO_CREDENTIALS
        if not value.strip():
            return "holds nothing but blanks"
        if odd := (_NO_TEXT if self.lines else _NO_LINE).search(value):
            return f"holds the character {odd[0]!r}, which cannot stand there"
        return self.says if self.form and not re.fullmatch(self.form, value) else ""


@dataclass(frozen=True)
class LanguageName(Text):
    """The name of a language that `words.language` knows, or its code."""

    most: int = 100

    def problem(self, value: str) -> str:
        """What is wrong with it; "" for nothing."""
        problem = super().problem(value)
        if problem or not value:
            return problem
        from inranker_flow import words

        try:
            words.language(value)
        except UserError:
            return words.UNKNOWN
        return ""


class NoResult:
    """Marks a setting that changes no result, only how fast or in which parts it is computed: it is in no key of what was
    computed before (:func:`deciding`)."""


NO_RESULT = NoResult()

#: Characters that a text cannot hold, and those that one line cannot: controls, halves of a character, line ends.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_NO_LINE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
#: A user's name, and perhaps a password, before the host of an address; or a key in its query.
_CREDENTIALS = re.compile(r"(?i)[a-z][a-z0-9+.-]*://[^/?#\s]*@|https?://\S*[@?]")
_LONG = "is a text of "
_NO_CREDENTIALS = (
    "holds a user's name, a password or a query, which every run would record; leave it out of the address (keys are given "
    "in the environment: OPENAI_API_KEY, AWS_ACCESS_KEY_ID, HF_TOKEN)"
)

#: Beyond it are typing errors: no corpus has so many rows, and 32 bits hold it.
_MOST = 2**31 - 1

Count = Annotated[int, Range(0, _MOST)]
Positive = Annotated[int, Range(1, _MOST)]
#: Tokens of a prompt: no model reads more, and with fewer than 16 no passage is left.
Length = Annotated[int, Range(16, 131_072)]
Amount = Annotated[float, Range(0, 1e9)]
Gain = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1)]
Required = Annotated[str, Text(empty=False)]
#: A text of several lines may be given where a file is named.
Prompt = Annotated[str, Text(lines=True, most=100_000)]
#: A language by its name or ISO 639-1 code.
Language = Annotated[str, LanguageName()]
#: A piece of a vocabulary.
Token = Annotated[str, Text(most=100)]
Split = Annotated[
    str,
    Text(
        r"[\w.-]*[\w-](/[\w.-]*[\w-])*",
        "may hold only letters, digits, '.', '_' and '-': it is the name of a file in qrels/",
        empty=False,
        most=100,
    ),
]
ModelName = Annotated[
    str,
    Text(
        r"\w([\w .-]*[\w.-])?(?<!-history)",
        "is no name for a registered model: letters, digits, '.', '_', '-' and blanks inside, and no -history at its end",
        empty=False,
        most=200,
    ),
]
#: Kubernetes' own rules for names with an optional domain before them.
_LABEL = r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LabelName = Annotated[str, Text(_LABEL, "is no name that Kubernetes takes (nvidia.com/gpu)", empty=False, most=300)]
LabelValue = Annotated[
    str, Text(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", "is no value of a label in Kubernetes (true)", most=63)
]


@dataclass(frozen=True)
class CorpusConfig:
    """A collection to train on or to adapt to, and how it is read."""

    #: Where it is: folder or s3:// in BEIR layout, ``ir_datasets:ID``, a Parquet corpus, ``inranker-beir:FILE``
    #: (published soft labels with their texts) or ``demo:source/SEED`` / ``demo:target/SEED``.
    uri: Required
    #: Short name, used in tables, charts and run files.
    name: Required
    #: Content digest found at submission, so that KFP's cache sees a changed folder behind an unchanged path.
    fingerprint: str = ""
    #: Published soft labels for this collection (``inranker-msmarco:FILE``), used instead of the teacher.
    labels: str = ""
    #: Judgements of the training queries: the split's name, as in qrels/train.tsv.
    train_split: Split = "train"
    #: Judgements that the student is measured by: the split's name.
    test_split: Split = "test"
    #: Instead of `generation.prompt`, for this collection alone.
    prompt: Prompt = ""
    #: Instead of `generation.documents`, for this collection alone; 0 leaves that.
    documents: Count = 0
    #: Language of its texts, by name (``portuguese``) or ISO 639-1 code: its stemmer and stop words are used instead of
    #: `retrieval.stemmer` and `retrieval.stopwords`. Empty: those, and for words of another script what is usual for it.
    #: ``none``: words as they are.
    language: Language = ""
    #: Licence of its texts, for the model card: an SPDX id (``cc-by-4.0``) or a sentence.
    licence: str = ""
    #: Fields of ir_datasets' documents whose text is read (joined by blanks), instead of the data set's own.
    text_fields: tuple[str, ...] = ()
    #: The same of its queries.
    query_fields: tuple[str, ...] = ()
    #: Content digest of the training set that an earlier run made of it (found by `discover`): queries that are as they
    #: were keep their negatives, whose labels are there.
    earlier: str = ""
    #: A fault of this target (data that is refused, no usable query) leaves it out, or ends the run; empty: as
    #: `corpora.refused` says. A fault of the source always ends the run.
    refused: Literal["", "leave_out", "end"] = ""
    #: Another text after each time that it was left out (found when a run starts), so that KFP's cache does not answer.
    again: str = ""

    @property
    def content(self) -> dict[str, Any]:
        """What it is and how it is read, as data: without its address where the content is known, and without what says
        nothing about what it holds."""
        # A setting that was added later and is not used leaves the digests of earlier runs as they were.
        unused = {key for key in ("text_fields", "query_fields", "language") if not getattr(self, key)}
        unused |= {"refused", "again"}
        data = {**as_dict(self), "licence": "", "earlier": "", **({"uri": ""} if self.fingerprint else {})}
        return {key: value for key, value in data.items() if key not in unused}


@dataclass(frozen=True)
class CorporaConfig:
    """Where `retrain` looks for corpora, when one counts as complete, and what becomes of a target that is refused."""

    #: Folder or s3:// prefix with one folder for each corpus, in BEIR layout, perhaps with a corpus.yaml.
    uri: str = ""
    #: A file of this name in a corpus's folder says that its upload is over.
    marker: Annotated[str, Text(r"[^/]*", "is the name of a file, without a folder", empty=False, most=255)] = (
        "_SUCCESS"
    )
    #: Without one, a new or changed corpus is taken if it is the same after so many seconds.
    settle_seconds: Annotated[int, Range(0, 86_400)] = 60
    #: A target with a fault of its own (data that is refused, no usable query) is left out and the others go on, or it ends
    #: the run. The only target always ends it.
    refused: Literal["leave_out", "end"] = "leave_out"


@dataclass(frozen=True)
class PrepareConfig:
    """How collections are read and checked."""

    #: refuse: the first problem ends the stage; repair: bad rows are dropped, counted and reported.
    on_problem: Literal["refuse", "repair"] = "refuse"
    #: Documents that are kept, for a quick look at a big collection; 0 keeps all. Judged documents of the kept queries
    #: always stay.
    max_documents: Count = 0
    #: Training queries that are kept; 0 keeps all.
    max_train_queries: Count = 0
    #: Test queries that are kept; 0 keeps all.
    max_test_queries: Count = 0
    #: Seed of the choice.
    seed: Count = 0


@dataclass(frozen=True)
class RetrieveConfig:
    """BM25 as Anserini runs it (k1 = 0.9, b = 0.4)."""

    #: BM25's k1: how soon more of the same word in a passage stops to count (Anserini: 0.9).
    k1: Annotated[float, Range(0, 100)] = 0.9
    #: BM25's b: how much a passage's length counts (Anserini: 0.4).
    b: Share = 0.4
    #: Language whose stop words are left out; empty leaves out none. A collection's `language` comes first.
    stopwords: str = "english"
    #: Language of the stemmer; empty leaves words as they are. A collection's `language` comes first.
    stemmer: str = "english"
    #: Passage lengths as Lucene keeps them, in one byte, so that scores are Anserini's. Otherwise they are exact.
    lucene_lengths: bool = False
    #: Negatives are drawn from so many best passages of each training query (InRanker: BM25's top 1,000).
    depth: Positive = 1000
    #: Negatives for each training query (InRanker: 9).
    negatives: Count = 9
    #: `retrain`: a query that is as it was when an earlier run labelled it keeps its negatives while this share of
    #: `negatives` is still in the corpus; then all are drawn anew.
    keep_share: Share = 0.6
    #: Candidates for each test query, the same for every system that is evaluated.
    test_depth: Positive = 100
    #: The stage ends where more than this share of the training or of the test queries find nothing at all, which is how
    #: a wrong language shows. 1: never.
    max_without_hits: Share = 0.5
    #: Seed of the draw of negatives.
    seed: Count = 0


@dataclass(frozen=True)
class ScoringConfig:
    """How a reranker scores pairs; shared by labelling and evaluation."""

    #: monot5: an encoder-decoder that answers true or false. causal: a language model that answers yes or no (the form
    #: of Qwen3-Reranker). encoder: a cross-encoder with a classification head. auto: what the checkpoint's config says.
    kind: Literal["auto", "monot5", "causal", "encoder"] = "auto"
    #: Tokens of the whole prompt. The passage is cut to it, never what stands after the passage.
    max_length: Length = 512
    #: document: the passage is cut so that ` Relevant:` and `</s>` survive. reference: the original inference code
    #: (monot5 only).
    truncation: Literal["document", "reference"] = "document"
    #: The answer for a relevant passage, as a piece of the vocabulary. Empty: that of the checkpoint's family, otherwise
    #: ▁true for monot5 and yes for causal. encoder: the name of the label that says relevant, or its position; empty: what
    #: the names in its config.json say.
    true_token: Token = ""
    #: The same for a passage that is not relevant: ▁false for monot5, no for causal.
    false_token: Token = ""
    #: causal: a template in ``rankers/templates`` by name, a path, or the text itself. Empty: that of the checkpoint's
    #: family.
    prompt: Prompt = ""
    #: causal: the text that the template puts at ``{instruction}``.
    instruction: Prompt = "Given a web search query, retrieve relevant passages that answer the query"
    #: Padded tokens in one batch; 0 picks a value for the device.
    batch_tokens: Annotated[int, Range(0, _MOST), NO_RESULT] = 0
    #: int8: a monoT5's encoder in 8 bits, on CPUs; labelling says what that costs in exactness before it begins.
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    #: fast: T5's label logits in closed form (other models take the plain one). reference: the plain `transformers` forward.
    forward: Literal["fast", "reference"] = "fast"
    #: Let torch.compile fuse the fast forward's kernels, on a GPU (a minute at the start).
    compile: bool = False


@dataclass(frozen=True)
class TeacherConfig:
    """The large reranker whose logits are the soft labels."""

    #: Folder, s3://, hub id, ``demo:teacher`` or ``init:...`` (a small random T5, for trying the plumbing).
    checkpoint: Required
    #: Hub revision, or the content digest of a local folder (filled in at submission).
    revision: str = ""
    scoring: ScoringConfig = ScoringConfig()
    #: Pairs in one shard; a finished shard survives a kill.
    shard_pairs: Annotated[int, Range(1, _MOST), NO_RESULT] = 50_000
    #: Of the synthetic queries of a collection only the so many are kept whose source document the teacher finds most
    #: relevant (InPars-v2: 10,000). 0 keeps all.
    keep_queries: Count = 0
    #: Processes that share the pairs; 0: one for each GPU of this machine, or one that uses all CPUs. Several on CPUs share
    #: the CPUs out among them, and each holds the model.
    processes: Annotated[int, Range(0, 1024), NO_RESULT] = 0


@dataclass(frozen=True)
class GenerateConfig:
    """Synthetic queries (InPars, arXiv 2202.05144)."""

    #: The language model that writes the queries: folder, s3://, hub id, ``demo:generator`` or ``init:...``.
    checkpoint: Required
    #: Hub revision, or the content digest of a local folder (filled in at submission).
    revision: str = ""
    #: transformers: on this machine. vllm: the same, as an offline batch with vLLM (an environment of its own). openai:
    #: a server with OpenAI's API at `endpoint`, where `checkpoint` is the name of the served model.
    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    #: openai: the address that OpenAI's own clients take, http://HOST:PORT/v1. Its key is OPENAI_API_KEY's value.
    endpoint: Annotated[
        str,
        Text(r"https?://[^\s/?#@]+(/[^\s?#]*)?", "is no address such as http://HOST:PORT/v1", secret=True),
        NO_RESULT,
    ] = ""
    #: openai: requests that are under way at a time.
    concurrency: Annotated[int, Range(1, 10_000), NO_RESULT] = 64
    #: openai: seconds until a request counts as lost.
    request_timeout: Annotated[float, Range(0.1, 86_400), NO_RESULT] = 120.0
    #: openai: how often a lost request is sent again.
    retries: Annotated[int, Range(0, 1000), NO_RESULT] = 8
    #: openai: folder or hub id of the served model's tokenizer, which cuts documents exactly. Empty: a token counts as
    #: four characters.
    tokenizer: str = ""
    #: openai: more fields of each request, as the server wants them: {chat_template_kwargs: {enable_thinking: false}}.
    request_fields: dict[str, Any] = field(default_factory=dict)
    #: A template in ``generation/prompts`` by name, a path, or the text itself.
    prompt: Annotated[str, Text(lines=True, empty=False, most=100_000)] = "inpars-v1"
    #: Documents to write queries for (InPars-v1: 100,000 for each corpus; fewer where the corpus is smaller).
    documents: Count = 100_000
    #: uniform; or diverse: as many from each cluster of the corpus (DUQGen, arXiv 2404.02489).
    sampling: Literal["uniform", "diverse"] = "uniform"
    #: diverse: clusters (DUQGen: 1,000).
    clusters: Positive = 1_000
    #: Queries that are written for each document.
    queries_per_document: Annotated[int, Range(1, 1000)] = 1
    #: Shorter documents are left out.
    min_document_words: Count = 1
    #: Longer documents are left out; 0 is no limit.
    max_document_words: Count = 0
    #: Tokens of the document that the prompt may hold (InPars toolkit: 256).
    max_document_tokens: Annotated[int, Range(1, 1_000_000)] = 256
    #: Tokens of an answer at most.
    max_new_tokens: Annotated[int, Range(1, 100_000)] = 64
    #: Of the sampling of tokens; 0 is greedy, as InPars does.
    temperature: Annotated[float, Range(0, 10)] = 0.0
    #: Tokens are sampled from the most probable ones that together have this probability.
    top_p: Annotated[float, Above(0, 1)] = 1.0
    #: Documents in one batch.
    batch_size: Annotated[int, Range(1, 100_000)] = 16
    #: auto: bfloat16 where the device computes in it, otherwise float32.
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    #: Documents in one shard; a finished shard survives a kill.
    shard_documents: Positive = 2_000
    #: The stage ends where more than this share of the answers hold no query, or begin alike: a greeting or a thought is
    #: taken for the query then. 1: never.
    max_unusable: Share = 0.5
    #: Queries with fewer words are dropped. Of scripts without blanks two letters count as a word, of Thai, Lao, Khmer and
    #: Burmese three.
    min_query_words: Count = 1
    #: Queries with more words are dropped; 0 is no limit.
    max_query_words: Count = 0
    #: Drop a query that stands word for word in its document.
    drop_copied: bool = False
    #: Drop a query that is like a test query (as `evaluation.leak_similarity`; equal ones are always dropped).
    leak_similarity: Annotated[float, Range(0.5, 1)] = 0.9
    #: Drop a query that does not find its document among BM25's best so many (InPars-light: consistency), with the run's
    #: `retrieval` settings; 0 drops none.
    consistency_depth: Count = 0
    #: Keep so many of the most probable queries, by the mean of their tokens' log-probabilities (InPars-v1: 10,000); 0
    #: keeps all. The teacher's own choice comes later: `teacher.keep_queries`.
    keep_probable: Count = 0
    #: Seed of the choice of documents, and of sampling.
    seed: Count = 0


@dataclass(frozen=True)
class DistillConfig:
    """One phase of distillation; the defaults are the official trainer's (InRanker, ``training/trainer.py``)."""

    #: Where the student starts: checkpoint reference (see TeacherConfig); empty in phase 2, which starts from phase 1.
    checkpoint: str = ""
    #: Hub revision, or the content digest of a local folder (filled in at submission).
    revision: str = ""
    #: phase 2 goes on from the student of phase 1, or from the serving champion where there is one.
    start: Literal["phase1", "champion"] = "phase1"
    #: Pairs of the source that phase 2 sees again, for each pair of the targets: without any (as in the paper) it forgets
    #: some of the source.
    replay: Annotated[float, Range(0, 1000)] = 0.0
    #: mse: on the two logits, the paper's; margin_mse, kl and ranknet: over the documents of a query.
    loss: Literal["mse", "margin_mse", "kl", "ranknet"] = "mse"
    #: Subtract the mean of the teacher's two logits (the original code does so in phase 2 only).
    centre: bool = True
    #: Of AdamW, at its peak.
    learning_rate: Annotated[float, Above(0, 1)] = 7e-5
    #: Steps in which the learning rate rises to its peak.
    warmup_steps: Count = 20_000
    #: Pairs in one optimiser step of all processes together (for losses over a query: whole queries of about as many).
    batch_size: Annotated[int, Range(1, 1_000_000)] = 32
    #: iid: every batch is a random one, as in the paper. grouped: of prompts of about one length, half the time on a CPU.
    batching: Literal["iid", "grouped"] = "iid"
    #: How often each pair is seen.
    epochs: Positive = 1
    #: Ends earlier than `epochs` when positive.
    max_steps: Count = 0
    #: Of AdamW.
    weight_decay: Annotated[float, Range(0, 10)] = 0.0
    #: Of AdamW: how slowly its second moments forget.
    adam_beta2: Annotated[float, Below(0, 1)] = 0.999
    #: Gradients are scaled down to this norm; 0 leaves them as they are.
    max_grad_norm: Amount = 1.0
    #: Share of the peak learning rate that is left at the last step.
    final_learning_rate: Share = 0.0
    #: -1 keeps the checkpoint's own (T5: 0.1).
    dropout: Annotated[float, Below(0, 1, also=(-1,))] = -1.0
    #: Tokens of the whole prompt. The passage is cut to it.
    max_length: Length = 512
    #: document: the passage is cut so that ` Relevant:` survives. reference: as the original does; see `append_eos`.
    truncation: Literal["document", "reference"] = "document"
    #: End prompts with `</s>`, as scoring does. The original trains without it: with `truncation: reference`, its ids.
    append_eos: bool = True
    #: The answer for a relevant passage, as a piece of the vocabulary.
    true_token: Annotated[str, Text(empty=False, most=100)] = "▁true"
    #: The answer for a passage that is not relevant.
    false_token: Annotated[str, Text(empty=False, most=100)] = "▁false"
    #: bfloat16: autocast; bfloat16-weights: weights too, with fp32 masters that the optimiser moves (faster, a little
    #: coarser); auto: bfloat16 where the device computes in it, else float32.
    precision: Literal["auto", "float32", "bfloat16", "bfloat16-weights"] = "auto"
    #: Padded tokens that are in memory at once; larger batches are summed up in parts. 0 picks a value for the device.
    micro_batch_tokens: Annotated[int, Range(0, _MOST), NO_RESULT] = 0
    #: Compute encoder layers again in the backward pass instead of keeping them: less memory, a third more time.
    gradient_checkpointing: Annotated[bool, NO_RESULT] = False
    #: Processes that share each batch; 0: one for each GPU of this machine.
    processes: Annotated[int, Range(0, 1024), NO_RESULT] = 0
    #: Share of the queries held out, split by query, to choose the best checkpoint.
    holdout: Annotated[float, Below(0, 1)] = 0.02
    #: Held-out queries at most.
    holdout_max_queries: Count = 1_000
    #: Steps between looks at the held-out queries; 0 is ten looks in all.
    evaluate_every: Count = 0
    #: Steps between resumable checkpoints; 0 is with each look.
    save_every: Annotated[int, Range(0, _MOST), NO_RESULT] = 0
    #: Seed of the order of the pairs, of dropout, and of the queries that are held out.
    seed: Count = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured, on the test queries of every collection."""

    #: ir_measures names; the first is the headline.
    measures: tuple[Annotated[str, Text(empty=False, most=100)], ...] = ("nDCG@10", "RR@10", "R@100")
    #: Score with the teacher too (dear with a 3B teacher).
    teacher: bool = True
    #: BEIR's quirk: drop doc_id == query_id (arguana, quora).
    drop_self: bool = True
    #: Words of one passage of a long document, whose best passage is its score; 0 cuts documents at `max_length`. A version
    #: is served by the passages that it was measured by.
    passage_words: Count = 0
    #: Words from one passage's start to the next one's; 0 is half a passage.
    passage_stride: Count = 0
    #: Queries whose reranking of 100 passages is timed for each model, a minute at most; 0 measures no latency.
    latency_queries: Count = 20
    #: A training query that shares this much of its letters (Jaccard of 4-grams) with a test query is a leak. 0.9: a
    #: letter more in a query of thirty; 1: equal queries alone.
    leak_similarity: Annotated[float, Range(0.5, 1)] = 0.9
    #: How students and champion are computed (dtype, forward, batch_tokens). How they read, their own folder says; what a
    #: folder does not say is taken from here.
    scoring: ScoringConfig = ScoringConfig()


@dataclass(frozen=True)
class PromoteConfig:
    """Policy of the gate (`gate.decide`) and where the model is registered."""

    #: Name of the registered model.
    model_name: ModelName = "inranker"
    #: The measure that decides: one of `evaluation.measures`.
    measure: Annotated[str, Text(empty=False, most=100)] = "nDCG@10"
    #: Mean gain over the champion (or over BM25, for a first model) that a challenger must show.
    min_gain: Gain = 0.0
    #: The gain must be significant at this level (paired randomisation over all test queries, one-sided): a model that
    #: is no better is promoted at most this often. 1 asks for no significance.
    alpha: Annotated[float, Above(0, 1)] = 0.05
    #: No dataset may be worse than the champion (or BM25) by more than this.
    max_loss: Gain = 0.01
    #: Fewer test queries than this on a dataset prove nothing.
    min_queries: Count = 20
    #: Test queries that may be among the training queries.
    max_leaks: Count = 0
    #: The 95th percentile of the time to rerank 100 passages, as measured in the run; 0 is no budget.
    latency_budget_ms: Amount = 0.0
    #: Size of the model's files; 0 is no budget.
    size_budget_mb: Amount = 0.0


@dataclass(frozen=True)
class Toleration:
    """What lets a pod onto a tainted node (Kubernetes' own fields, in Kubernetes' spelling)."""

    #: The taint's key.
    key: Annotated[str, Text(_LABEL, "is no name that Kubernetes takes (nvidia.com/gpu)", most=300)]
    #: Exists: whatever the taint's value is. Equal: the one in `value`.
    operator: Literal["Exists", "Equal"] = "Exists"
    #: The taint's effect.
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    #: The taint's value.
    value: LabelValue = ""


#: CPUs as Kubernetes writes them.
Cpus = Annotated[
    str,
    Text(
        r"(?!0*(\.0*)?m?$)([0-9]{1,4}(\.[0-9]{1,3})?|[0-9]{1,7}m)", "is no number of CPUs (2, 0.5, 500m)", numbers=True
    ),
]


@dataclass(frozen=True)
class Resources:
    """What a task asks of its node, and may not exceed; empty: the table in `placement.py` says it."""

    #: CPUs: 2, 0.5, 500m.
    cpu: Cpus = ""
    #: Memory: 512Mi, 64Gi.
    memory: Annotated[str, Text(r"[1-9][0-9]{0,8}(\.[0-9]{1,3})?([MGT]i?)", "is no amount of memory (512Mi, 64Gi)")] = (
        ""
    )


StageOrDefault = Literal[
    "default", "preflight", "discover", "prepare_corpus", "retrieve", "teacher_label", "help_label", "generate_queries",
    "help_generate", "distill_phase1", "distill_phase2", "evaluate", "promote", "notify",
]  # fmt: skip


@dataclass(frozen=True)
class ClusterConfig:
    """Where stages run on a cluster, and with what; a local run ignores it."""

    #: Resource name of the accelerator.
    gpu_type: LabelName = "nvidia.com/gpu"
    #: GPUs of one task (0: the stage computes on the CPU, for a cluster without GPUs).
    gpus: Annotated[int, Range(0, 1024)] = 1
    #: GPUs of one node of the pool: a task that asks for more would wait for ever.
    node_gpus: Annotated[int, Range(0, 1024)] = 8
    #: Labels of the pool's nodes (this one is set by NVIDIA's GPU feature discovery).
    gpu_pool: dict[LabelName, LabelValue] = field(default_factory=lambda: {"nvidia.com/gpu.present": "true"})
    #: Taints of the pool that its tasks bear.
    gpu_tolerations: tuple[Toleration, ...] = (Toleration("nvidia.com/gpu"),)
    #: Which GPUs the pool has: for `make plan` alone.
    gpu_model: str = "A100"
    #: Price of one GPU for an hour in any currency, for `make plan` alone; 0: not known.
    gpu_hour_price: Amount = 0.0
    #: CPU and memory of a stage's tasks, by its name, or of all the others (``default``).
    resources: dict[StageOrDefault, Resources] = field(default_factory=dict)
    #: Pods that label for one collection, and that write queries for one, at a time (they share INRANKER_STORE).
    workers: Annotated[int, Range(1, 64)] = 1
    #: Machines of one training, by Kubeflow Trainer, each with ``gpus``; 1: the stage's own pod trains.
    nodes: Annotated[int, Range(1, 64)] = 1
    #: Argo tries whatever errs again, on each level (KFP's manifests say so); without, more targets fit into one run.
    retries: bool = True


def parse(kind: type[T], data: Any, where: str) -> T:
    """Build dataclass ``kind`` from nested plain data; ``where`` prefixes the key in errors (``phase1``)."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a section with keys, got {quoted(data)}")
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind, include_extras=True)
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1) if isinstance(key, str) and len(key) < 100 else []
            hint = f"; did you mean {close[0]!r}?" if close else f"; it knows: {', '.join(fields)}"
            raise UserError(f"{where}.{shown(key)}: unknown key{hint}")
    for name, known in fields.items():
        missing = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if missing and name not in data:
            raise UserError(f"{where}.{name}: missing; this key has no default")
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast("type[Any]", hint), value, where)
    origin = get_origin(hint)
    if origin is Annotated:
        kind, *marks = get_args(hint)
        rule = next((mark for mark in marks if isinstance(mark, Range | Text)), None)
        if rule is None:
            return _value(kind, value, where)
        if getattr(rule, "numbers", False) and type(value) in (int, float) and abs(value) < 1e6:
            value = f"{value:g}"
        return _checked(rule, _plain(kind, value, where), where)
    if origin is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise UserError(f"{where}: {quoted(value)} is not one of {', '.join(map(repr, get_args(hint)))}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {quoted(value)}")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{where}: expected names with values, got {quoted(value)}")
        names, values = get_args(hint)
        return {_value(names, key, where): _value(values, item, f"{where}.{shown(key)}") for key, item in value.items()}
    if origin in (types.UnionType, typing.Union):
        raise TypeError(f"{where}: union types are not supported in configuration classes")
    plain = _plain(hint, value, where)
    return _checked(_WORDS, plain, where) if hint is str else plain


#: The rule of a text that has none of its own.
_WORDS = Text()


def _checked(rule: Range | Text, value: Any, where: str) -> Any:
    """``value``, where ``rule`` has nothing against it."""
    problem = rule.problem(value)
    if problem:
        # Who gave a password does not want to see it again.
        secret = problem == _NO_CREDENTIALS or problem.startswith(_LONG) or (isinstance(rule, Text) and rule.secret)
        told = "" if secret or value == "" else f"{quoted(value)} "
        raise UserError(f"{where}: {told}{problem}")
    return value


def _plain(hint: Any, value: Any, where: str) -> Any:
    """``value`` as one of the types that JSON has."""
    if hint is bool and isinstance(value, bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        # isfinite() of an integer beyond the floats raises.
        if hint is int and (isinstance(value, int) or (math.isfinite(value) and value == int(value))):
            return int(value)
        if hint is float and isinstance(value, int):
            return float(max(-_HUGE, min(_HUGE, value)))
        if hint is float and math.isfinite(value):
            return float(value)
    if hint is float and isinstance(value, str) and len(value) < 100:
        try:  # YAML 1.1 reads 7e-5 as a string
            number = float(value)
        except ValueError:
            pass
        else:
            return _plain(float, number, where)
    if hint is str and isinstance(value, str):
        return value
    if hint is Any:
        return _anything(value, where)
    if value is None:
        raise UserError(f"{where}: has no value; give one, or leave the key out")
    raise UserError(
        f"{where}: expected {getattr(hint, '__name__', hint)}, got {quoted(value)} ({type(value).__name__})"
    )


#: Beyond every limit.
_HUGE = 10**300


def _anything(value: Any, where: str) -> Any:
    """Whatever JSON can say, and a whole number as such."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _anything(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_anything(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value == int(value) else value
    if value is None or isinstance(value, str | bool | int):
        return value
    raise UserError(f"{where}: {value!r} ({type(value).__name__}) is nothing that JSON can say")


def deciding(config: Any) -> dict[str, Any]:
    """As :func:`as_dict`, without the settings that change no result (`NO_RESULT`): what a key is made of."""
    hints = get_type_hints(type(config), include_extras=True)
    return {
        each.name: deciding(value) if dataclasses.is_dataclass(value) else as_plain(value)
        for each in dataclasses.fields(config)
        if NO_RESULT not in get_args(hints[each.name])
        for value in [getattr(config, each.name)]
    }


def without_defaults(config: Any) -> dict[str, Any]:
    """As :func:`as_dict`, without what :func:`parse` would add by itself: KFP repeats a section in every task that takes it."""
    return {
        each.name: without_defaults(value) if dataclasses.is_dataclass(value) else as_plain(value)
        for each in dataclasses.fields(config)
        if (value := getattr(config, each.name)) != _default(each)
    }


def _default(known: dataclasses.Field[Any]) -> Any:
    return known.default if known.default_factory is dataclasses.MISSING else known.default_factory()


def as_plain(value: Any) -> Any:
    """A value, a section or several sections as data for JSON."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def as_dict(config: Any) -> dict[str, Any]:
    """Plain nested data of a configuration object (lists, no tuples), ready for JSON, KFP and :func:`parse`."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain
