"""A profile: every value of one pipeline run, resolved and validated.

Sections as plain data + overrides -> typed sections. `pipelines/profile.py` reads them from a file before anything is
submitted; `preflight` takes a pipeline's arguments, for somebody may have typed them into Kubeflow's form.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inranker_flow import text_files
from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.config.export import ExportConfig
from inranker_flow.config.parsing import as_dict, parse, without_defaults
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import (
    CorporaConfig,
    CorpusConfig,
    DistillConfig,
    EvaluateConfig,
    GenerateConfig,
    PrepareConfig,
    PromoteConfig,
    TeacherConfig,
)
from inranker_flow.errors import UserError
from inranker_flow.settings import checks
from inranker_flow.text_files import quoted, shown


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
    export: ExportConfig
    promotion: PromoteConfig
    cluster: ClusterConfig

    def check_for(self, pipeline: str) -> None:
        """Raise :class:`UserError` where it does not say what ``pipeline`` needs."""
        if pipeline == "retrain" and not self.corpora.uri:
            raise UserError(
                "corpora.uri is not set: SET=corpora.uri=s3://BUCKET/corpora says where corpora are looked for",
                code="setting-missing",
            )
        if pipeline != "retrain" and not self.targets:
            raise UserError(
                "targets: none given; TARGETS=COLLECTION,... names them, or PIPELINE=retrain looks for them",
                code="setting-missing",
            )

    def as_data(self) -> dict[str, Any]:
        """Return all that decides what a run does, as plain data: every section but ``cluster``, defaults included."""
        plain = as_dict(self)
        del plain["cluster"]
        return plain

    def arguments(self) -> dict[str, Any]:
        """Return the same as KFP is told it: without defaults, and without a section of which nothing is left."""
        sections = {name: getattr(self, name) for name in self.as_data()}
        targets = [without_defaults(each) for each in sections.pop("targets")]
        plain = {name: without_defaults(section) for name, section in sections.items()}
        return {**{name: section for name, section in plain.items() if section}, "targets": targets}


#: Sections that a pipeline is started with: all but ``cluster``, which is compiled in.
SECTIONS = tuple(each.name for each in dataclasses.fields(Profile) if each.name != "cluster")
#: Parameters that stand on top of Kubeflow's form: what a person types there, as make's variables of these names.
FIELDS = ("source", "targets", "teacher", "student", "generator", "settings")
#: Sections whose ``seed`` follows the profile's unless they say otherwise.
SEEDED = ("corpus", "retrieval", "generation", "phase1", "phase2")
TOP = ("seed", "tokenizer", *(field.name for field in dataclasses.fields(Profile)))


def build(data: dict[str, Any]) -> Profile:
    """Return the profile with these sections; :class:`UserError` naming the first key that cannot be right."""
    for section in ("source", "teacher"):
        if not data.get(section):
            raise UserError(
                f"section {section!r} is missing or empty; the demo profile shows what it holds", code="setting-missing"
            )
    listed = data.get("targets") or []
    if not isinstance(listed, list):
        raise UserError(
            f"targets must be a list of collections ([a/folder, another]), got {quoted(listed)}", code="setting-type"
        )
    retrieval = parse(RetrieveConfig, data.get("retrieval", {}), "retrieval")
    cluster = parse(ClusterConfig, data.get("cluster", {}), "cluster")
    evaluation = parse(EvaluateConfig, data.get("evaluation", {}), "evaluation")
    profile = Profile(
        source=collection(data["source"], "source"),
        targets=tuple(collection(target, f"targets[{i}]") for i, target in enumerate(listed)),
        corpora=parse(CorporaConfig, data.get("corpora", {}), "corpora"),
        corpus=parse(PrepareConfig, data.get("corpus", {}), "corpus"),
        retrieval=retrieval,
        teacher=parse(TeacherConfig, data["teacher"], "teacher"),
        generation=dataclasses.replace(
            parse(GenerateConfig, data["generation"], "generation"),
            held_out=evaluation.synthetic_queries,
            held_out_for=evaluation.synthetic_for,
        ),
        phase1=parse(DistillConfig, data.get("phase1", {}), "phase1"),
        phase2=parse(DistillConfig, data.get("phase2", {}), "phase2"),
        evaluation=evaluation,
        export=parse(ExportConfig, data.get("export", {}), "export"),
        promotion=parse(PromoteConfig, data.get("promotion", {}), "promotion"),
        cluster=dataclasses.replace(cluster, first_stage=retrieval.demanding),
    )
    if not profile.targets and not profile.corpora.uri:
        raise UserError(
            "section 'targets' is missing or empty; the demo profile shows what it holds", code="setting-missing"
        )
    checks.check(profile)
    return profile


def collection(data: Any, where: str) -> CorpusConfig:
    """Return a collection given as a mapping, or as its uri alone."""
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
    """Return a short name from where a collection is: the last part that tells it apart."""
    parts = [part for part in re.split(r"[/:]", uri.rstrip("/")) if part and part not in ("train", "test", "dev")]
    return (
        re.sub(r"[^A-Za-z0-9._-]", "-", re.sub(r"\.(jsonl|ndjson|csv|tsv|parquet)(\.gz|\.zst)?$", "", parts[-1]))
        if parts
        else uri
    )


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted ``key`` of plain sections; :class:`UserError` where something on its way is no section."""
    *sections, last = key.split(".")
    for number, section in enumerate(sections):
        if isinstance(data.get(section), str) and section == "source" and not number:
            data[section] = {"uri": data[section]}  # a collection may be given as its address alone
        if data.get(section) is None:
            data[section] = {}
        if not isinstance(data[section], dict):
            raise UserError(
                f"{shown(key)}: {shown('.'.join(sections[: number + 1]))} is not a section", code="setting-unknown"
            )
        # A section that another one was made of (YAML's *alias) stays what it is.
        data[section] = dict(data[section])
        data = data[section]
    data[last] = value


def substitute(data: Any, values: Mapping[str, str]) -> Any:
    """Return ``data`` with ``{name}`` in its texts replaced."""
    if isinstance(data, dict):
        return {key: substitute(value, values) for key, value in data.items()}
    if isinstance(data, list):
        return [substitute(value, values) for value in data]
    if isinstance(data, str):
        for key, value in values.items():
            data = data.replace(f"{{{key}}}", value)
    return data


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Return ``section.key=value`` strings -> mapping; values are read as YAML (numbers, booleans, lists)."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.[\w-]+)*", key):
            # What follows may be a key.
            told = f"{shown(key)}=..." if equals else shown(setting)
            raise UserError(f"SET: {told} is not of the form section.key=value", code="setting-syntax")
        if len(value) > text_files.MOST:
            raise UserError(
                f"SET: {key}: the value has {len(value):,} characters; put it into a file", code="setting-value"
            )
        read = text_files.parse_yaml(value, f"SET: {key}: the value")
        if read is None:
            raise UserError(f"SET: {key}: has no value; give one, as in {key}=VALUE", code="setting-missing")
        if key in found and repr(found[key]) != repr(read):
            raise UserError(
                f"SET: {key} is given twice: {quoted(found[key])} and {quoted(read)}; give it once",
                code="setting-twice",
            )
        found[key] = read
    return found


#: Option -> key of the profile that it sets.
OPTIONS = {
    "seed": "seed",
    "tokenizer": "tokenizer",
    "source": "source",
    "targets": "targets",
    "teacher": "teacher.checkpoint",
    "student": "phase1.checkpoint",
    "generator": "generation.checkpoint",
}


def split(line: str) -> list[str]:
    """Return the settings of make's ``SET``, split as a shell splits words. A list or mapping (``=[...]``, ``={...}``) is one
    word as it stands: its blanks and quotes are YAML's."""
    words, rest = [], line.strip()
    while rest:
        listed = re.match(r"[\w.-]+=(?=[\[{])", rest)
        length = _balanced(rest, listed.end(), line) if listed else _word(rest, line)
        words += [rest[:length]] if listed else shlex.split(rest[:length])
        rest = rest[length:].lstrip()
    return words


def _word(text: str, line: str) -> int:
    """Return the length of the word that ``text`` begins with."""
    found = re.match(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", text, re.DOTALL)
    length = found.end() if found else 0
    if length < len(text) and not text[length].isspace():
        raise UserError(
            f"SET: {line!r}: {text[length]} is not closed; close it, or put the other kind of quotes around it",
            code="setting-syntax",
        )
    return length


def _balanced(text: str, start: int, line: str) -> int:
    """Return the end of the list or mapping at ``start``."""
    depth = 0
    for found in re.finditer(r"""[\[{]|[\]}]|"(?:[^"\\]|\\.)*"|'[^']*'""", text[start:]):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.end()
    raise UserError(f"SET: {line!r}: {text[start]} is not closed", code="setting-syntax")


def overrides(settings: Iterable[str], fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the values by key that settings (``section.key=value``) and ``fields`` (option -> the typed text, or "") ask for."""
    found = parse_overrides(settings)
    for option, value in fields.items():
        if not value:
            continue
        key, typed = OPTIONS[option], _typed(option, value)
        if found.get(key, typed) != typed:
            raise UserError(
                f"{option.upper()} and SET={key} differ: {quoted(typed)} and {quoted(found[key])}; give one of them",
                code="setting-twice",
            )
        found[key] = typed
    return found


def resolve(sections: Mapping[str, Any], settings: str, fields: Mapping[str, str]) -> Profile:
    """Return the profile of a pipeline's arguments: its ``sections``, and what was typed into the form beside them.

    Raises :class:`UserError` as :func:`build` does, and for what was settled when the pipeline was compiled.
    """
    data = json.loads(json.dumps(sections))
    changes = overrides(split(settings), fields)
    for key in changes:
        if key.partition(".")[0] in ("seed", "tokenizer", "cluster"):
            raise UserError(
                f"{shown(key)}: settled when the pipeline was compiled; make submit (or make compile) takes it, or set "
                "phase1.seed, generation.seed, ...",
                code="setting-compiled",
            )
    apply(data, changes)
    return build(data)


def apply(data: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set each of ``changes`` (dotted key -> value) in plain sections."""
    # What holds another key goes first: SET=source.labels=x adds to SOURCE=y.
    for key, value in sorted(changes.items(), key=lambda each: each[0].count(".")):
        text_files.check_plain(value, shown(key))
        set_key(data, key, value)


def _typed(option: str, value: str) -> Any:
    if option == "seed":
        if not re.fullmatch("[0-9]{1,10}", value):
            raise UserError(
                f"SEED: expected a whole number from 0 to {2**31 - 1}, got {quoted(value)}", code="setting-type"
            )
        return int(value)
    if option != "targets":
        return value
    listed = [each.strip() for each in value.split(",") if each.strip()]
    if not listed:
        raise UserError(f"TARGETS: {quoted(value)} names no collection; give them as A,B", code="setting-missing")
    return listed
