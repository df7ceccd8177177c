"""Makes variants in a folder of its own, each once, and says why one cannot be made."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow.config.values import VariantName
from inranker_flow.errors import UserError
from inranker_flow.evaluation.serving_cost import Pair
from inranker_flow.exporting import comparison
from inranker_flow.exporting.backends import ExportedRanker
from inranker_flow.exporting.encoder import EncoderGraph
from inranker_flow.exporting.graph import Graph
from inranker_flow.exporting.onnx_files import Feed
from inranker_flow.exporting.variants import VARIANTS, Sources
from inranker_flow.rankers.batches import BATCH_TOKENS, PAD_TO, Batches
from inranker_flow.rankers.texts import Texts
from inranker_flow.storage.local import disk_errors

log = logging.getLogger(__name__)

#: Batches of prompts that 8 bits are calibrated on.
_CALIBRATION = 16


class Workshop:
    """Variants of ``graph`` in ``folder``; ``pairs`` are what 8 bits are calibrated on."""

    def __init__(self, graph: Graph, folder: Path, pairs: Sequence[Pair]) -> None:
        self.graph, self.folder, self.pairs = graph, folder, pairs
        self._sources = Sources(graph, folder, lambda: feeds(graph, pairs))
        self._faults: dict[VariantName, str] = {}

    def fault(self, name: VariantName) -> str:
        """Make the variant, where it is not made yet, and what it is made from; return why it cannot be ("": it was)."""
        if name not in self._faults:
            self._faults[name] = self._missing(name) or self._make(name)
        return self._faults[name]

    def _missing(self, name: VariantName) -> str:
        made = VARIANTS[name]
        if made.encoders_alone and not isinstance(self.graph, EncoderGraph):
            return "it is for encoders"
        absent = [each for each in (made.runtime, *made.needs) if find_spec(each) is None]
        if absent:
            return f"{' and '.join(absent)} not installed here (the extra `{made.extra}`)"
        return self.fault(made.of) if made.of else ""

    def _make(self, name: VariantName) -> str:
        path = self.folder / VARIANTS[name].path
        path.parent.mkdir(exist_ok=True)
        try:
            with disk_errors(path):
                VARIANTS[name].make(self._sources, path)
        except UserError:
            raise
        except Exception as error:  # exporters raise whatever their libraries do, and the other variants go on
            return _told(name, "could not be made", error)
        return ""

    def scores(self, name: VariantName, threads: int) -> np.ndarray | str:
        """Return the margins of all pairs by a variant that was made; or why its runtime does not take it."""
        try:
            return comparison.margins(self.ranker(name, threads), self.pairs)
        except Exception as error:  # as above
            return _told(name, "its runtime does not take it", error)

    def ranker(self, name: VariantName, threads: int) -> ExportedRanker:
        """Return a variant that was made, loaded on ``threads`` CPUs."""
        return ExportedRanker(self.graph, self.folder / VARIANTS[name].path, VARIANTS[name].runtime, threads)

    def take(self, name: VariantName, to: Path) -> dict[str, Any]:
        """Copy the files of a variant below ``to``; return their names and size."""
        files = VARIANTS[name].files(self.folder)
        names = [each.relative_to(self.folder).as_posix() for each in files]
        for source, target in zip(files, names, strict=True):
            (to / target).parent.mkdir(exist_ok=True)
            with disk_errors(to / target):
                shutil.copyfile(source, to / target)
        return {"files": names, "size_mb": sum(each.stat().st_size for each in files) / 1e6}


def _told(name: VariantName, what: str, error: Exception) -> str:
    log.debug("%s", name, exc_info=error)
    return f"{what}: {' '.join(str(error).split())[:300] or type(error).__name__}"


def feeds(graph: Graph, pairs: Sequence[Pair]) -> Iterator[Feed]:
    """Yield inputs of some batches of ``pairs``, of all lengths."""
    texts = Texts.of(pairs)
    prompts = graph.reader.prepare(texts.queries, texts.documents, texts.index)
    batches = list(Batches(BATCH_TOKENS["cpu"], PAD_TO[4]).split(prompts.lengths))
    for batch in islice(batches, 0, None, max(1, len(batches) // _CALIBRATION)):
        yield dict(zip(graph.inputs, graph.feeds(*prompts.inputs(np.asarray(batch), PAD_TO[4])), strict=True))
