"""The scores of every system for the same candidates, and what they cost.

What a killed evaluation has scored is found again: the teacher's logits among the labels, those of other systems, and what was
measured of each, in a place for unfinished work, which goes when the evaluation is written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial

import numpy as np

from inranker_flow import scratch
from inranker_flow.config.sections import EvaluateConfig
from inranker_flow.environment import variables
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.evaluation import serving_cost
from inranker_flow.evaluation.candidates import Candidates
from inranker_flow.evaluation.judged_sets import FURTHER, JudgedSet
from inranker_flow.evaluation.serving_cost import Costs
from inranker_flow.evaluation.systems import CHAMPION, TEACHER, System
from inranker_flow.labelling import average
from inranker_flow.labelling.average import Level
from inranker_flow.rankers import devices
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.reading import Passages
from inranker_flow.scoring import engine, served
from inranker_flow.scoring.job import Processes, ScoringJob, ShardedJob, largest
from inranker_flow.scoring.logits import SCHEMA, Logits
from inranker_flow.scoring.rerank_server import RerankServer
from inranker_flow.storage import uris
from inranker_flow.store import unfinished
from inranker_flow.store.kept_rows import ContentStore, open_store

log = logging.getLogger(__name__)


_NOTHING = Costs()


@dataclass(frozen=True)
class Scored:
    """One system's ``scores`` (true logit - false logit) for the candidates of all judged sets, and its costs.

    ``found``: pairs (a candidate's passages) that had been scored before. ``same_as``: the equal system whose scores these
    are. ``timed_as``: the system of the same shape whose latencies these are.
    """

    scores: np.ndarray
    costs: Costs = _NOTHING
    found: int = 0
    same_as: str = ""
    timed_as: str = ""


@dataclass
class Reranking:
    """Scores systems, one after another, for the candidates of ``sets``; each sees all pairs in one plan.

    ``passages``: by which most read long documents.
    """

    config: EvaluateConfig
    sets: Sequence[JudgedSet]
    passages: Passages
    #: In the order in which they were given; a champion that cannot be scored is in ``unmeasured``, with the reason.
    scored: dict[str, Scored] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    #: The first system with an identity, and the first of a shape.
    _firsts: dict[str, str] = field(default_factory=dict)
    _candidates: dict[Passages, Candidates] = field(default_factory=dict)
    _places: list[str] = field(default_factory=list)

    def add(self, system: System) -> None:
        """Score ``system``. A champion that cannot be scored is left out: the gate then holds, with that as its reason."""
        try:
            self._add(system)
        except UserError as error:
            if system.name != CHAMPION or isinstance(error, NoAnswer):
                raise
            log.warning("champion: not measured: %s", error)
            self.unmeasured[system.name] = str(error)

    @property
    def largest_difference(self) -> float:
        """The largest difference of a logit from float32, of all systems that compute in less on a CPU."""
        return largest(each.costs.error for each in self.scored.values()).get("largest_difference", 0.0)

    def close(self) -> None:
        """The evaluation is written: nobody needs unfinished work any more."""
        for place in self._places:
            unfinished.remove(place)

    def candidates(self, passages: Passages) -> Candidates:
        """Return what systems with these passages score."""
        if passages not in self._candidates:
            sets = [each.cut(passages) for each in self.sets]
            self._candidates[passages] = Candidates(sets, self.config.latency_queries)
        return self._candidates[passages]

    def _add(self, system: System) -> None:
        """Take the scores of an equal system, or make what is missing of them."""
        same = self._firsts.setdefault(json.dumps(system.identity, sort_keys=True), system.name)
        if same != system.name:
            log.info("%s: the same model as %s, so the same scores", system.name, same)
            self.scored[system.name] = replace(self.scored[same], same_as=same, timed_as="")
            return
        if system.served.passages != self.passages:
            log.warning(
                "%s: served, and so measured, by %s; the others by %s",
                system.name, _in_words(system.served.passages), _in_words(self.passages),
            )  # fmt: skip
        candidates = self.candidates(system.served.passages)
        score = self._average if system.parts else self._score
        found = score(system, candidates) if candidates.pairs else Scored(np.zeros(0))
        self.scored[system.name] = replace(found, scores=candidates.best(found.scores))
        if system.shape:
            self._firsts.setdefault(system.shape, system.name)

    def _average(self, system: System, candidates: Candidates) -> Scored:
        """Return the average of its teachers' scores, by the levels that labelling found for each data set."""
        parts = [self._score(each, candidates) for each in system.parts]
        scores = np.empty(len(candidates.pairs))
        for dataset, rows in candidates.by_set():
            own = [each.scores[rows] for each in parts]
            levels = system.levels.get(dataset.partition(FURTHER)[0])
            if levels is None:
                log.info(
                    "%s: no labels of %s say the levels of its scores: those of the candidates", system.name, dataset
                )
            scores[rows] = average.average(own, levels or [Level.of(each) for each in own])
        return Scored(scores, serving_cost.together([each.costs for each in parts]), min(each.found for each in parts))

    def _score(self, system: System, candidates: Candidates) -> Scored:
        """Return the scores of all pairs: of passages, where documents are read so."""
        place = self._place(system)
        self._places.append(place)
        known = Logits(_store(system, place), candidates.keys)
        found = known.known_pairs
        log.info(
            "%s: %s pairs, of which %s are scored already", system.name, f"{len(candidates.pairs):,}", f"{found:,}"
        )
        job = ShardedJob(
            what=f"scoring {system.name}",
            source=candidates.texts,
            known=known,
            shard_pairs=self.config.shard_pairs,
            check=partial(_check_finite, system),
        )
        if system.server:
            work = served.score(job, RerankServer(system.server, system.section))
            costs = Costs(pairs=work.pairs, seconds=work.seconds, device="a server")
            return Scored(average.scores(known.values), costs, found)
        return self._compute(system, candidates, job, found, place)

    def _compute(self, system: System, candidates: Candidates, job: ShardedJob, found: int, place: str) -> Scored:
        # Once for scores and costs.
        load = cache(partial(load_ranker, system.reference, system.scoring, system.revision))
        whole = ScoringJob(
            **vars(job),
            checkpoint=system.fetched,
            processes=Processes(self.config.processes, "evaluation.processes"),
            folder=scratch.root(),
        )
        work = engine.score(whole, load, candidates.tokenised)
        timer = self._timer(system)
        timed = [] if timer else candidates.timed.lists
        kept = f"{place}/costs-{serving_cost.machine()}-{self.config.latency_queries}.json"
        costs = None if work.pairs else _kept(kept)
        if costs is None or (timed and not costs.latencies):
            found_before = costs.error if costs else {}
            costs = serving_cost.measure(load(), work, candidates.pairs, timed)
            costs = replace(costs, error=work.error or found_before)
            uris.put(json.dumps(asdict(costs)).encode(), kept)
        load.cache_clear()
        devices.free()  # one model at a time: a 3B teacher leaves no room for others
        if timer:
            costs = replace(costs, latencies=self.scored[timer].costs.latencies)
        job.known.store.compact()
        return Scored(average.scores(job.known.values), costs, found, timed_as=timer)

    def _place(self, system: System) -> str:
        """Where the unfinished work of a system is: what it depends on beside the texts is in its name."""
        sets = [[each.dataset, each.digests] for each in self.sets]
        dtype = devices.settled_dtype(system.scoring.dtype)
        return unfinished.place("evaluate", system.identity, dtype, sets, self.config.drop_self, code_version())

    def _timer(self, system: System) -> str:
        """Return the system of the same shape that was timed here: two measurements of one shape differ by noise alone."""
        timer = self._firsts.get(system.shape, "") if system.shape else ""
        return timer if timer and self.scored[timer].costs.machine == serving_cost.machine() else ""


def _store(system: System, place: str) -> ContentStore:
    """Where its logits are kept: the teacher's are labels, for whoever asks for them later."""
    teaches = system.name == TEACHER or system.section
    if not teaches or not variables.store_root():
        return ContentStore(place, SCHEMA)
    return open_store("labels", system.labels, SCHEMA, scratch.root())


def _kept(uri: str) -> Costs | None:
    """Return what an earlier attempt has measured on a machine like this."""
    try:
        return Costs(**json.loads(uris.read(uri)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("%s: damaged, so it is measured again (%s)", uri, error)
        return None


def _check_finite(system: System, rows: np.ndarray, logits: np.ndarray) -> None:
    bad = int(len(rows) - np.isfinite(logits).all(axis=1).sum())
    if bad:
        section = system.section or ("teacher" if system.name == TEACHER else "evaluation")
        raise UserError(
            f"{system.name} ({system.reference}): {bad} of {len(rows)} scores are not finite numbers; "
            f"if the checkpoint overflows in half precision, set {section}.scoring.dtype to float32",
            code="scores-not-finite",
        )


def _in_words(passages: Passages) -> str:
    if not passages.words:
        return "whole documents, cut at max_length"
    return f"passages of {passages.words} words, {passages.stride or max(1, passages.words // 2)} apart"
