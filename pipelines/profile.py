"""A profile: every value of one pipeline run, resolved and validated before anything is submitted.

``profiles/NAME.yaml`` + overrides -> typed sections -> the pipeline's arguments. Profiles differ only in values.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow import text_files
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
    without_defaults,
)
from inranker_flow.errors import UserError
from inranker_flow.text_files import quoted, shown
from pipelines import checks

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

    def as_data(self) -> dict[str, Any]:
        """All that decides what a run does, as plain data: every section but ``cluster``, defaults included."""
        plain = as_dict(self)
        del plain["cluster"]
        return plain

    def arguments(self) -> dict[str, Any]:
        """The pipeline's arguments: the same sections, without their defaults."""
        sections = {name: getattr(self, name) for name in self.as_data()}
        targets = [without_defaults(each) for each in sections.pop("targets")]
        return {**{name: without_defaults(section) for name, section in sections.items()}, "targets": targets}


#: Sections whose ``seed`` follows the profile's unless they say otherwise.
_SEEDED = ("corpus", "retrieval", "generation", "phase1", "phase2")
_TOP = ("seed", "tokenizer", *(field.name for field in dataclasses.fields(Profile)))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Read profile ``name`` (or a path to a YAML file), apply ``overrides`` (dotted key -> value), validate.

    Strings may hold ``{seed}`` and ``{tokenizer}``. Raises :class:`UserError` naming file and key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    where = shown(path.name)
    data = _read(path, name)
    # What holds another key goes first: SET=source.labels=x adds to SOURCE=y.
    for key, value in sorted((overrides or {}).items(), key=lambda each: each[0].count(".")):
        text_files.check_plain(value, shown(key))
        _set(data, key, value)
    for key in data:
        if key not in _TOP:
            close = difflib.get_close_matches(str(key)[:100], _TOP, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"a profile has: {', '.join(_TOP)}"
            raise UserError(f"{where}: unknown section {quoted(key)}; {hint}")
    seed = data.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise UserError(f"SEED: expected a whole number from 0 to {2**31 - 1}, got {quoted(seed)}")
    tokenizer = data.pop("tokenizer", "")
    if not isinstance(tokenizer, str) or len(tokenizer) > 4096:
        raise UserError(f"TOKENIZER: expected a folder or a hub id, got {quoted(tokenizer)}")
    data = _substitute(data, {"seed": str(seed), "tokenizer": tokenizer})
    for section, keys in data.items():
        if keys is None:  # all its keys are commented out
            data[section] = [] if section == "targets" else {}
    for section in _SEEDED:
        data.setdefault(section, {})
        if isinstance(data[section], dict):
            data[section].setdefault("seed", seed)
    try:
        return _build(data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _build(data: dict[str, Any]) -> Profile:
    for section in ("source", "teacher"):
        if not data.get(section):
            raise UserError(f"section {section!r} is missing or empty; the demo profile shows what it holds")
    listed = data.get("targets") or []
    if not isinstance(listed, list):
        raise UserError(f"targets must be a list of collections ([a/folder, another]), got {quoted(listed)}")
    profile = Profile(
        source=_corpus(data["source"], "source"),
        targets=tuple(_corpus(target, f"targets[{i}]") for i, target in enumerate(listed)),
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
        raise UserError("section 'targets' is missing or empty; the demo profile shows what it holds")
    checks.check(profile)
    return profile


def _corpus(data: Any, where: str) -> CorpusConfig:
    """A collection given as a mapping, or as its uri alone."""
    if isinstance(data, str):
        data = {"uri": data}
    given = isinstance(data, dict) and data.get("name") is not None
    if isinstance(data, dict) and not given:
        uri = data.get("uri")
        data = {**data, "name": (default_name(uri) if isinstance(uri, str) else "") or "-"}
    corpus = parse(CorpusConfig, data, where)
    checks.place(f"{where}.uri", corpus.uri)
    checks.name_of(corpus, where, given)
    return corpus


def default_name(uri: str) -> str:
    """A short name from where a collection is: the last part that tells it apart."""
    parts = [part for part in re.split(r"[/:]", uri.rstrip("/")) if part and part not in ("train", "test", "dev")]
    return re.sub(r"[^A-Za-z0-9._-]", "-", re.sub(r"\.(jsonl|parquet)(\.gz)?$", "", parts[-1])) if parts else uri


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        data = text_files.parse_yaml(text_files.read(path), shown(str(path)))
    except FileNotFoundError as error:
        known = ", ".join(sorted(each.stem for each in PROFILES.glob("*.yaml")))
        raise UserError(
            f"PROFILE={shown(name)}: no such profile ({shown(str(path))}); there is: {known}, or a path to a file of "
            "yours (its name ends in .yaml)"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{shown(str(path))}: expected sections with keys, got {quoted(data)}")
    return data


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for number, section in enumerate(sections):
        if isinstance(data.get(section), str) and section == "source" and not number:
            data[section] = {"uri": data[section]}  # a collection may be given as its address alone
        if data.get(section) is None:
            data[section] = {}
        if not isinstance(data[section], dict):
            raise UserError(f"{shown(key)}: {shown('.'.join(sections[: number + 1]))} is not a section")
        # A section that another one was made of (YAML's *alias) stays what it is.
        data[section] = dict(data[section])
        data = data[section]
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
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.[\w-]+)*", key):
            # What follows may be a key.
            told = f"{shown(key)}=..." if equals else shown(setting)
            raise UserError(f"SET: {told} is not of the form section.key=value")
        if len(value) > text_files.MOST:
            raise UserError(f"SET: {key}: the value has {len(value):,} characters; put it into a file")
        read = text_files.parse_yaml(value, f"SET: {key}: the value")
        if read is None:
            raise UserError(f"SET: {key}: has no value; give one, as in {key}=VALUE")
        if key in found and repr(found[key]) != repr(read):
            raise UserError(f"SET: {key} is given twice: {quoted(found[key])} and {quoted(read)}; give it once")
        found[key] = read
    return found
