"""What a run will take before it is started: documents, queries, pairs, tokens, device hours and stored bytes, by stage.

Counts come from :mod:`.counting`, speeds from :mod:`.speed`; this is the arithmetic between them. It knows nothing of what
is there already: labels, queries and results that a run reuses make it cheaper than its plan. :mod:`.reality` holds the plan
against what was done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config.sections import CorpusConfig, DistillConfig, ScoringConfig, Teacher
from inranker_flow.generation import held_out, prompts
from inranker_flow.planning import judge, models
from inranker_flow.planning.counting import CHARACTERS, Counted, count
from inranker_flow.planning.plans import Plan, Row
from inranker_flow.planning.speed import Sample, Speed, Work
from inranker_flow.rankers.checkpoints import DEMO

if TYPE_CHECKING:
    from inranker_flow.settings.profile import Profile


#: Tokens of a generated query where nothing is known of it.
NEW_TOKENS = 12
#: Bytes of a stored character (zstd), of a pair to label, of a label with its pair, of a row of a run (and of run.trec).
STORED_CHARACTER, STORED_PAIR, STORED_LABEL, STORED_HIT = 0.45, 8, 24, 48
#: Until a task that computes with a model has imported and loaded it; assumed.
START_SECONDS = 10
#: Of queries that are parts of documents: no model is in the way.
_CROPPING = Speed(math.inf, "")

#: Each teacher with its speed.
Teachers = Sequence[tuple[Teacher, Speed | None]]
#: (work, the checkpoint's section, what it is measured with) -> its speed.
Speeds = Callable[[Work, Any, Sample], Speed]


def make_plan(profile: Profile, device: str, price: float, speeds: Speeds) -> Plan:
    """Count, ask for the speeds, multiply. Raises :class:`UserError` where a collection cannot be counted."""
    source = count(profile.source, profile.corpus)
    targets = [(count(each, profile.corpus), each) for each in profile.targets]
    return _Planner(profile, speeds, device, price).plan(source, targets)


class _Planner:
    """One plan in the making: rows and notes are gathered."""

    def __init__(self, profile: Profile, speeds: Speeds, device: str, price: float) -> None:
        self.profile, self.speeds = profile, speeds
        cluster = profile.cluster
        self.workers = cluster.workers
        self.held_out: dict[str, int] = {}
        self.out = Plan(device, price, [], [], cluster.workers, max(cluster.gpus, 1))
        self.tokens = _Tokens(self.out.notes)

    def plan(self, source: Counted, targets: Sequence[tuple[Counted, CorpusConfig]]) -> Plan:
        every = [source, *(counted for counted, _ in targets)]
        for counted in every:
            self.out.notes.extend(counted.notes)
        phase1, generation = self.profile.phase1, self.profile.generation
        teachers = [(each, self._teacher(each, every)) for each in self.profile.teacher.all]
        student = self._sample(every, phase1.checkpoint, models.reading_of(phase1, phase1.checkpoint))
        train = self._ask("train", phase1, student)
        write = Speed(0.0, "")
        if generation.backend == "crop":
            write = _CROPPING
        elif targets and not all(counted.published for counted, _ in targets):
            write = self._ask("generate", generation, self._generating(every))

        encoder = self.profile.retrieval.encoder
        self.embed = self._ask("embed", encoder, self._embedding(every)) if encoder else None
        source_pairs = self._source(source, teachers)
        target_pairs = sum(self._target(counted, corpus, teachers, write) for counted, corpus in targets)
        self._distill("distill_phase1", self.profile.phase1, source_pairs, student, train)
        again = min(self.profile.phase2.replay * target_pairs, source_pairs)
        self._distill("distill_phase2", self.profile.phase2, round(target_pairs + again), student, train)
        self._evaluate(every, teachers, train, student)
        if self.profile.evaluation.judge.checkpoint:
            self._judge(every)
        return self.out

    def _ask(self, work: Work, section: Any, sample: Sample) -> Speed:
        speed = self.speeds(work, section, sample)
        self.out.notes.append(f"{work}: {speed.how}")
        return speed

    def _add(self, collection: str, stage: str, **numbers: Any) -> None:
        self.out.rows.append(Row(collection, stage, **numbers))

    # --- lengths

    def _sample(self, every: Sequence[Counted], checkpoint: str, scoring: ScoringConfig) -> Sample:
        """Return texts of all collections, and the tokens of a prompt in the mean over the pairs that will be made."""
        prompts = [self._prompt(each, checkpoint, scoring) for each in every]
        weights = [max(each.documents, 1) for each in every]
        queries = [text for each in every for text in each.queries] or [_words(self._mean(every, "query_characters"))]
        passages = [text for each in every for text in each.passages]
        passages = passages or [_words(self._mean(every, "passage_characters"), first) for first in range(64)]
        return Sample(queries, passages, float(np.average(prompts, weights=weights)), NEW_TOKENS)

    @staticmethod
    def _mean(every: Sequence[Counted], key: str) -> float:
        return float(np.mean([getattr(each, key) for each in every]))

    def _prompt(self, counted: Counted, checkpoint: str, scoring: ScoringConfig) -> float:
        """Return tokens of a prompt of this collection in the mean, cut at `max_length`."""
        tokens = self.tokens.of(checkpoint, counted)
        fixed = counted.query_characters / tokens.query + models.around(
            checkpoint, scoring, self.tokens.tokenizer(checkpoint)
        )
        lengths = [float(len(text)) for text in counted.passages] or [counted.passage_characters]
        return float(np.minimum(np.array(lengths) / tokens.passage + fixed, scoring.max_length).mean())

    def _generating(self, every: Sequence[Counted]) -> Sample:

        config = self.profile.generation
        template = len(prompts.load(config.prompt).text)
        lengths = []
        for counted in every:
            each = self.tokens.of(config.checkpoint, counted).passage
            lengths.append(template / each + min(counted.passage_characters / each, config.max_document_tokens))
        sample = self._sample(every, config.checkpoint, ScoringConfig())
        new = min(NEW_TOKENS, config.max_new_tokens)
        return Sample(sample.queries, sample.passages, float(np.mean(lengths)), new)

    # --- stages

    def _prepared(self, counted: Counted) -> None:
        texts = counted.documents * counted.passage_characters
        queries = (counted.train_queries + counted.test_queries) * counted.query_characters
        stored = round((texts + queries) * STORED_CHARACTER) + counted.published * STORED_LABEL
        asked = counted.train_queries + counted.test_queries
        self._add(counted.name, "prepare_corpus", documents=counted.documents, queries=asked, stored=stored)

    def _source(self, source: Counted, teachers: Teachers) -> int:
        """Write rows of the source; return its labelled pairs."""
        self._prepared(source)
        queries = 0 if source.published else source.train_queries
        pairs = 0 if source.published else source.positives + queries * self.profile.retrieval.wanted
        self._retrieved(source, queries, pairs)
        self._labelled(source, queries, pairs, teachers)
        return pairs or source.published

    def _target(self, counted: Counted, corpus: CorpusConfig, teachers: Teachers, write: Speed) -> int:
        self._prepared(counted)
        config = self.profile.generation
        documents = min(counted.documents, corpus.documents or config.documents)
        synthetic = counted.published == 0 and corpus.queries != "log"
        written = documents * config.queries_per_document if synthetic else 0
        if written:
            tokens = 0.0
            if config.backend != "crop":
                sample = self._generating([counted])
                tokens = documents * sample.prompt_tokens + written * (write.tokens or sample.new_tokens)
            self._add(
                counted.name, "generate_queries", documents=documents, queries=written, tokens=round(tokens),
                hours=_hours(written, write, self.workers), stored=round(written * counted.query_characters * STORED_CHARACTER),
            )  # fmt: skip
        queries = written + counted.logged
        queries -= self._hold_out(counted, queries)
        pairs = queries * (1 + self.profile.retrieval.wanted)
        self._retrieved(counted, queries, pairs)
        self._labelled(counted, queries, pairs, teachers)
        return pairs or counted.published

    def _hold_out(self, counted: Counted, queries: int) -> int:
        """Return how many of a target's ``queries`` are held out of the training, and keep it."""
        config = self.profile.generation
        if not counted.published and (config.held_out_for == "all" or not counted.test_queries):
            self.held_out[counted.name] = min(config.held_out, queries // held_out.OF)
        return self.held_out.get(counted.name, 0)

    def _measured(self, counted: Counted) -> int:
        """Return the queries that a collection is measured by."""
        return counted.test_queries + self.held_out.get(counted.name, 0)

    def _retrieved(self, counted: Counted, queries: int, pairs: int) -> None:
        found = self._measured(counted) * self.profile.retrieval.test_depth
        texts = round(queries * counted.query_characters * STORED_CHARACTER)
        stored = pairs * STORED_PAIR + found * STORED_HIT + texts
        asked = queries + self._measured(counted)
        tokens = 0
        hours: float | None = 0.0
        if encoder := self.profile.retrieval.encoder:
            assert self.embed
            tokens = round(
                counted.documents * self._vector_tokens(counted) + asked * counted.query_characters / CHARACTERS
            )
            hours = _hours(tokens, self.embed)
            stored += counted.documents * 4 * models.dimensions(encoder.checkpoint)
        self._add(
            counted.name, "retrieve", documents=counted.documents if tokens else 0, queries=asked, pairs=pairs,
            tokens=tokens, hours=hours, stored=stored,
        )  # fmt: skip

    def _vector_tokens(self, counted: Counted) -> float:
        """Return tokens of a passage of this collection in the mean, as the bi-encoder reads it."""
        encoder = self.profile.retrieval.dense
        lengths = np.array([float(len(text)) for text in counted.passages] or [counted.passage_characters])
        tokens = lengths / self.tokens.of(encoder.checkpoint, counted).passage + 2
        return float(np.minimum(tokens, encoder.max_length or ScoringConfig.max_length).mean())

    def _embedding(self, every: Sequence[Counted]) -> Sample:
        passages = [text for each in every for text in each.passages]
        return Sample([], passages, float(np.mean([self._vector_tokens(each) for each in every])), 0.0)

    def _labelled(self, counted: Counted, queries: int, pairs: int, teachers: Teachers) -> None:
        tokens, hours = self._scored([(counted, pairs)], teachers, self.workers)
        labels = pairs or counted.published
        # The passages travel with their labels, each once.
        texts = min(labels, counted.documents) * counted.passage_characters * STORED_CHARACTER
        self._add(
            counted.name, "teacher_label", queries=queries, pairs=pairs, tokens=round(tokens),
            hours=hours, stored=round(texts) + labels * STORED_LABEL,
        )  # fmt: skip

    def _teacher(self, teacher: Teacher, every: Sequence[Counted]) -> Speed | None:
        """Return the speed of a teacher; None for one behind a server, which takes no hours of a device."""
        if teacher.backend == "server":
            self.out.notes.append(
                f"score: {teacher.checkpoint}: asked at its server, whose time and price are not in the plan"
            )
            return None
        return self._ask("score", teacher, self._sample(every, teacher.checkpoint, teacher.scoring))

    def _scored(
        self, asked: Sequence[tuple[Counted, int]], teachers: Teachers, pods: int = 1
    ) -> tuple[float, float | None]:
        """Return tokens and hours of all teachers for so many pairs of each collection."""
        total, hours = 0.0, [0.0]
        for teacher, speed in teachers:
            tokens = sum(pairs * self._prompt(each, teacher.checkpoint, teacher.scoring) for each, pairs in asked)
            total += tokens
            if speed is not None:
                found = _hours(round(tokens), speed, pods)
                if found is None:
                    return total, None
                hours.append(found)
        return total, sum(hours)

    def _distill(self, stage: str, config: DistillConfig, pairs: int, sample: Sample, train: Speed) -> None:
        seen = pairs * config.epochs
        if config.max_steps:
            seen = min(seen, config.max_steps * config.batch_size)
        stored = round(models.parameters(self.profile.phase1.checkpoint) * 4)
        tokens = round(seen * sample.prompt_tokens)
        self._add("", stage, pairs=seen, tokens=tokens, hours=_hours(seen, train), stored=stored)

    def _evaluate(self, every: Sequence[Counted], teachers: Teachers, train: Speed, student: Sample) -> None:
        """Both students and a champion of their size, each as it was trained; a pass without its gradient takes a third of a
        training step."""
        depth = self.profile.retrieval.test_depth
        pairs = [self._measured(each) * depth for each in every]
        checkpoint = self.profile.phase1.checkpoint

        def read(checkpoint: str, scoring: ScoringConfig) -> float:
            return sum(
                count * self._prompt(each, checkpoint, scoring) for count, each in zip(pairs, every, strict=True)
            )

        phases = (self.profile.phase1, *[self.profile.phase2] * 2)
        tokens = sum(read(checkpoint, models.reading_of(phase, checkpoint)) for phase in phases)
        hours = _hours(tokens, Speed(3 * train.each * student.prompt_tokens, ""))
        if self.profile.evaluation.teacher:
            more, longer = self._scored(list(zip(every, pairs, strict=True)), teachers)
            hours = None if hours is None or longer is None else hours + longer
            tokens += more
        queries = sum(map(self._measured, every))
        stored = 4 * sum(pairs) * STORED_HIT
        self._add("", "evaluate", queries=queries, pairs=sum(pairs), tokens=round(tokens), hours=hours, stored=stored)

    def _judge(self, every: Sequence[Counted]) -> None:
        config = judge.measurable(self.profile)
        lengths = [self.tokens.of(config.checkpoint, each) for each in every]
        known = [(each, own.passage, own.query) for each, own in zip(every, lengths, strict=True)]
        found = judge.asked(self.profile, known, self.held_out)
        hours: float | None = 0.0
        if config.backend != "openai":
            sample = self._sample(every, config.checkpoint, ScoringConfig())
            sample = replace(sample, prompt_tokens=found.tokens, new_tokens=judge.NEW_TOKENS)
            hours = _hours(found.calls, self._ask("generate", config, sample))
        self.out.notes.append(judge.note(self.profile))
        self._add("", "judge", queries=found.queries, pairs=found.calls, tokens=found.all_tokens, hours=hours)


def _hours(units: float, speed: Speed, pods: int = 1) -> float | None:
    if not units:
        return 0.0
    return (units / speed.each + pods * START_SECONDS) / 3600 if speed.each else None


def _words(characters: float, first: int = 0) -> str:
    """Return a made text of about so many characters, for collections that cannot be read before a download."""
    known = [
        "rivers",
        "carry",
        "granite",
        "sand",
        "while",
        "whales",
        "answer",
        "questions",
        "about",
        "oak",
        "and",
        "rain",
    ]
    count = max(round(characters / CHARACTERS), 1)
    return " ".join(known[(first + 5 * number) % len(known)] for number in range(count))


@dataclass(frozen=True)
class _Lengths:
    """Characters of a token of a passage and of a query."""

    passage: float = models.TOKEN_CHARACTERS
    query: float = models.TOKEN_CHARACTERS


class _Tokens:
    """Lengths in tokens, by tokenizer and collection: measured where the tokenizer is here, else assumed."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes
        self._known: dict[tuple[str, str], _Lengths] = {}
        self._tokenizers: dict[str, Any] = {}

    def of(self, checkpoint: str, counted: Counted) -> _Lengths:
        key = checkpoint, counted.name
        if key not in self._known:
            self._known[key] = self._measure(checkpoint, counted)
        return self._known[key]

    def tokenizer(self, checkpoint: str) -> Any:
        """Return the checkpoint's tokenizer; None, said once, where it is not here."""
        if checkpoint not in self._tokenizers:
            self._tokenizers[checkpoint] = _tokenizer(checkpoint)
            if self._tokenizers[checkpoint] is None:
                self._notes.append(
                    f"{checkpoint}: {models.TOKEN_CHARACTERS} characters a token (assumed: its tokenizer is not here)"
                )
        return self._tokenizers[checkpoint]

    def _measure(self, checkpoint: str, counted: Counted) -> _Lengths:
        tokenizer = self.tokenizer(checkpoint)
        if tokenizer is None:
            return _Lengths()

        def characters(texts: Sequence[str]) -> float:
            found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
            tokens = sum(len(each.ids) for each in found)
            return sum(map(len, texts)) / tokens if tokens else models.TOKEN_CHARACTERS

        return _Lengths(characters(counted.passages[:200]), characters(counted.queries[:200]))


def _tokenizer(checkpoint: str) -> Any:
    """Return the tokenizer of a checkpoint whose folder is here; None elsewhere."""
    from pathlib import Path

    name = checkpoint.partition("tokenizer=")[2].partition("&")[0] or checkpoint
    name = "demo:student" if name.startswith("init:") else name
    scheme, _, rest = name.partition(":")
    file = (DEMO / rest if scheme == "demo" else Path(name).expanduser()) / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
