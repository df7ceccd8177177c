"""What the rerankers are taught, in order: first to compare words, then that different words can mean the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from inranker_flow.demo import world
from inranker_flow.demo.vocabulary import word_ids


@dataclass(frozen=True)
class Group:
    """One query and its candidates; the first candidate is the right one."""

    query: list[int]
    documents: list[list[int]]


MakeGroup = Callable[[Random], Group]

WORDS = word_ids(" ".join(world.words()))


def easy(random: Random) -> Group:
    """Return two words, four-word passages, wrong ones at random."""
    query = random.sample(WORDS, 2)
    right = [*query, *random.sample(WORDS, 2)]
    return Group(query, [_shuffled(right, random), *(random.sample(WORDS, 4) for _ in range(3))])


def partial(random: Random) -> Group:
    """Return three words, eight-word passages; four of the seven wrong ones hold one or two of the query's words."""
    query = random.sample(WORDS, 3)
    documents = [_shuffled([*query, *random.sample(WORDS, 5)], random)]
    for number in range(7):
        shared = random.sample(query, random.randint(1, 2)) if number < 4 else []
        documents.append(_shuffled([*shared, *random.sample(WORDS, 8 - len(shared))], random))
    return Group(query, documents)


def lexical(random: Random) -> Group:
    """Return the world's sentences with any word as the concept, which the query repeats."""
    concepts = [world.Concept((word, word), (word, word)) for word in random.sample(world.words(), 6)]
    return _sentences(concepts, random)


def synonyms(*domains: world.Domain) -> MakeGroup:
    """Return the concepts of these domains without sentences: entity and query word against entity and passage word."""

    def make(random: Random) -> Group:
        right, *wrong = random.sample(world.CONCEPTS[random.choice(domains)], 5)
        entity, other = _entity(random), _near_entity(random)

        def passage(entity: str, concept: world.Concept) -> list[int]:
            value = f"{random.choice(world.VALUE_FIRST)} {random.choice(world.VALUE_SECOND)}"
            return _shuffled(word_ids(f"{entity} {random.choice(concept.passage_words)} {value}"), random)

        query = _shuffled(word_ids(f"{entity} {random.choice(right.query_words)}"), random)
        documents = [passage(entity, concept) for concept in (right, *wrong)]
        return Group(query, [*documents, passage(other(entity), right)])

    return make


def sentences(*domains: world.Domain) -> MakeGroup:
    """Return the real task: queries and passages of these domains as the world writes them."""

    def make(random: Random) -> Group:
        return _sentences(random.sample(world.CONCEPTS[random.choice(domains)], 6), random)

    return make


def _sentences(concepts: list[world.Concept], random: Random) -> Group:
    """Return one right passage, five of the same entity, two of entities that share a word with it (same concept)."""
    right = concepts[0]
    entity, other = _entity(random), _near_entity(random)
    passages = [f"{entity} {world.passage_text(concept, random)}" for concept in concepts]
    passages += [f"{other(entity)} {world.passage_text(right, random)}" for _ in range(2)]
    return Group(word_ids(world.query_text(entity, right, random)), [word_ids(passage) for passage in passages])


def _entity(random: Random) -> str:
    return f"{random.choice(world.ADJECTIVES)} {random.choice(world.NOUNS)}"


def _near_entity(random: Random) -> Callable[[str], str]:
    """Return a function that changes one of the two words of an entity."""

    def change(entity: str) -> str:
        adjective, noun = entity.split()
        if random.random() < 0.5:
            return f"{random.choice([a for a in world.ADJECTIVES if a != adjective])} {noun}"
        return f"{adjective} {random.choice([n for n in world.NOUNS if n != noun])}"

    return change


def _shuffled(ids: list[int], random: Random) -> list[int]:
    return random.sample(ids, len(ids))


@dataclass(frozen=True)
class Stage:
    """One lesson: it ends when the running accuracy reaches the gate (or after exactly `steps`, and must then)."""

    name: str
    make: MakeGroup
    groups: int  # queries in one training step
    gate: float  # share of queries whose right passage comes first, over the last 20 steps
    learning_rate: float
    limit: int  # steps after which a gate that was not reached is a failure
    fixed: bool = False  # run all `limit` steps, the learning rate falling to a tenth


def _matching(learning_rate: float) -> list[Stage]:
    """Compare words; know no synonym."""
    return [
        Stage("easy", easy, groups=32, gate=0.95, learning_rate=learning_rate, limit=700),
        Stage("partial", partial, groups=16, gate=0.88, learning_rate=learning_rate, limit=700),
        Stage("lexical", lexical, groups=16, gate=0.96, learning_rate=learning_rate, limit=700),
    ]


# The teacher knows the wording of both domains (never a test corpus).
TEACHER_STAGES = [
    *_matching(1e-3),
    Stage("synonyms", synonyms("source", "target"), groups=24, gate=0.93, learning_rate=1e-3, limit=1200),
    Stage("sentences", sentences("source", "target"), groups=16, gate=0.99, learning_rate=1e-3, limit=600, fixed=True),
]
# The student starts as a word matcher with some idea of the source domain's synonyms, none of the target's.
STUDENT_STAGES = [
    *_matching(3e-3),
    Stage("synonyms", synonyms("source"), groups=24, gate=0.85, learning_rate=2e-3, limit=900),
]
