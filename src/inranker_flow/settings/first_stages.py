"""What the settings of the first stage mean together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inranker_flow.config.retrieval import BandsConfig, DenseConfig, RetrieveConfig, SearchServerConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers import files
from inranker_flow.retrieval.bi_encoder_form import read_form
from inranker_flow.retrieval.search_body import read_body

if TYPE_CHECKING:
    from inranker_flow.settings.profile import Profile


def check(profile: Profile) -> None:
    """Raise :class:`UserError` for the first thing that a first stage cannot work with, naming its key."""
    from inranker_flow.retrieval import analyser  # with numpy

    retrieval = profile.retrieval
    try:
        analyser.check(retrieval)
    except UserError as error:
        raise UserError(f"retrieval.{error}", code=error.code) from error
    _negatives(retrieval)
    if retrieval.first_stage in retrieval.also:
        raise UserError(
            f"retrieval.also: {retrieval.first_stage} is retrieval.first_stage already; name others, or leave it out",
            code="setting-conflict",
        )
    if len(set(retrieval.also)) < len(retrieval.also):
        raise UserError(
            f"retrieval.also: {', '.join(retrieval.also)}: names one twice; name each once", code="setting-conflict"
        )
    if profile.promotion.candidates not in ("", *retrieval.stages):
        raise UserError(
            f"promotion.candidates: {profile.promotion.candidates} is not measured: the first stages are "
            f"{', '.join(retrieval.stages)}; add it to retrieval.also",
            code="setting-conflict",
        )
    if retrieval.encoder:
        _encoder(retrieval)
    if "opensearch" in retrieval.stages:
        _server(retrieval.server)
    if "run" in retrieval.stages:
        collections = {"source": profile.source, **{f"targets[{at}]": each for at, each in enumerate(profile.targets)}}
        for key, corpus in collections.items():
            if not corpus.runs:
                raise UserError(
                    f"{key}.runs: none given, and a first stage is run; name what was found for {corpus.name}, or take another "
                    "first stage",
                    code="setting-missing",
                )


def _negatives(retrieval: RetrieveConfig) -> None:
    bands = retrieval.bands
    if retrieval.wanted > retrieval.depth:
        key = "retrieval.negatives" if bands == BandsConfig() else "retrieval.bands"
        raise UserError(
            f"{key}: {retrieval.wanted} cannot be drawn from the top {retrieval.depth} (retrieval.depth); "
            "raise depth or draw fewer",
            code="setting-conflict",
        )
    if bands.top_share >= bands.middle_share:
        raise UserError(
            f"retrieval.bands.middle_share: {bands.middle_share:g}, and the best ranks reach to {bands.top_share:g} "
            "(top_share); the middle lies behind them",
            code="setting-conflict",
        )


def notes(retrieval: RetrieveConfig) -> Iterator[str]:
    """Yield a line for each section that counts for nothing."""
    if retrieval.dense != DenseConfig() and not retrieval.encoder:
        yield f"retrieval.dense: is not used, as retrieval.first_stage is {retrieval.first_stage}; set it to dense or hybrid"
    if retrieval.server != SearchServerConfig() and "opensearch" not in retrieval.stages:
        yield f"retrieval.server: is not used, as retrieval.first_stage is {retrieval.first_stage}; set it to opensearch"


def _encoder(retrieval: RetrieveConfig) -> None:
    reference = retrieval.dense.checkpoint
    if not reference:
        raise UserError(
            f"retrieval.dense.checkpoint: is missing, and a first stage is {retrieval.demanding}; give a bi-encoder "
            "that sentence-transformers has saved",
            code="setting-missing",
        )
    folder = Path(reference.removeprefix("file://")).expanduser()
    if folder.is_dir():
        try:
            read_form(reference, files.reader(folder))
        except UserError as error:
            raise UserError(f"retrieval.dense.checkpoint: {error}", code=error.code) from error


def _server(server: SearchServerConfig) -> None:
    for name in ("endpoint", "index"):
        if not getattr(server, name):
            raise UserError(
                f"retrieval.server.{name}: is missing, and a first stage is opensearch", code="setting-missing"
            )
    read_body(server)
