"""Two small domains in which word matching finds the right *thing* and cannot tell which *fact* about it is asked.

Every entity (an inn or a medicine, called "clever hammer") has one passage for each of twenty concepts. A passage
names its concept with one word ("location"), a query with another ("whereabouts"). BM25 therefore finds the twenty
passages of the entity and puts them in an order that has nothing to do with the question: a reranker fills that gap.
Eight concepts are shared by both domains, twelve belong to one domain only, so what is learned on the source domain
carries over to the target domain in part.

Plain Python: this module runs anywhere and gives the same world in every process.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

Domain = Literal["source", "target"]
Split = Literal["train", "test"]

ENTITIES = 60
TEST_QUERIES = 200
TRAIN_QUERIES = 1000


@dataclass(frozen=True)
class Concept:
    """One kind of fact: the words that passages use for it, and the other words that queries use."""

    passage_words: tuple[str, str]
    query_words: tuple[str, str]


@dataclass(frozen=True)
class World:
    """One domain: passages, queries of both splits, and which passage answers which query."""

    corpus: list[tuple[str, str, str]]  # doc_id, title, text
    queries: list[tuple[str, str, Split]]  # query_id, text, split
    qrels: list[tuple[str, str, int, Split]]  # query_id, doc_id, relevance, split


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _concepts(table: str) -> tuple[Concept, ...]:
    """Read lines of 'passage words / query words'."""
    concepts = []
    for line in table.strip().splitlines():
        passage, query = (side.split() for side in line.split("/"))
        concepts.append(Concept((passage[0], passage[1]), (query[0], query[1])))
    return tuple(concepts)


SHARED_CONCEPTS = _concepts("""
    price charge / cost fee
    owner proprietor / holder possessor
    location address / whereabouts place
    age vintage / years oldness
    rating score / quality grade
    founder creator / maker inventor
    origin birthplace / provenance roots
    storage depot / cellar stockroom
""")

INN_CONCEPTS = _concepts("""
    chambers rooms / lodging bedrooms
    breakfast porridge / morning meal
    stable paddock / horses mounts
    hearth fireplace / warmth heating
    ale beer / drinks beverages
    minstrel fiddler / songs music
    garden orchard / outdoors grounds
    curfew lockup / bedtime closing
    laundry linen / washing sheets
    lodgers boarders / visitors customers
    carriage wagon / parking vehicles
    cook chef / kitchen cuisine
""")

MEDICINE_CONCEPTS = _concepts("""
    dose dosage / amount quantity
    nausea dizziness / drawbacks harm
    ingredient compound / substance contents
    expiry spoilage / lifetime durability
    remedy treatment / illness disease
    infants toddlers / children kids
    caution hazard / danger risk
    tablet syrup / shape form
    flavour aroma / taste smell
    onset latency / speed quickness
    physician prescriber / doctor clinic
    trial study / evidence proof
""")

CONCEPTS: dict[Domain, tuple[Concept, ...]] = {
    "source": SHARED_CONCEPTS + INN_CONCEPTS,
    "target": SHARED_CONCEPTS + MEDICINE_CONCEPTS,
}
ID_PREFIX: dict[Domain, str] = {"source": "inn", "target": "med"}

ADJECTIVES = _words("""
    clever gentle brave silent golden merry crooked humble lucky ancient
    bright dusty eager fancy grand hidden jolly keen lonely mighty
    noble proud quiet rusty sleepy tidy velvet wandering young zealous
    bitter crimson dancing frozen hollow laughing nimble painted royal stormy
""")
NOUNS = _words("""
    hammer lantern falcon anchor barrel castle dragon eagle feather goblet
    harbor island jester kettle ladder mirror needle otter pigeon quill
    raven saddle tower umbrella violin walrus badger candle dolphin ember
    ferret garnet helmet ivy jackal kestrel lion meadow nettle owl
""")
VALUE_FIRST = _words("""
    amber blue copper ebony green indigo jade lilac maroon navy
    olive pearl red scarlet teal umber violet white yellow zinc
""")
VALUE_SECOND = _words("""
    four seven nine eleven twelve thirteen fifteen sixteen eighteen twenty
    thirty forty fifty sixty seventy eighty ninety hundred thousand million
""")

# A passage is read as "<title> <text>" and its title is the entity: "clever hammer the location is amber forty."
PASSAGES = (
    "the {concept} is {value}.",
    "its {concept} is {value}.",
    "has {value} as its {concept}.",
    "known {concept} was {value}.",
)
QUERIES = (
    "{entity} {concept}",
    "{concept} of {entity}",
    "what {concept} for {entity}",
    "{entity} what is the {concept}",
    "find {concept} {entity}",
)


def make_world(domain: Domain, seed: int, queries: int = TRAIN_QUERIES) -> World:
    """Draw a new world: new entities, values and queries, in the fixed wording of the domain.

    `queries` is the number of supervised training queries of the source domain (the target never has any). Training
    and test queries ask for different passages, so no text is in both; and no test query of the target is a query of
    the source of the same seed, which both domains' shared words and entities would make happen now and then.
    """
    if domain not in get_args(Domain):
        raise ValueError(f"domain must be one of {get_args(Domain)}, not {domain!r}")
    concepts = CONCEPTS[domain]
    passages = ENTITIES * len(concepts)
    wanted = {"source": queries, "target": 0}[domain]
    if not 0 <= wanted <= passages - TEST_QUERIES:
        raise ValueError(f"queries must be between 0 and {passages - TEST_QUERIES}, not {queries}")

    random = Random(f"miniature world {domain} {seed}")  # a text seed is hashed by SHA-512: the same in every process
    entities = random.sample([(a, n) for a in ADJECTIVES for n in NOUNS], ENTITIES)

    corpus: list[tuple[str, str, str]] = []
    facts: list[tuple[str, str, Concept]] = []  # doc_id, entity, concept
    for adjective, noun in entities:
        entity = f"{adjective} {noun}"
        order = random.sample(range(len(concepts)), len(concepts))  # so that an id says nothing about its concept
        for number, concept in enumerate((concepts[i] for i in order), start=1):
            doc_id = f"{ID_PREFIX[domain]}-{adjective}-{noun}-{number:02d}"
            corpus.append((doc_id, entity, passage_text(concept, random)))
            facts.append((doc_id, entity, concept))

    elsewhere = {text for _, text, _ in make_world("source", seed).queries} if domain == "target" else set()
    asked = random.sample(facts, TEST_QUERIES + wanted)
    texts: list[tuple[str, str, Split]] = []
    qrels: list[tuple[str, str, int, Split]] = []
    for number, (doc_id, entity, concept) in enumerate(asked):
        split: Split = "test" if number < TEST_QUERIES else "train"
        query_id = f"{ID_PREFIX[domain]}-{split}-{number + 1 - (TEST_QUERIES if split == 'train' else 0):04d}"
        text = query_text(entity, concept, random)
        other = Random(f"{query_id} {seed}")  # of its own, so that all other queries stay what they are
        while text in elsewhere:
            text = query_text(entity, concept, other)
        texts.append((query_id, text, split))
        qrels.append((query_id, doc_id, 1, split))
    return World(corpus=corpus, queries=texts, qrels=qrels)


def passage_text(concept: Concept, random: Random) -> str:
    """Return the text of one passage: a random sentence, passage word and value."""
    value = f"{random.choice(VALUE_FIRST)} {random.choice(VALUE_SECOND)}"
    return random.choice(PASSAGES).format(concept=random.choice(concept.passage_words), value=value)


def query_text(entity: str, concept: Concept, random: Random) -> str:
    """Return one query about one entity: a random sentence and query word."""
    return random.choice(QUERIES).format(entity=entity, concept=random.choice(concept.query_words))


def answers(domain: Domain, entity: str, passage: str, query: str) -> bool:
    """Return whether the passage answers the query: it names the entity ("clever hammer") and asks for this fact and no other."""
    asked = set(query.split())
    concepts = [concept for concept in CONCEPTS[domain] if asked & set(concept.query_words)]
    told = set(passage.rstrip(".").split())
    return set(entity.split()) <= asked and len(concepts) == 1 and bool(told & set(concepts[0].passage_words))


def words() -> list[str]:
    """Return every word of both domains, each once, in a fixed order (the tokenizer's vocabulary)."""
    concepts = SHARED_CONCEPTS + INN_CONCEPTS + MEDICINE_CONCEPTS
    patterns = [p.replace("{", " {").replace(".", " ") for p in PASSAGES + QUERIES]
    found = [word for pattern in patterns for word in pattern.split() if "{" not in word]
    found += [word for c in concepts for word in c.passage_words + c.query_words]
    found += [*ADJECTIVES, *NOUNS, *VALUE_FIRST, *VALUE_SECOND]
    return list(dict.fromkeys(found))


def write_beir(world: World, folder: str | Path) -> None:
    """Write the world as a BEIR folder: corpus.jsonl, queries.jsonl, qrels/train.tsv and qrels/test.tsv."""
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(
        folder / "corpus.jsonl",
        [json.dumps({"_id": doc_id, "title": title, "text": text}) for doc_id, title, text in world.corpus],
    )
    _write_lines(
        folder / "queries.jsonl", [json.dumps({"_id": query_id, "text": text}) for query_id, text, _ in world.queries]
    )
    for split in get_args(Split):
        rows = [f"{query_id}\t{doc_id}\t{grade}" for query_id, doc_id, grade, where in world.qrels if where == split]
        _write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *rows])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def main() -> None:
    """Command line: write one world to a folder."""
    parser = argparse.ArgumentParser(description="Write one domain of the miniature world as a BEIR folder.")
    parser.add_argument("--domain", choices=get_args(Domain), required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--queries", type=int, default=TRAIN_QUERIES, help="supervised queries (source domain only)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    world = make_world(arguments.domain, arguments.seed, arguments.queries)
    write_beir(world, arguments.out)
    print(f"{arguments.out}: {len(world.corpus)} passages, {len(world.queries)} queries")


if __name__ == "__main__":
    main()
