"""Whether what finds the candidates is there: a bi-encoder that says how it pools, run files, an index that answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from inranker_flow.config.retrieval import DenseConfig, RetrieveConfig
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.run_files import address
from inranker_flow.errors import UserError
from inranker_flow.preflight import hub
from inranker_flow.preflight.checkpoints import check_checkpoint
from inranker_flow.preflight.checks import Skipped
from inranker_flow.preflight.pool import Need
from inranker_flow.rankers import files
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.retrieval.bi_encoder_form import read_form
from inranker_flow.retrieval.first_stages import describe
from inranker_flow.retrieval.first_stages.searched import SearchServer
from inranker_flow.storage import uris

#: Seconds for an answer: this is no time to wait for a server that is just starting.
_TIMEOUT = 10.0


def check_first_stage(config: RetrieveConfig, collections: Sequence[CorpusConfig], need: Need) -> str:
    """Look for what the first stages need. Run files are read whole by `prepare_corpus`, before any GPU works."""
    needs = "torch and GPUs" if config.encoder else "its key" if config.demanding == "opensearch" else ""
    if needs and need.stage and need.first_stage != config.demanding:
        raise UserError(
            f"retrieval.first_stage: {config.demanding}, but this pipeline was compiled for {need.first_stage}: its pods lack "
            f"{needs}; submit it anew with this setting",
            code="setting-compiled",
        )
    return "; ".join(
        _check(dataclasses.replace(config, first_stage=each, also=()), collections) for each in config.stages
    )


def _check(config: RetrieveConfig, collections: Sequence[CorpusConfig]) -> str:
    """Look for what one first stage needs."""
    if config.encoder:
        return check_encoder(config.encoder)
    if config.first_stage == "opensearch":
        quick = dataclasses.replace(config.server, retries=1, request_timeout=_TIMEOUT)
        [hits] = SearchServer(quick).ask(["what is the moon"], 1)
        return f"{describe(config)} answers ({len(hits)} hits for a question about the moon)"
    if config.first_stage == "run":
        found = [address(each, name) for each in collections for name in each.runs]
        for uri in found:
            if not uris.exists(uri):
                raise UserError(f"{uri}: no such run file; correct the collection's `runs`", code="not-found")
        return f"{len(found)} run files: there"
    return f"{describe(config)}: needs nothing"


def check_encoder(config: DenseConfig) -> str:
    """As :func:`check_checkpoint`, and whether its files say how it makes a vector."""
    reference = config.checkpoint
    told = check_checkpoint(reference, config.revision)
    form = read_form(reference, _reader(reference, config.revision))
    return f"{told}, pools by {form.pooling}"


def _reader(reference: str, revision: str) -> files.Read:
    if reference.startswith("s3://"):
        return lambda name: _stored(f"{reference.rstrip('/')}/{name}")
    if folder := locate(reference):
        return files.reader(folder)

    def read(name: str) -> bytes | None:
        if not (found := hub.read(reference, revision, name)):
            raise Skipped(f"{reference}: the hub was not asked for {name}")
        return found

    return read


def _stored(uri: str) -> bytes | None:
    return uris.read(uri) if uris.exists(uri) else None
