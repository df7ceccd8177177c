"""The backend `crop`: a sentence or a span of the document is its query (TWOLAR, arXiv 2403.17759). No language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.corpora.sentences import sentences
from inranker_flow.generation.backends import Written
from inranker_flow.generation.prompts import Template
from inranker_flow.words import split

#: Words of a span: as many as queries have, and no more than half of the document.
_LEAST, _MOST = 4, 16


class CropBackend:
    """Draws by text and `config.seed` alone: the same document has the same queries, whatever stands beside it."""

    def __init__(self, config: GenerateConfig, template: Template) -> None:
        self.config = config
        self.versions: dict[str, str] = {}

    def generate(self, documents: Sequence[str], seed: int, done: Callable[[int], None]) -> Written:
        """Fewer texts than were asked for where a document has no more; none is there twice."""
        texts = []
        for document in documents:
            texts.append(self._crops(document))
            done(1)
        return Written(texts, None, [False] * len(texts), 0)

    def _crops(self, document: str) -> list[str]:
        random = Random(f"{self.config.seed}/{document}")
        count = self.config.queries_per_document
        found = sentences(document) if self.config.crop == "sentence" else []
        if len(found) > 1:
            return random.sample(found, min(count, len(found)))
        # A document of one sentence is no query for itself.
        return list(dict.fromkeys(_span(document, random) for _ in range(count)))


def _span(text: str, random: Random) -> str:
    """Return some words of a text that follow each other."""
    words, between = split(text)
    most = max(min(_MOST, len(words) // 2), 1)
    length = random.randint(min(_LEAST, most), most)
    start = random.randint(0, len(words) - length)
    return between.join(words[start : start + length]).strip()
