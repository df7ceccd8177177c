"""Pin what a profile only names: content digests of folders and files, absolute paths.

KFP's cache sees strings, not content: with the digest beside the path, a changed corpus or checkpoint behind an
unchanged path is seen, and an unchanged one is not paid for again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.retrieval import DenseConfig, RetrieveConfig
from inranker_flow.config.sections import (
    CorpusConfig,
    DistillConfig,
    EvaluateConfig,
    GenerateConfig,
    Teacher,
    TeacherConfig,
)
from inranker_flow.config.values import LABELLED_TEXTS, LABELS
from inranker_flow.corpora.run_files import address
from inranker_flow.corpora.sources import FORMS
from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.generation.prompts import Shelf
from inranker_flow.judging import prompts as judging_prompts
from inranker_flow.rankers import files, templates
from inranker_flow.retrieval.search_body import read_body
from inranker_flow.settings.profile import Profile
from inranker_flow.storage import uris

Checkpointed = TypeVar("Checkpointed", Teacher, GenerateConfig, JudgeConfig, DistillConfig, DenseConfig)
Asked = TypeVar("Asked", GenerateConfig, JudgeConfig)


def pin(profile: Profile) -> Profile:
    """Return the same profile with fingerprints and revisions filled in; :class:`UserError` for what does not exist."""
    return dataclasses.replace(
        profile,
        source=_corpus(profile.source, "source"),
        targets=tuple(_corpus(target, "targets") for target in profile.targets),
        corpora=dataclasses.replace(profile.corpora, uri=_absolute(profile.corpora.uri)),
        retrieval=_first_stage(profile.retrieval),
        teacher=_teachers(profile.teacher),
        generation=_generation(profile.generation),
        evaluation=_judge(profile.evaluation),
        phase1=_student(_checkpoint(profile.phase1, "phase1")),
        phase2=_student(profile.phase2),
    )


def _corpus(corpus: CorpusConfig, where: str) -> CorpusConfig:
    uri, digest = _content(corpus.uri, where)
    labels, labels_digest = _content(corpus.labels, f"{where}.labels")
    asked, asked_digest = _content(corpus.log, f"{where}.log")
    runs = [_content(address(corpus, name), f"{where}.runs") for name in corpus.runs]
    found = "-".join(filter(None, (digest, labels_digest, asked_digest, *(each for _, each in runs))))
    corpus = dataclasses.replace(corpus, runs=tuple(name for name, _ in runs))
    return dataclasses.replace(corpus, uri=uri, labels=labels, log=asked, fingerprint=corpus.fingerprint or found)


def _checkpoint(section: Checkpointed, where: str) -> Checkpointed:
    kind, query, options = section.checkpoint.partition("?tokenizer=")
    if kind.startswith("init:") and query:
        folder, *rest = options.split("&")
        uri, digest = _content(folder, f"{where}.checkpoint")
        random = dataclasses.replace(section, checkpoint="&".join([f"{kind}?tokenizer={uri}", *rest]))
        return dataclasses.replace(random, revision=section.revision or digest)
    path = Path(section.checkpoint)
    if not section.checkpoint.startswith("s3://") and not path.is_dir():
        if section.checkpoint.startswith((".", "/", "~")):
            raise UserError(
                f"{where}.checkpoint: {section.checkpoint}: no such folder; give a folder or a hub id", code="not-found"
            )
        return section
    if path.is_dir():
        files.check_whole(section.checkpoint, [each.name for each in path.iterdir()], files.reader(path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(
            f"{where}.checkpoint: {section.checkpoint}: no checkpoint: the folder holds no config.json",
            code="checkpoint-incomplete",
        )
    uri, digest = _content(section.checkpoint, f"{where}.checkpoint")
    return dataclasses.replace(section, checkpoint=uri, revision=section.revision or digest)


def _generation(section: GenerateConfig) -> GenerateConfig:
    """Return a prompt given as a path becomes its text. What a server serves has a name alone. Crops have no model."""
    if section.backend == "crop":
        return dataclasses.replace(section, checkpoint="", revision="")
    prompts.load(section.prompt)  # a wrong one is refused before anything runs
    return _asked(section, prompts.QUERIES)


def _judge(section: EvaluateConfig) -> EvaluateConfig:
    """Return the same with its judge, where there is one."""
    if not section.judge.checkpoint:
        return section
    judging_prompts.load(section.judge.prompt)
    return dataclasses.replace(section, judge=_asked(section.judge, judging_prompts.SHELF))


def _asked(section: Asked, shelf: Shelf) -> Asked:
    if section.prompt not in shelf.names():
        section = dataclasses.replace(section, prompt=prompts.read(section.prompt, shelf))
    if section.backend != "openai":
        return _checkpoint(section, section.section)
    local = Path(section.tokenizer).is_dir() or section.tokenizer.startswith("s3://")
    uri = _content(section.tokenizer, f"{section.section}.tokenizer")[0] if local else section.tokenizer
    return dataclasses.replace(section, tokenizer=uri)


def _first_stage(section: RetrieveConfig) -> RetrieveConfig:
    """Return the same with what its first stage needs; a template given as a path becomes its text."""
    if section.encoder:
        section = dataclasses.replace(section, dense=_checkpoint(section.dense, "retrieval.dense"))
    if "opensearch" in section.stages:
        section = dataclasses.replace(
            section, server=dataclasses.replace(section.server, body=read_body(section.server))
        )
    return section


def _teachers(section: TeacherConfig) -> TeacherConfig:
    """Return all of them; what a server serves has a name alone."""
    first, *others = (
        each if each.backend == "server" else _template(_checkpoint(each, key)) for key, each in section.named.items()
    )
    values = {name: getattr(first, name) for name in ("checkpoint", "revision", "scoring")}
    return dataclasses.replace(section, **values, also=tuple(others))


def _template(section: Teacher) -> Teacher:
    """Return a prompt given as a path becomes its text, which the cache sees and a pod can read."""
    scoring = section.scoring
    if not scoring.prompt:  # that of the checkpoint's family
        return section
    templates.load(scoring.prompt, scoring.instruction)  # a wrong one is refused before anything runs
    if scoring.prompt in templates.names():
        return section
    return dataclasses.replace(section, scoring=dataclasses.replace(scoring, prompt=templates.read(scoring.prompt)))


def _student(section: DistillConfig) -> DistillConfig:
    """Return the same of a causal student's prompt, which settings.checks has looked at."""
    if not section.prompt or section.prompt in templates.names():
        return section
    return dataclasses.replace(section, prompt=templates.read(section.prompt))


def _absolute(uri: str) -> str:
    """Return an address that is looked at when the run starts, as an absolute one."""
    return str(Path(uri).expanduser().resolve()) if uri and "://" not in uri else uri


def _content(uri: str, where: str) -> tuple[str, str]:
    """Return the absolute form and content digest of what ``uri`` (perhaps after a ``kind:`` prefix) names."""
    kind, colon, rest = uri.partition(":")
    if not uri or kind in ("ir_datasets", "demo", "init"):
        return uri, ""
    if colon and kind in (*LABELLED_TEXTS, *LABELS):
        inner, digest = _content(rest, where)
        return f"{kind}:{inner}", digest
    if colon and kind in ("s3", "file", "hf"):
        return uri, uris.fingerprint(uri)
    path = Path(uri).expanduser().resolve()
    if not path.exists():
        raise UserError(
            f"{where}: {uri}: no such file or folder; {FORMS}",
            code="not-found",
        )
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"{where}: {uri}: the folder is empty", code="collection-empty")
    return str(path), uris.fingerprint(str(path))
