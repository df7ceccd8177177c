"""Grades for (query, passage), each asked of the judge once and kept by content, for whatever run comes."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.parsing import deciding
from inranker_flow.errors import UserError
from inranker_flow.generation import conflicts
from inranker_flow.generation.backends import LanguageModel, load_backend
from inranker_flow.judging import answers, prompts
from inranker_flow.judging.model import QUERY_TOKENS, as_generator
from inranker_flow.judging.prompts import JudgePrompt
from inranker_flow.progress import Progress
from inranker_flow.rankers.checkpoints import checkpoint_identity
from inranker_flow.scratch import scratch_folder
from inranker_flow.store.kept_rows import ContentStore, open_store

log = logging.getLogger(__name__)

#: One row for a query and a passage: what the judge said.
SCHEMA = pa.schema([pa.field("answer", pa.string(), nullable=False)])
#: Pairs that are asked for, and kept, together: what a kill loses, and what an engine can put into batches.
SHARDS = {"transformers": 64, "openai": 256, "vllm": 2048}
#: Fewer grades may well be alike; so many end the grading before the last is paid for.
_FEW, _MANY = 20, 500
#: A judge of which more than this share of the answers hold no grade grades nothing.
_MOST_WITHOUT = 0.5
#: Samples in a message, and characters of each of their texts.
_SAMPLES, _SHOWN = 3, 80


class Pair(NamedTuple):
    """A passage to grade for a query."""

    query_id: str
    doc_id: str
    query: str
    passage: str


@dataclass(frozen=True)
class GradeStats:
    """``pairs`` to grade, of which ``graded`` got a grade and ``found`` needed no question, as the store had the answer.

    ``calls`` were made, ``again`` of them because the first answer held no grade; ``no_grade`` texts have none all the same,
    ``refused`` of them as the judge would not. ``counts``: grade -> pairs.
    """

    pairs: int = 0
    graded: int = 0
    found: int = 0
    calls: int = 0
    again: int = 0
    no_grade: int = 0
    refused: int = 0
    tokens: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: GradeStats) -> GradeStats:
        mine, its = dataclasses.asdict(self), dataclasses.asdict(other)
        summed: dict[str, Any] = {name: mine[name] + its[name] for name in mine if name != "counts"}
        return GradeStats(**summed, counts=dict(Counter(self.counts) + Counter(other.counts)))


class Judge:
    """The judge of ``config``; its model is loaded, or its server asked, when the first answer is missing.

    Raises :class:`UserError` for settings that cannot work together, and for a prompt that is none.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        conflicts.check(as_generator(config))
        plain = prompts.load(config.prompt)
        #: The second is asked where the answer to the first holds no grade: asked again, a judge without a temperature would
        #: say the same.
        self.prompts = (plain, plain.firm)
        self._aside: list[Path] = []

    def grade(self, pairs: Iterable[Pair], dataset: str) -> tuple[pa.Table, GradeStats]:
        """Return (query_id, doc_id, grade) of the pairs that got one, and what was done.

        Texts that are there twice are asked for once. Raises :class:`UserError` where most answers hold no grade, or all
        the same one, and what the backends raise; what was answered before is kept.
        """
        rows = list(pairs)
        texts = list(dict.fromkeys((each.query, " ".join(each.passage.split())) for each in rows))
        asked = _Asked(self, texts, dataset)
        stats = asked.complete()
        grade_of = dict(zip(texts, asked.grades(), strict=True))
        grades = [grade_of[each.query, " ".join(each.passage.split())] for each in rows]
        kept = [
            (each.query_id, each.doc_id, grade) for each, grade in zip(rows, grades, strict=True) if grade is not None
        ]
        counts = Counter(str(grade) for _, _, grade in kept)
        columns = {
            "query_id": pa.array([each for each, _, _ in kept], pa.string()),
            "doc_id": pa.array([each for _, each, _ in kept], pa.string()),
            "grade": pa.array([each for _, _, each in kept], pa.int32()),
        }
        stats = dataclasses.replace(stats, pairs=len(rows), graded=len(kept), counts=dict(sorted(counts.items())))
        return pa.table(columns), stats

    def close(self) -> None:
        """What the grades are for is written: where there is no store, nobody needs them any more."""
        for folder in self._aside:
            shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def model(self) -> LanguageModel:
        """The model, asked by the first prompt."""
        return cast("LanguageModel", load_backend(as_generator(self.config), self.prompts[0].template))

    @cached_property
    def firm(self) -> LanguageModel:
        """The same, asked by the second."""
        return self.model.prompted(self.prompts[1].template)

    def store(self, prompt: JudgePrompt) -> ContentStore:
        """Return the answers to ``prompt``."""
        identity = self._identity(prompt)
        aside = scratch_folder("judge", identity)
        self._aside.append(aside)
        return open_store("grades", identity, SCHEMA, aside)

    def _identity(self, prompt: JudgePrompt) -> dict[str, Any]:
        """Return what an answer follows from, besides the texts; not from which and how many are graded."""
        config = self.config
        plain = {name: value for name, value in deciding(config).items() if name not in ("depth", "queries", "prompt")}
        served = config.backend == "openai"
        return {
            "judge": config.checkpoint if served else checkpoint_identity(config.checkpoint, config.revision),
            "prompt": prompt.template.digest,
            "between": prompt.between,
            "query_tokens": QUERY_TOKENS,
            "settings": plain,
        }


class _Asked:
    """Distinct ``texts`` (query, passage), and the judge's answers to each of its two prompts."""

    def __init__(self, judge: Judge, texts: Sequence[tuple[str, str]], dataset: str) -> None:
        self.judge, self.texts, self.dataset = judge, texts, dataset
        self.keys = hash_rows(*zip(*texts, strict=True)) if texts else np.empty((0, 2), np.uint64)
        self.stores = [judge.store(prompt) for prompt in judge.prompts]
        self.answers = [self._known(store) for store in self.stores]
        self._cut: dict[str, str] = {}

    def _known(self, store: ContentStore) -> list[str | None]:
        found, rows = store.find(self.keys)
        texts: list[str | None] = [None] * len(self.texts)
        for place, answer in zip(np.flatnonzero(found).tolist(), rows.column("answer").to_pylist(), strict=True):
            texts[place] = answer
        return texts

    def complete(self) -> GradeStats:
        """Ask for what is missing, shard by shard."""
        open_ = [place for place in range(len(self.texts)) if self._due(0, place) or self._due(1, place)]
        calls, tokens, start = [0, 0], 0, time.monotonic()
        if open_:
            progress = Progress(f"grading {self.dataset}", len(self.texts), "passages")
            progress.resume(len(self.texts) - len(open_))
            size = SHARDS[self.judge.config.backend]
            for at in range(0, len(open_), size):
                part = open_[at : at + size]
                progress.advance(sum(not self._due(0, place) for place in part))
                for number, told in ((0, progress.advance), (1, lambda _: None)):
                    due = [place for place in part if self._due(number, place)]
                    tokens += self._ask(number, due, told)
                    calls[number] += len(due)
                self._check([place for place, said in enumerate(self.answers[0]) if said is not None], _MANY)
            progress.finish()
        self._check(range(len(self.texts)), _FEW)
        for store in self.stores:
            store.compact()
        without = [place for place, grade in enumerate(self.grades()) if grade is None]
        return GradeStats(
            found=len(self.texts) - len(open_), calls=sum(calls), again=calls[1], tokens=tokens,
            no_grade=len(without), refused=sum(answers.refuses(self._last(place)) for place in without),
            seconds=time.monotonic() - start if open_ else 0.0,
        )  # fmt: skip

    def grades(self) -> Iterator[int | None]:
        """Yield the grade of each text: in the first answer, otherwise in the second."""
        return map(self._grade, range(len(self.texts)))

    def _grade(self, place: int) -> int | None:
        first = self.answers[0][place]
        grade = answers.grade_in(first) if first is not None else None
        second = self.answers[1][place]
        return grade if grade is not None or second is None else answers.grade_in(second)

    def _due(self, number: int, place: int) -> bool:
        """Return whether the prompt ``number`` is to be asked: the second where the answer to the first holds no grade."""
        first = self.answers[0][place]
        if number == 0:
            return first is None
        return first is not None and answers.grade_in(first) is None and self.answers[1][place] is None

    def _ask(self, number: int, places: Sequence[int], told: Callable[[int], None]) -> int:
        """Ask for and keep the answers to some texts; returns the tokens that were written."""
        if not places:
            return 0
        judge = self.judge
        prompt, model = judge.prompts[number], (judge.model, judge.firm)[number]
        asked = [query for query in dict.fromkeys(self.texts[place][0] for place in places) if query not in self._cut]
        self._cut |= dict(zip(asked, judge.model.cut(asked, QUERY_TOKENS), strict=True))
        passages = judge.model.cut([self.texts[place][1] for place in places], judge.config.max_passage_tokens)
        pairs = [
            prompt.pair(self._cut[self.texts[place][0]], text) for place, text in zip(places, passages, strict=True)
        ]
        written = model.generate(pairs, 0, told)
        said = [texts[0] for texts in written.texts]
        self.stores[number].put(self.keys[np.array(places)], pa.table({"answer": said}, schema=SCHEMA))
        for place, text in zip(places, said, strict=True):
            self.answers[number][place] = text
        return written.tokens

    def _last(self, place: int) -> str:
        return self.answers[1][place] or self.answers[0][place] or ""

    def _check(self, places: Sequence[int], alike: int) -> None:
        """Raise :class:`UserError` where most of the answers hold no grade, or all of ``alike`` and more the same one."""
        checkpoint, total = self.judge.config.checkpoint, len(places)
        without = [place for place in places if self._grade(place) is None]
        remedy = (
            "take another checkpoint for evaluation.judge, another prompt, or give a model that thinks first more "
            "max_new_tokens, or turn its thinking off (request_fields)"
        )
        if len(without) > _MOST_WITHOUT * total:
            refused = sum(answers.refuses(self._last(place)) for place in without)
            raise UserError(
                f"{checkpoint}: {len(without):,} of its {total:,} answers for {self.dataset} hold no grade of 0 to 3, also when "
                f"asked again ({refused:,} refuse): {self._samples(without)}; {remedy}",
                code="judge-useless",
            )
        grades = {self._grade(place) for place in places} - {None}
        if total - len(without) >= alike and len(grades) == 1:
            raise UserError(
                f"{checkpoint}: gives all of {total - len(without):,} passages of {self.dataset} the grade {grades.pop()}, which "
                f"tells no system from another: {self._samples(places)}; {remedy}",
                code="judge-useless",
            )

    def _samples(self, places: Sequence[int]) -> str:
        chosen = places[:: max(len(places) // _SAMPLES, 1)][:_SAMPLES]
        return " | ".join(f"{_shown(self.texts[place][0])}: {_shown(self._last(place))}" for place in chosen)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")
