"""A profile: every value of one pipeline run, resolved and validated before anything is submitted.

``profiles/NAME.yaml`` + overrides -> typed sections -> the pipeline's arguments. Profiles differ only in values.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inranker_flow.config import (
    ClusterConfig,
    CorporaConfig,
    CorpusConfig,
    DistillConfig,
    EvaluateConfig,
    GenerateConfig,
    PrepareConfig,
    PromoteConfig,
    RetrieveConfig,
    TeacherConfig,
    as_dict,
    parse,
)
from inranker_flow.errors import UserError
from inranker_flow.evaluation import measures

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """One object for each section; all but ``cluster`` are the pipeline's parameters by the same name."""

    source: CorpusConfig
    targets: tuple[CorpusConfig, ...]
    corpora: CorporaConfig
    corpus: PrepareConfig
    retrieval: RetrieveConfig
    teacher: TeacherConfig
    generation: GenerateConfig
    phase1: DistillConfig
    phase2: DistillConfig
    evaluation: EvaluateConfig
    promotion: PromoteConfig
    cluster: ClusterConfig

    def arguments(self) -> dict[str, Any]:
        """The pipeline's arguments as plain data."""
        plain = as_dict(self)
        cluster = plain.pop("cluster")
        for key in ("node_gpus", "gpu_model", "gpu_hour_price"):  # for checks and plans, before anything runs
            del cluster[key]
        if not cluster["gpus"]:
            cluster["gpu_pool"] = {}  # what needs no GPU runs on any node
        # Kubernetes refuses a value beside `Exists`.
        cluster["gpu_tolerations"] = [
            {key: value for key, value in each.items() if value} for each in cluster["gpu_tolerations"]
        ]
        return {**plain, **cluster}


#: Sections whose ``seed`` follows the profile's unless they say otherwise.
_SEEDED = ("corpus", "retrieval", "generation", "phase1", "phase2")
_TOP = ("seed", "tokenizer", *(field.name for field in dataclasses.fields(Profile)))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Read profile ``name`` (or a path to a YAML file), apply ``overrides`` (dotted key -> value), validate.

    Strings may hold ``{seed}`` and ``{tokenizer}``. Raises :class:`UserError` naming file and key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    data = _read(path)
    for key, value in (overrides or {}).items():
        _set(data, key, value)
    for key in data:
        if key not in _TOP:
            raise UserError(f"{path.name}: unknown section {key!r}; a profile has: {', '.join(_TOP)}")
    seed = data.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"SEED: expected a whole number, got {seed!r}")
    data = _substitute(data, {"seed": str(seed), "tokenizer": str(data.pop("tokenizer", ""))})
    for section in _SEEDED:
        data.setdefault(section, {})
        if isinstance(data[section], dict):
            data[section].setdefault("seed", seed)
    return _build(data, path.name)


def _build(data: dict[str, Any], where: str) -> Profile:
    for section in ("source", "teacher", "generation"):
        if not data.get(section):
            raise UserError(f"{where}: section {section!r} is missing or empty; the demo profile shows what it holds")
    listed = data.get("targets") or []
    if not isinstance(listed, list):
        raise UserError(f"{where}: targets must be a list of collections")
    targets = tuple(_corpus(target, f"targets[{i}]") for i, target in enumerate(listed))
    source = _corpus(data["source"], "source")
    names = [source.name, *(target.name for target in targets)]
    for each in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", each):
            raise UserError(f"{where}: collection name {each!r} may hold only letters, digits, '.', '_' and '-'")
        if names.count(each) > 1:
            uris = [corpus.uri for corpus in (source, *targets) if corpus.name == each]
            raise UserError(
                f"{where}: two collections are named {each!r} ({' and '.join(uris)}); rename a folder, or give each a name "
                "in a profile file of yours"
            )
    profile = Profile(
        source=source,
        targets=targets,
        corpora=parse(CorporaConfig, data.get("corpora", {}), "corpora"),
        corpus=parse(PrepareConfig, data.get("corpus", {}), "corpus"),
        retrieval=parse(RetrieveConfig, data.get("retrieval", {}), "retrieval"),
        teacher=parse(TeacherConfig, data["teacher"], "teacher"),
        generation=parse(GenerateConfig, data["generation"], "generation"),
        phase1=parse(DistillConfig, data.get("phase1", {}), "phase1"),
        phase2=parse(DistillConfig, data.get("phase2", {}), "phase2"),
        evaluation=parse(EvaluateConfig, data.get("evaluation", {}), "evaluation"),
        promotion=parse(PromoteConfig, data.get("promotion", {}), "promotion"),
        cluster=parse(ClusterConfig, data.get("cluster", {}), "cluster"),
    )
    if not profile.targets and not profile.corpora.uri:
        raise UserError(f"{where}: section 'targets' is missing or empty; the demo profile shows what it holds")
    if not profile.phase1.checkpoint:
        raise UserError(f"{where}: phase1.checkpoint is missing: the checkpoint that the student starts from")
    if profile.phase2.checkpoint:
        raise UserError(f"{where}: phase2.checkpoint must stay empty: phase 2 starts from the phase-1 student")
    if profile.cluster.gpus > profile.cluster.node_gpus:
        raise UserError(
            f"{where}: cluster.gpus {profile.cluster.gpus}: one node of the pool has {profile.cluster.node_gpus} "
            "(cluster.node_gpus); ask for fewer, or say what the nodes have"
        )
    if profile.promotion.latency_budget_ms and not profile.evaluation.latency_queries:
        raise UserError(
            f"{where}: promotion.latency_budget_ms: {profile.promotion.latency_budget_ms:g}, but evaluation.latency_queries "
            "is 0, so no latency would be measured and every verdict would be HOLD; time some queries or drop the budget"
        )
    measures.parse(profile.evaluation.measures)
    if profile.promotion.measure not in profile.evaluation.measures:
        raise UserError(
            f"{where}: promotion.measure {profile.promotion.measure!r} is not among evaluation.measures "
            f"({', '.join(profile.evaluation.measures)})"
        )
    return profile


def _corpus(data: Any, where: str) -> CorpusConfig:
    """A collection given as a mapping, or as its uri alone."""
    if isinstance(data, str):
        data = {"uri": data}
    if isinstance(data, dict) and "name" not in data and isinstance(data.get("uri"), str):
        data = {**data, "name": default_name(data["uri"])}
    return parse(CorpusConfig, data, where)


def default_name(uri: str) -> str:
    """A short name from where a collection is: the last part that tells it apart."""
    parts = [part for part in re.split(r"[/:]", uri.rstrip("/")) if part and part not in ("train", "test", "dev")]
    return re.sub(r"[^A-Za-z0-9._-]", "-", re.sub(r"\.(jsonl|parquet)(\.gz)?$", "", parts[-1])) if parts else uri


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(each.stem for each in PROFILES.glob("*.yaml")))
        raise UserError(f"PROFILE={path.stem}: no such profile ({path}); there is: {known}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected sections with keys")
    return data


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UserError(f"{key}: {section} is not a section")
    data[last] = value


def _substitute(data: Any, values: Mapping[str, str]) -> Any:
    if isinstance(data, dict):
        return {key: _substitute(value, values) for key, value in data.items()}
    if isinstance(data, list):
        return [_substitute(value, values) for value in data]
    if isinstance(data, str):
        for key, value in values.items():
            data = data.replace(f"{{{key}}}", value)
    return data


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """``section.key=value`` strings -> mapping; values are read as YAML (numbers, booleans, lists)."""
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"SET: {setting!r} is not of the form section.key=value")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"SET: {setting!r}: the value is not valid YAML") from error
    return found
