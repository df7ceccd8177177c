"""What the values of a profile mean together: refused where a profile is read, not hours later by a stage.

Nothing is asked of anybody here (no network); checkpoints are looked at where they lie on this machine.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inranker_flow.config.sections import CorpusConfig, ScoringConfig
from inranker_flow.config.values import LABELLED_TEXTS, LABELS, LABELS_FORMS
from inranker_flow.errors import UserError
from inranker_flow.generation import conflicts, prompts
from inranker_flow.judging import prompts as judging_prompts
from inranker_flow.judging.model import language_models
from inranker_flow.rankers import checkpoints, files, random_models, templates
from inranker_flow.rankers.kinds import kind_by_name, refusal
from inranker_flow.settings import clusters, evidence, first_stages, teachers, variants
from inranker_flow.students import adapters
from inranker_flow.text_files import quoted, shown

if TYPE_CHECKING:
    from inranker_flow.settings.profile import Profile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Longer names do not fit into MLflow's keys, beside a measure and a system.
_LONGEST_NAME = 100
#: Where files lie, and what else a collection may be.
_PLACES = ("s3", "hf", "file")
_KINDS = ("ir_datasets", *LABELLED_TEXTS, "demo")
#: Losses over the documents of a query, of which one alone says nothing.
_OVER_QUERIES = {"margin_mse", "kl", "ranknet", "lce"}


def check(profile: Profile) -> None:
    """Raise :class:`UserError` for the first thing that cannot work, naming its key."""
    for each in _CHECKS:
        each(profile)


def notes(profile: Profile) -> Iterator[str]:
    """Return a line for each setting that works and is perhaps not meant."""
    from inranker_flow.evaluation import measures

    for name in profile.evaluation.measures:
        depth = profile.retrieval.test_depth
        if measures.cutoff(name) > depth:
            yield (
                f"evaluation.measures: {name} looks further down than the {depth} candidates of a query "
                "(retrieval.test_depth), so what the first stage finds beyond them counts as not found"
            )
    for key, phase in (("phase1", profile.phase1), ("phase2", profile.phase2)):
        if phase.max_steps and phase.warmup_steps >= phase.max_steps:
            yield (
                f"{key}.warmup_steps: {phase.warmup_steps} of {key}.max_steps {phase.max_steps}: the learning rate never "
                "reaches its value"
            )
        if not phase.lora_rank and (phase.lora_alpha or phase.lora_dropout):
            yield f"{key}.lora_alpha, .lora_dropout: count for nothing without {key}.lora_rank: the student is trained whole"
    yield from teachers.notes(profile.teacher)
    yield from first_stages.notes(profile.retrieval)
    kept, written = profile.teacher.keep_queries, profile.generation.documents * profile.generation.queries_per_document
    if kept and kept >= written:
        yield (
            f"teacher.keep_queries: {kept}, and no more than {written} are written for a collection "
            "(generation.documents x queries_per_document): all are kept"
        )


def name_of(corpus: CorpusConfig, where: str, given: bool) -> None:
    """Raise :class:`UserError` where its name is none, with the remedy; ``given``: not made of the address."""
    if _NAME.fullmatch(corpus.name) and len(corpus.name) <= _LONGEST_NAME:
        return
    rule = (
        f"may hold only letters, digits, '.', '_' and '-', {_LONGEST_NAME} at most, and begins with a letter or digit"
    )
    if given:
        raise UserError(f"{where}: collection name {quoted(corpus.name)} {rule}", code="collection-name")
    example = f"{{name: NAME, uri: {shown(corpus.uri)}}}"
    raise UserError(
        f"{where}: {quoted(corpus.uri)} gives the collection no name: that {rule}; give it one in a profile file of yours, "
        f"{where}: {example if where == 'source' else f'[{example}]'}, or rename the folder",
        code="collection-name",
    )


def is_labelled(corpus: CorpusConfig) -> bool:
    """Return whether a collection is one file of pairs with their labels."""
    return corpus.uri.partition(":")[0] in LABELLED_TEXTS


def _queries(key: str, corpus: CorpusConfig) -> None:
    """Check the settings about the queries that people asked."""
    if corpus.queries == "synthetic":
        if corpus.log or corpus.log_queries:
            raise UserError(
                f"{key}.{'log' if corpus.log else 'log_queries'}: is for queries that people asked, and {key}.queries is "
                "synthetic; set that to log or both",
                code="setting-conflict",
            )
    elif key == "source":
        raise UserError(
            f"source.queries: {corpus.queries}: phase 1 learns from judged queries; set it for a target",
            code="setting-conflict",
        )
    if corpus.log:
        _stored(f"{key}.log", corpus.log)


def _collections(profile: Profile) -> None:
    collections = (profile.source, *profile.targets)
    keys = ("source", *(f"targets[{number}]" for number in range(len(profile.targets))))
    by_name: dict[str, CorpusConfig] = {}
    for key, corpus in zip(keys, collections, strict=True):
        scheme, _, rest = corpus.labels.partition(":")
        if corpus.labels and (scheme not in LABELS or not rest.strip()):
            raise UserError(
                f"{key}.labels: {quoted(corpus.labels)} is not one of the published formats; give {LABELS_FORMS}",
                code="labels-form",
            )
        if corpus.labels:
            _stored(f"{key}.labels", rest)
        if corpus.labels and is_labelled(corpus):
            raise UserError(
                f"{key}.labels: {corpus.uri} brings its own labels; remove labels: {corpus.labels}",
                code="setting-conflict",
            )
        _queries(key, corpus)
        if corpus.train_split == corpus.test_split:
            raise UserError(
                f"{key}.test_split: {quoted(corpus.test_split)} is train_split too, so every test query would be a leak; "
                "name two splits",
                code="setting-conflict",
            )
        # A folder on many a disk, and a key in many a database, is the same in either case.
        other = by_name.setdefault(corpus.name.lower(), corpus)
        if other is not corpus:
            how = repr(corpus.name) if other.name == corpus.name else f"{other.name!r} and {corpus.name!r}"
            raise UserError(
                f"two collections are named {how} ({shown(other.uri)} and {shown(corpus.uri)}); rename a folder, or give "
                "each a name in a profile file of yours",
                code="collection-name-twice",
            )
    seen: dict[tuple[str, str], str] = {}
    for each in profile.targets:
        if seen.setdefault((each.uri, each.test_split), each.name) != each.name:
            raise UserError(
                f"targets: {shown(each.uri)} is there twice ({seen[each.uri, each.test_split]} and {each.name}); name it once",
                code="collection-twice",
            )
    if profile.corpora.uri:
        _stored("corpora.uri", profile.corpora.uri, ("s3", "file"))


def place(key: str, uri: str) -> None:
    """Check a collection's address by itself."""
    from inranker_flow.corpora.sources.demo import parse_demo

    kind, colon, rest = uri.partition(":")
    if kind == "demo" and colon:
        try:
            parse_demo(rest)
        except UserError as error:
            raise UserError(f"{key}: {error}", code=error.code) from error
    elif colon and kind in _KINDS:
        if not rest.strip():
            raise UserError(
                f"{key}: {quoted(uri)} names nothing; give {kind}:{'ID' if kind == 'ir_datasets' else 'FILE'}",
                code="address-form",
            )
        if kind in LABELLED_TEXTS:
            _stored(key, rest)
    else:
        _stored(key, uri)


def _stored(key: str, uri: str, places: tuple[str, ...] = _PLACES) -> None:
    """An address of files: a path, or one of ``places``."""
    scheme, colon, rest = uri.partition(":")
    if rest.startswith("//"):
        if scheme not in places:
            known = ", ".join(f"{place}://" for place in places)
            raise UserError(
                f"{key}: {quoted(uri)}: no such kind of address; give a path, or one of {known}", code="address-form"
            )
        if not rest.strip("/ "):
            raise UserError(f"{key}: {quoted(uri)} names nothing; give {scheme}://...", code="address-form")
        return
    if colon and re.fullmatch(r"[A-Za-z][\w-]+", scheme) and not _exists(uri):
        close = difflib.get_close_matches(scheme, [*_KINDS, *places], 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join([*_KINDS, *places])}, or give a path"
        raise UserError(f"{key}: {quoted(uri)}: no such kind of address, and no such file; {hint}", code="address-form")


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, no such user
        return False


def _checkpoints(profile: Profile) -> None:
    """References, and what the files of those that lie here say."""
    if not profile.phase1.checkpoint:
        raise UserError(
            "phase1.checkpoint is missing: the checkpoint that the student starts from", code="setting-missing"
        )
    if profile.phase2.checkpoint:
        raise UserError(
            "phase2.checkpoint must stay empty: phase 2 starts from the phase-1 student", code="setting-conflict"
        )
    loaded = list(teachers.local(profile.teacher))
    for key, teacher in loaded:
        _reference(f"{key}.checkpoint", teacher.checkpoint)
    _reference("phase1.checkpoint", profile.phase1.checkpoint)
    for model in language_models(profile.generation, profile.evaluation.judge):
        conflicts.check(model)
        if model.backend == "openai":
            if model.tokenizer:
                _reference(f"{model.section}.tokenizer", model.tokenizer, tokenizer=True)
        elif model.backend != "crop":
            _reference(f"{model.section}.checkpoint", model.checkpoint)
    _student(profile)
    for key, teacher in loaded:
        _scoring(f"{key}.scoring", teacher.scoring, teacher.checkpoint)
    _scoring("evaluation.scoring", profile.evaluation.scoring, "")


def _reference(key: str, reference: str, tokenizer: bool = False) -> None:

    scheme, colon, rest = reference.partition(":")
    try:
        if scheme == "init" and colon and not tokenizer:
            _reference(key, random_models.options(reference)[1]["tokenizer"], tokenizer=True)
        elif scheme == "demo" and colon:
            checkpoints.locate(reference)
        elif scheme == "models" and colon:
            if not re.fullmatch(r"/*[^/:@]+(/[0-9]+|@[\w-]+)", rest):
                raise UserError(
                    f"{quoted(reference)}: the registry's models are models:/NAME/VERSION and models:/NAME@ALIAS",
                    code="address-form",
                )
        elif rest.startswith("//"):
            if scheme not in ("s3", "file"):
                hub = re.fullmatch(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)/?", reference)
                hint = f"the hub's id is {hub[1]}" if hub else "give a folder, s3:// or a hub id"
                raise UserError(f"{quoted(reference)}: no such kind of address; {hint}", code="address-form")
            if not rest.strip("/ "):
                raise UserError(f"{quoted(reference)} names nothing; give {scheme}://...", code="address-form")
        elif not (
            _exists(reference) or reference.startswith((".", "/", "~")) or checkpoints.HUB_ID.fullmatch(reference)
        ):
            raise UserError(
                f"{quoted(reference)}: neither a folder here nor an id of the hub (OWNER/NAME)", code="not-found"
            )
    except UserError as error:
        raise error if str(error).startswith(key) else UserError(f"{key}: {error}", code=error.code) from error


def _folder(reference: str) -> Path | None:
    """Return the checkpoint's folder on this machine; None if it is elsewhere."""

    if reference.startswith("init:"):
        return _folder(random_models.options(reference)[1]["tokenizer"])
    if reference.startswith("demo:"):
        return checkpoints.locate(reference)
    path = Path(reference.removeprefix("file://")).expanduser() if _exists(reference.removeprefix("file://")) else None
    return path if path and path.is_dir() else None


def _json(key: str, path: Path) -> dict[str, Any]:
    """Return an object in a file of a checkpoint; empty where there is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise UserError(f"{key}: {path}: {reason}; fetch the checkpoint again", code="checkpoint-damaged") from error
    if not isinstance(found, dict):
        raise UserError(f"{key}: {path}: holds no object; fetch the checkpoint again", code="checkpoint-damaged")
    return found


def _config(key: str, folder: Path) -> dict[str, Any]:
    return _json(key, folder / "config.json")


def _kind(config: dict[str, Any]) -> str:
    """Return the kind of a reranker that a config.json tells without transformers; "" where it does not."""

    names = config.get("architectures")
    if not (isinstance(names, list) and names and all(isinstance(each, str) for each in names)):
        return ""
    return kind_by_name(names, bool(config.get("is_encoder_decoder"))) or ""


def _preflight() -> Any:
    """Return the looks at a checkpoint that a run begins with; they bring MLflow's client, which most commands do without."""
    from inranker_flow.preflight import checkpoints

    return checkpoints


def _student(profile: Profile) -> None:
    """Check what training makes of the checkpoint, where it is here, and that its two answers differ."""
    reference = profile.phase1.checkpoint
    folder = None if reference.startswith("init:") else _folder(reference)
    config = _config("phase1.checkpoint", folder) if folder else {}
    for key, phase in (("phase1", profile.phase1), ("phase2", profile.phase2)):
        # Empty ones are the kind's own, and differ.
        if (phase.true_token or "▁true") == (phase.false_token or "▁false"):
            raise UserError(
                f"{key}: true_token and false_token are both {phase.true_token or '▁true'!r}; they must differ",
                code="setting-conflict",
            )
        _template(f"{key}.", phase.prompt, "prompt")
        if reference.startswith("init:"):
            adapters.check(reference, random_models.kind_of(reference), phase, f"{key}.lora_rank")
        try:
            if key == "phase1" and folder:
                _preflight().check_student(replace(phase, checkpoint=str(folder)))
            elif folder and config and any(getattr(profile.phase1, name) != getattr(phase, name) for name in _READS):
                _preflight().check_start(shown(reference), phase, config, files.reader(folder), key)
        except UserError as error:
            raise UserError(f"{key}.checkpoint: {error}", code=error.code) from error


#: Settings of a phase that say how its student reads.
_READS = ("true_token", "false_token", "truncation", "max_length", "lora_rank")


def _template(key: str, prompt: str, name: str = "scoring.prompt") -> None:
    try:
        if prompt:
            templates.load(prompt, "")
    except UserError as error:
        raise UserError(f"{key}{str(error).replace('scoring.prompt', name, 1)}", code=error.code) from error


def _scoring(key: str, scoring: ScoringConfig, reference: str) -> None:
    """Settings that do not fit the kind, where that is known."""
    section = key.removesuffix(".scoring")
    _template(key.removesuffix("scoring"), scoring.prompt)
    folder = _folder(reference) if reference and not reference.startswith("init:") else None
    config = _config(f"{section}.checkpoint", folder) if folder else {}
    if folder:
        try:
            _preflight().check_checkpoint(reference)
        except UserError as error:
            raise UserError(f"{section}.checkpoint: {error}", code=error.code) from error
    told = _kind(config)
    names = config.get("architectures")
    if scoring.kind == "auto" and names and not told:
        raise UserError(f"{section}.checkpoint: {refusal(shown(reference), names, '')}", code="checkpoint-kind")
    kind = told if scoring.kind == "auto" else scoring.kind
    if told and kind != told:
        raise UserError(
            f"{key}.kind: {scoring.kind}, but {shown(reference)} is of the kind {told}; set it to auto",
            code="setting-conflict",
        )
    if scoring.dtype == "int8" and (kind in ("causal", "encoder") or scoring.forward == "reference"):
        what = f"a teacher of the kind {kind}" if kind in ("causal", "encoder") else "forward: reference"
        raise UserError(
            f"{key}.dtype: int8 is for the fast forward pass of monoT5, not for {what}; set it to float32",
            code="setting-conflict",
        )
    if scoring.truncation == "reference" and kind in ("causal", "encoder"):
        raise UserError(
            f"{key}.truncation: reference is monoT5's, and this is a teacher of the kind {kind}",
            code="setting-conflict",
        )
    positions = files.positions(config)
    if positions and kind in ("causal", "encoder") and positions < scoring.max_length:
        raise UserError(
            f"{key}.max_length: {scoring.max_length}, but {shown(reference)} has {positions} positions; set it to at most that",
            code="setting-value",
        )


def _prompts(profile: Profile) -> None:
    if profile.evaluation.judge.checkpoint:
        judging_prompts.load(profile.evaluation.judge.prompt)
    for key, prompt in (
        ("generation.prompt", profile.generation.prompt),
        ("source.prompt", profile.source.prompt),
        *((f"targets[{number}].prompt", each.prompt) for number, each in enumerate(profile.targets)),
    ):
        if prompt:
            try:
                prompts.load(prompt)
            except UserError as error:
                raise UserError(f"{key}{str(error).removeprefix('generation.prompt')}", code=error.code) from error


def _phases(profile: Profile) -> None:
    if profile.phase1.start != "phase1":
        raise UserError(
            "phase1.start: only phase 2 may go on from the champion; leave it out, or set phase2.start",
            code="setting-conflict",
        )
    if profile.phase1.replay:
        raise UserError(
            "phase1.replay: phase 1 sees nothing but the source; leave it out, or set phase2.replay",
            code="setting-conflict",
        )
    if profile.phase1.merge != "none":
        raise UserError(
            "phase1.merge: phase 1 has the source alone, so there is nothing to merge; leave it out, or set phase2.merge",
            code="setting-conflict",
        )
    for key, phase in (("phase1", profile.phase1), ("phase2", profile.phase2)):
        published = profile.source.labels or is_labelled(profile.source)
        if (
            _OVER_QUERIES & set(phase.loss.split("+"))
            and not profile.retrieval.wanted
            and not (key == "phase1" and published)
        ):
            raise UserError(
                f"{key}.loss: {phase.loss} compares the documents of a query, and with retrieval.negatives 0 there is one; "
                "draw some, or set it to mse",
                code="setting-conflict",
            )
        judged = {"ce", "lce"} & set(phase.loss.split("+"))
        if judged and (is_labelled(profile.source) or (key == "phase2" and not phase.replay)):
            raise UserError(
                f"{key}.loss: {phase.loss} learns from judgements, and this phase sees no judged query; set it to mse"
                + (", or set phase2.replay" if key == "phase2" else ", or give a source with judged training queries"),
                code="setting-conflict",
            )


def _evaluation(profile: Profile) -> None:
    evaluation, promotion = profile.evaluation, profile.promotion
    if find_spec("ir_measures") is None:
        return  # in the image of `preflight`, which has no such library: `evaluate` looks at them before it scores
    from inranker_flow.evaluation import measures

    measures.parse(evaluation.measures)
    if evaluation.judge.checkpoint:
        measures.told_by_grades(evaluation.measures, evaluation.judge.depth)
    if evaluation.passage_stride > evaluation.passage_words:
        raise UserError(
            f"evaluation.passage_stride: {evaluation.passage_stride} is above evaluation.passage_words "
            f"({evaluation.passage_words}), so words between two passages would not be read",
            code="setting-conflict",
        )
    if promotion.latency_budget_ms and not evaluation.latency_queries:
        raise UserError(
            f"promotion.latency_budget_ms: {promotion.latency_budget_ms:g}, but evaluation.latency_queries "
            "is 0, so no latency would be measured and every verdict would be HOLD; time some queries or drop the budget",
            code="setting-conflict",
        )
    if promotion.measure not in evaluation.measures:
        raise UserError(
            f"promotion.measure {quoted(promotion.measure)} is not among evaluation.measures "
            f"({', '.join(evaluation.measures)})",
            code="setting-conflict",
        )
    if not measures.tells_orders_apart(promotion.measure, profile.retrieval.test_depth):
        raise UserError(
            f"promotion.measure: {promotion.measure} is the same for every order of the {profile.retrieval.test_depth} "
            "candidates of a query (retrieval.test_depth), so no model could ever win; set it to nDCG@10",
            code="setting-conflict",
        )


_CHECKS: tuple[Callable[[Profile], None], ...] = (
    _collections,
    _checkpoints,
    _prompts,
    first_stages.check,
    _phases,
    _evaluation,
    evidence.check,
    variants.check,
    lambda profile: clusters.check(profile.cluster),
)
