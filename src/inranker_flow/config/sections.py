"""One frozen dataclass for each section of a profile: what can be set, by which rule, and what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from inranker_flow.config.language_model import JudgeConfig, LanguageModelConfig
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.rules import NO_RESULT, Above, Below, Range, Text
from inranker_flow.config.server import ServerConfig
from inranker_flow.config.values import (
    MOST,
    Amount,
    Count,
    EvidenceName,
    FieldName,
    FirstStageName,
    Gain,
    Language,
    Length,
    ModelName,
    Positive,
    Prompt,
    Required,
    Share,
    Split,
    Token,
    VariantName,
)

#: Settings of a collection that earlier versions did not have.
_LATER = (
    "text_fields", "query_fields", "language", "log", "log_queries", "fields", "passage_tokens", "passage_overlap",
    "runs",
)  # fmt: skip


@dataclass(frozen=True)
class CorpusConfig:
    """A collection to train on or to adapt to, and how it is read."""

    #: Where it is: folder or s3:// in BEIR layout or with documents as they are (.md, .html, .txt, .pdf, .docx), a table
    #: (CSV, TSV, JSON lines, Parquet), ``hf://datasets/OWNER/NAME``, ``ir_datasets:ID``, ``inranker-beir:FILE`` (published
    #: soft labels with their texts) or ``demo:source/SEED`` / ``demo:target/SEED``.
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
    #: Training queries of a target: synthetic ones, those that its people asked (the ones in its queries that nobody judged,
    #: or `log`), or both. Near copies of its test queries are left out, as everywhere.
    queries: Literal["synthetic", "log", "both"] = "synthetic"
    #: A file of queries that were asked, with or without counts: one query a line (.txt), or columns `query` and `count` in
    #: .csv, .tsv, .jsonl or .parquet. Equal queries are one, their counts summed up.
    log: str = ""
    #: Queries of the log at most, drawn by how often each was asked; 0: all.
    log_queries: Count = 0
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
    #: Columns of a table by what they are (``id``, ``title``, ``text``; ``document`` where rows are passages): a name, or a
    #: template: ``{id: sku, text: "{name}. {description} {brand}"}``. Of JSON, ``a.b`` is the field b of the object a.
    fields: dict[FieldName, str] = field(default_factory=dict)
    #: Longer documents become passages, at their headings and then between sentences. Tokens are words here (those of
    #: `words.py`; a model's own are about a third more). 0: files of text are cut at 250, rows of tables not at all.
    passage_tokens: Count = 0
    #: Tokens at the end of a passage with which the next one of the same section begins again, in whole sentences;
    #: of one that is longer than a passage, in parts.
    passage_overlap: Count = 0
    #: Run files, for `retrieval.first_stage: run`: what another system found for its test and training queries. TREC's form
    #: (query Q0 document rank score name) or Parquet (query_id, doc_id, score); names below the collection's folder, or
    #: addresses.
    runs: tuple[str, ...] = ()
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
        unused = {key for key in _LATER if not getattr(self, key)}
        unused |= {"queries"} if self.queries == "synthetic" else set()
        unused |= {"refused", "again"}
        data = {**as_dict(self), "licence": "", "earlier": "", **({"uri": ""} if self.fingerprint else {})}
        return {key: value for key, value in data.items() if key not in unused}


@dataclass(frozen=True)
class CorporaConfig:
    """The corpora of `retrain`: their place, the sign that one is complete, and the fate of a target that is refused."""

    #: Folder or s3:// prefix with one folder for each corpus, in any layout that is read, perhaps with a corpus.yaml.
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
    #: Days after which an unchanged champion, or a schedule that has not ended well, is an alarm in the message of each run of
    #: `retrain`; 0: never.
    alarm_days: Annotated[int, Range(0, 3650), NO_RESULT] = 0


@dataclass(frozen=True)
class PrepareConfig:
    """Reading and checking of collections."""

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
class ScoringConfig:
    """Scoring of pairs by a reranker, in labelling and in evaluation."""

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
    batch_tokens: Annotated[int, Range(0, MOST), NO_RESULT] = 0
    #: auto: bfloat16 on a GPU that computes in it, float32 on any CPU, so that a result does not depend on the kind of CPU.
    #: int8: a monoT5's encoder in 8 bits, on CPUs. What bfloat16 or int8 costs in exactness on a CPU is measured on the job's
    #: own pairs before it begins, and said.
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    #: fast: T5's label logits in closed form (other models take the plain one). reference: the plain `transformers` forward.
    forward: Literal["fast", "reference"] = "fast"
    #: Let torch.compile fuse the fast forward's kernels, on a GPU (a minute at the start).
    compile: bool = False


@dataclass(frozen=True)
class Teacher:
    """One large reranker."""

    #: Folder, s3://, hub id, ``demo:teacher`` or ``init:...`` (a small random T5, for trying the plumbing). server: the name of
    #: the served model.
    checkpoint: Required
    #: Hub revision, or the content digest of a local folder (filled in at submission). server: any text that changes when
    #: another model is served by the same name; its labels are then new ones.
    revision: str = ""
    #: local: the stage loads it. server: it is asked at `server.endpoint`, with one score for each pair.
    backend: Literal["local", "server"] = "local"
    scoring: ScoringConfig = ScoringConfig()
    server: ServerConfig = field(default_factory=ServerConfig)


@dataclass(frozen=True)
class TeacherConfig(Teacher):
    """The large reranker whose logits are the soft labels, or several."""

    #: More teachers, each with `checkpoint`, `revision`, `backend`, `scoring` and `server` of its own. Each labels the pairs,
    #: and its scores (true_logit - false_logit) are standardised on the pairs of the data set. Their mean, times the mean of
    #: the standard deviations, is the label.
    also: tuple[Teacher, ...] = ()
    #: Pairs in one shard; a finished shard survives a kill.
    shard_pairs: Annotated[int, Range(1, MOST), NO_RESULT] = 50_000
    #: Of the synthetic queries of a collection only the so many are kept whose source document the teacher finds most
    #: relevant (InPars-v2: 10,000). 0 keeps all.
    keep_queries: Count = 0
    #: Processes that share the pairs; 0: one for each GPU of this machine, or one that uses all CPUs. Several on CPUs share
    #: the CPUs out among them, and each holds the model.
    processes: Annotated[int, Range(0, 1024), NO_RESULT] = 0

    @property
    def all(self) -> tuple[Teacher, ...]:
        return (self, *self.also)

    @property
    def named(self) -> dict[str, Teacher]:
        """All teachers by the key of their section."""
        return {"teacher": self, **{f"teacher.also[{number}]": each for number, each in enumerate(self.also)}}


@dataclass(frozen=True)
class GenerateConfig(LanguageModelConfig):
    """Synthetic queries (InPars, arXiv 2202.05144). Every backend but crop needs a `checkpoint`."""

    section = "generation"

    #: transformers: on this machine. vllm: the same, as an offline batch with vLLM (an environment of its own). openai:
    #: a server with OpenAI's API at `endpoint`, where `checkpoint` is the name of the served model. crop: no model; a part
    #: of the document is its query (TWOLAR, arXiv 2403.17759).
    backend: Literal["transformers", "vllm", "openai", "crop"] = "transformers"
    #: crop: a sentence of the document, drawn at random; or a span of 4 to 16 words, at most half of it. A document of one
    #: sentence gives a span either way.
    crop: Literal["sentence", "span"] = "sentence"
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
    #: Queries of a target that train nobody (filled in from `evaluation.synthetic_queries`).
    held_out: Count = 0
    #: Which targets have some (filled in from `evaluation.synthetic_for`).
    held_out_for: Literal["unjudged", "all"] = "unjudged"

    @property
    def writer(self) -> str:
        """What the queries are by: a checkpoint, or the backend that does without."""
        return "crop" if self.backend == "crop" else self.checkpoint


@dataclass(frozen=True)
class DistillConfig:
    """One phase of distillation; the defaults are the official trainer's (InRanker, ``training/trainer.py``)."""

    #: Where the student starts: checkpoint reference (see TeacherConfig); empty in phase 2, which starts from phase 1. A T5
    #: (monoT5), an encoder (BERT, MiniLM, RoBERTa, DeBERTa, ELECTRA, ModernBERT; with a reranker's head or without one), or
    #: a causal language model.
    checkpoint: str = ""
    #: Hub revision, or the content digest of a local folder (filled in at submission).
    revision: str = ""
    #: Start from so many of the checkpoint's layers, at equal distances (3), or from those named ([0, 2, 5]); 0 is always
    #: one of them. Empty: all.
    layers: tuple[Count, ...] = ()
    #: phase 2 goes on from the student of phase 1, or from the serving champion where there is one.
    start: Literal["phase1", "champion"] = "phase1"
    #: Pairs of the source that phase 2 sees again, for each pair of the targets: without any (as in the paper) it forgets
    #: some of the source.
    replay: Annotated[float, Range(0, 1000)] = 0.0
    #: phase 2: mean or slerp train one student for each target, from the same start, and merge their weights
    #: (arXiv 2203.05482, 2606.19037); none trains one on all targets.
    merge: Literal["none", "mean", "slerp"] = "none"
    #: On the teacher's labels: mse (on the two logits, the paper's), margin_mse, kl or ranknet (over the documents of a query;
    #: free of a teacher's level, which mse makes the student learn; see `standardise`). On judgements: ce (each pair, as monoT5
    #: is fine-tuned) or lce (a relevant passage among those of its query), alone or as a second term: mse+ce.
    loss: Annotated[
        str,
        Text(
            r"(mse|margin_mse|kl|ranknet)(\+(ce|lce))?|ce|lce",
            "is none of mse, margin_mse, kl and ranknet, with +ce or +lce where judgements count too, or ce or lce alone",
            empty=False,
        ),
    ] = "mse"
    #: Weight of the second term.
    judged_weight: Amount = 1.0
    #: Subtract the mean of the teacher's two logits (the original code does so in phase 2 only).
    centre: bool = True
    #: dataset: the teacher's scores (true_logit - false_logit) of each training set get mean 0, and all sets one spread. The
    #: level of a teacher with one logit (an encoder, a server) moves between corpora.
    standardise: Literal["none", "dataset"] = "none"
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
    #: Of the learning rate, a layer has this share of what the layer above it has (arXiv 1801.06146); 1: all learn alike, as
    #: in the paper. ELECTRA's authors take 0.8 to 0.9 (arXiv 2003.10555).
    layer_decay: Annotated[float, Above(0, 1)] = 1.0
    #: Leave the embeddings of tokens as they are: fewer weights to move, and words that the labels lack stay what they were.
    freeze_embeddings: bool = False
    #: Of a causal student: train adapters of this rank beside its linear layers instead of the layers (LoRA, arXiv
    #: 2106.09685), and merge them into them at the end; peft's own default is 8. 0: train the model whole. LoRA's authors
    #: take a learning rate of 2e-4.
    lora_rank: Annotated[int, Range(0, 4096)] = 0
    #: What an adapter adds counts `lora_alpha` / `lora_rank` times; 0: twice the rank. (peft's own default, 8 at rank 8, is
    #: once; LoRA's authors took once to 8 times.)
    lora_alpha: Amount = 0.0
    #: Dropout before each adapter (peft: 0; LoRA's authors: 0 to 0.1). `dropout` is the model's own.
    lora_dropout: Annotated[float, Below(0, 1)] = 0.0
    #: -1 keeps the checkpoint's own (T5, BERT: 0.1; ModernBERT, Qwen3: 0).
    dropout: Annotated[float, Below(0, 1, also=(-1,))] = -1.0
    #: Tokens of the whole prompt. The passage is cut to it.
    max_length: Length = 512
    #: document: the passage is cut so that ` Relevant:` survives. reference: as the original does; see `append_eos` (T5).
    truncation: Literal["document", "reference"] = "document"
    #: End prompts with `</s>`, as scoring does. The original trains without it: with `truncation: reference`, its ids (T5).
    append_eos: bool = True
    #: The answer for a relevant passage, as a piece of the vocabulary. Empty: ▁true for a T5, that of the prompt for a causal
    #: model. An encoder with two labels: the name of the one that says relevant; empty: what its config.json says.
    true_token: Token = ""
    #: The answer for a passage that is not relevant.
    false_token: Token = ""
    #: A causal student's template: one of ``rankers/templates`` by name, a path, or the text itself. Empty: that of the
    #: checkpoint's family, otherwise `plain`.
    prompt: Prompt = ""
    #: The text that the template puts at ``{instruction}``; empty: that of `ScoringConfig`.
    instruction: Prompt = ""
    #: bfloat16: autocast; bfloat16-weights: weights too, with fp32 masters that the optimiser moves (faster, a little
    #: coarser); auto: bfloat16 where the device computes in it, else float32.
    precision: Literal["auto", "float32", "bfloat16", "bfloat16-weights"] = "auto"
    #: Padded tokens that are in memory at once; larger batches are summed up in parts. 0 picks a value for the device.
    micro_batch_tokens: Annotated[int, Range(0, MOST), NO_RESULT] = 0
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
    save_every: Annotated[int, Range(0, MOST), NO_RESULT] = 0
    #: Seed of the order of the pairs, of dropout, of new weights, and of the queries that are held out.
    seed: Count = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """The measurement on the test queries of every collection."""

    #: ir_measures names; the first is the headline.
    measures: tuple[Annotated[str, Text(empty=False, most=100)], ...] = ("nDCG@10", "RR@10", "R@100")
    #: Score with the teacher too (dear with a 3B teacher).
    teacher: bool = True
    #: Where documents were cut into passages (`passage_tokens` of a collection): count passages, or documents by their best
    #: passage among the candidates. Judgements that name documents are counted by document in any case.
    by: Literal["passage", "document"] = "passage"
    #: BEIR's quirk: drop doc_id == query_id (arguana, quora).
    drop_self: bool = True
    #: Queries of a target that are held out: they measure and train nobody. Synthetic ones know the passage that they were
    #: written for; with the teacher's scores they say how well a student agrees with it. 0: none.
    synthetic_queries: Count = 200
    #: unjudged: for targets without judged test queries; all: for every target.
    synthetic_for: Literal["unjudged", "all"] = "unjudged"
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
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    #: Pairs in one shard of a model's scoring; a finished shard survives a kill.
    shard_pairs: Annotated[int, Range(1, MOST), NO_RESULT] = 50_000
    #: Processes that share the pairs of each model in turn; 0: one for each GPU of this machine, or one that uses all CPUs.
    processes: Annotated[int, Range(0, 1024), NO_RESULT] = 0


@dataclass(frozen=True)
class PromoteConfig:
    """Policy of the gate (`gate.decide`) and where the model is registered."""

    #: Name of the registered model.
    model_name: ModelName = "inranker"
    #: The measure that decides: one of `evaluation.measures`.
    measure: Annotated[str, Text(empty=False, most=100)] = "nDCG@10"
    #: On whose candidates it is asked: one of the first stages that are measured side by side (`retrieval.also`); empty:
    #: `retrieval.first_stage`.
    candidates: Literal["", FirstStageName] = ""
    #: Kinds of evidence that may show a gain, for each data set the most trusted that it has: human (judgements), then judge,
    #: then known_item and agreement (`evaluation/unjudged.py`), neither of which may speak against it. Judgements may refuse in
    #: any case. Empty: all that is measured.
    evidence: tuple[EvidenceName, ...] = ()
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
    #: A run of which a target was left out (`corpora.refused`): decide on the others, or promote nothing.
    left_out: Literal["decide", "hold"] = "decide"
    #: The 95th percentile of the time to rerank 100 passages, as measured in the run; 0 is no budget.
    latency_budget_ms: Amount = 0.0
    #: Size of the model's files; 0 is no budget.
    size_budget_mb: Amount = 0.0
    #: The variant that will serve, whose latency on all CPUs and size the two budgets are about; empty: the checkpoint.
    variant: Literal["", VariantName] = ""
