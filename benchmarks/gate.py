"""The gate by simulation: how often it promotes a model that is no better, and one that is.

    PYTHONPATH=src:. .venv/bin/python benchmarks/gate.py

Values are like nDCG@10: the champion's are spread over [0, 1], and the challenger is level with it on four queries of
ten and differs on the others (Laplace), so that the differences have the given standard deviation. 0.1 is usual between
two rerankers of a kind, 0.2 between very different ones. The gain is the true mean difference. Every draw is a whole
`gate.decide`; max_loss is off, so that what is counted is the test of significance.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from inranker_flow.config.sections import PromoteConfig
from inranker_flow.config.values import EvidenceName
from inranker_flow.evaluation import significance
from inranker_flow.evaluation.gate import Versus, decide
from inranker_flow.evaluation.leaks import Finder

DRAWS = 1000
LEVEL = 0.4
POLICY = PromoteConfig(max_loss=10.0)
UNJUDGED: tuple[EvidenceName, ...] = ("known_item", "agreement")
DATA = Path(__file__).parents[2] / "shared" / "data" / "train"


def main() -> None:
    print("False promotions of a model that is exactly as good, 1,000 draws each; expected at most alpha:\n")
    print("| queries | sd | alpha 0.01 | alpha 0.05 | alpha 0.10 | no test |\n|---|---|---|---|---|---|")
    for queries in (20, 50, 200):
        for sd in (0.1, 0.2):
            rates = [rate(queries, sd, 0.0, alpha) for alpha in (0.01, 0.05, 0.10, 1.0)]
            print(f"| {queries} | {sd} | {' | '.join(f'{each:.3f}' for each in rates)} |", flush=True)
    print("\nThe same by mixed evidence, alpha 0.05 shared: judgements of one data set, held-out queries of another:\n")
    print("| queries | sd | known items | and agreement | and judgements |\n|---|---|---|---|---|")
    for queries in (20, 50, 200):
        for sd in (0.1, 0.2):
            rates = [mixed(queries, sd, kinds) for kinds in (UNJUDGED[:1], UNJUDGED, ("human", *UNJUDGED))]
            print(f"| {queries} | {sd} | {' | '.join(f'{each:.3f}' for each in rates)} |", flush=True)
    print("\nPower: promotions of a model that is better by the given gain, alpha 0.05:\n")
    print("| queries | sd | gain 0.01 | gain 0.03 | gain 0.05 |\n|---|---|---|---|---|")
    for queries in (20, 50, 100, 200, 500):
        for sd in (0.1, 0.2):
            rates = [rate(queries, sd, gain, 0.05) for gain in (0.01, 0.03, 0.05)]
            print(f"| {queries} | {sd} | {' | '.join(f'{each:.3f}' for each in rates)} |", flush=True)
    costs()


def rate(queries: int, sd: float, gain: float, alpha: float) -> float:
    """Share of the draws that promote."""
    random = np.random.default_rng([queries, int(1000 * sd)])  # the same draws for each alpha and gain
    policy = PromoteConfig(max_loss=POLICY.max_loss, alpha=alpha)
    return sum(decide(*draw(random, queries, sd, gain), policy).verdict == "PROMOTE" for _ in range(DRAWS)) / DRAWS


def mixed(queries: int, sd: float, kinds: Sequence[EvidenceName]) -> float:
    """Share of the draws that promote a model that is exactly as good by every kind, each drawn by itself."""
    random = np.random.default_rng([queries, int(1000 * sd)])
    promoted = 0
    for _ in range(DRAWS):
        found = {kind: Versus(*draw(random, queries, sd, 0.0, kind == "human"), "nDCG@10") for kind in kinds}
        human = found.pop("human", Versus({}, {}, "nDCG@10"))
        promoted += decide(human.opponent, human.challenger, POLICY, others=found).verdict == "PROMOTE"
    return promoted / DRAWS


def draw(
    random: np.random.Generator, queries: int, sd: float, gain: float, judged: bool = True
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return values of a champion and of a challenger on one data set."""
    scale = sd / np.sqrt(2 * (1 - LEVEL))
    names = [f"q{i:04}" for i in range(queries)]
    champion = random.beta(2, 2, queries)
    moved = np.where(random.random(queries) < LEVEL, 0.0, random.laplace(0.0, scale, queries))
    theirs, ours = (
        {"judged" if judged else "other": dict(zip(names, each.tolist(), strict=True))}
        for each in (champion, champion + moved + gain)
    )
    return theirs, ours


def costs() -> None:
    """What the evidence costs beside the scoring."""
    compare(np.array([0.1, 0.2]))  # scipy's import is no cost of the statistics
    print("\n| what | seconds |\n|---|---|")
    for queries in (100, 1000, 7000):
        sample = np.random.default_rng(0).laplace(0.01, 0.1, queries)
        timed(f"all statistics of one comparison, {queries:,} queries", lambda s=sample: compare(s))  # type: ignore[misc]
    if not DATA.is_dir():
        print("| leak check: no real training set beside the repository (../shared/data) | |")
        return
    trained, tests = texts("squad-v1.1-train"), Random(0).sample(texts("squad-v1.1-dev"), 1000)
    timed(f"leak check, {len(tests):,} test and {len(trained):,} training queries", lambda: leaks(tests, trained))


def compare(sample: np.ndarray) -> None:
    significance.compare(significance.parts_of([sample]))


def leaks(tests: list[str], trained: list[str]) -> None:
    finder = Finder(tests, 0.9)
    for text in trained:
        list(finder.find(text))


def texts(name: str) -> list[str]:
    with (DATA / name / "queries.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def timed(what: str, work: Callable[[], None]) -> None:
    start = time.perf_counter()
    work()
    print(f"| {what} | {time.perf_counter() - start:.2f} |", flush=True)


if __name__ == "__main__":
    main()
