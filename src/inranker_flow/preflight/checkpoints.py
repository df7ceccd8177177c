"""Whether a checkpoint is where its reference says, and is what it is to be, without loading or downloading it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inranker_flow import reading
from inranker_flow.config.sections import DistillConfig, ScoringConfig, Teacher
from inranker_flow.config.values import Kind
from inranker_flow.errors import UserError
from inranker_flow.preflight import hub
from inranker_flow.preflight.stores import readable
from inranker_flow.rankers import families, files, labels, random_models, tensors
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.rankers.kinds import (
    T5S,
    bi_encoder,
    check_masks,
    encoder_types,
    kind_by_name,
    refusal,
    starting_kind,
)
from inranker_flow.rankers.random_models import SIZES
from inranker_flow.storage import uris
from inranker_flow.students import adapters, layers
from inranker_flow.tracking import connection

#: What a kind of use asks of config.json and the small files; raises :class:`UserError`.
Judge = Callable[[dict[str, Any], files.Read], None]


def check_checkpoint(reference: str, revision: str = "", judge: Judge | None = None) -> str:
    """Find a checkpoint (see :mod:`inranker_flow.rankers.checkpoints` for what it may be), and look at its small files.

    transformers, which is not here, knows defaults: only what the files say is judged. Of the hub's config.json alone.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "init":
        return _check_random(reference, rest)
    if scheme == "models":
        return _check_registered(reference, rest)
    if scheme == "s3":
        names = readable(reference)
        files.check_whole(reference, names, lambda name: uris.read(f"{reference.rstrip('/')}/{name}"))
        if "config.json" not in names:
            raise UserError(
                f"{reference}: no checkpoint: it holds no config.json; upload the whole folder",
                code="checkpoint-incomplete",
            )

        def read(name: str) -> bytes | None:
            return uris.read(f"{reference.rstrip('/')}/{name}") if name in names else None

        return _check_files(f"{reference}: readable", reference, read, names, None, judge)
    if folder := locate(reference):  # folders and the demo's own; nothing is fetched
        names = [each.name for each in folder.iterdir()]
        return _check_files(f"{reference}: there", reference, files.reader(folder), names, folder, judge)
    told = hub.check_file(reference, revision, "config.json")
    text = hub.read(reference, revision, "config.json") if judge else b""
    if not text:
        return told
    config = files.parse_config(reference, text)
    said = files.check_config(reference, config)
    if judge:
        judge(config, lambda name: None)
    return f"{told}; {said}" if said else told


def _check_files(
    told: str, reference: str, read: files.Read, names: list[str], folder: Path | None, judge: Judge | None
) -> str:
    config = files.parse_config(reference, read("config.json") or b"")
    said = files.check_config(reference, config)
    if judge:
        judge(config, read)
    found = files.check_weights(reference, names, read, folder)
    tensors.check_layers(reference, config, found)
    tensors.check_head(reference, config, found)
    files.check_tokenizer(reference, read, names)
    files.check_vocabulary(reference, read, config)
    return f"{told}; {said}" if said else told


def check_teacher(teacher: Teacher) -> str:
    """As :func:`check_checkpoint`, and whether it is a reranker that says, or is said, how it is to be read."""
    reference, scoring = teacher.checkpoint, teacher.scoring

    def judge(config: dict[str, Any], read: files.Read) -> None:
        names = config.get("architectures")
        kind = scoring.kind
        if kind == "auto":
            if files.gives_vectors(read):
                raise UserError(bi_encoder(reference), code="checkpoint-kind")
            model_type = str(config.get("model_type") or "")
            if not names and model_type in ("", *T5S):
                return
            found = kind_by_name(names, bool(config.get("is_encoder_decoder")))
            other = found == "monot5" and model_type not in ("", *T5S)
            backwards = found == "encoder" and model_type and model_type not in encoder_types()
            if found is None or other or backwards:
                raise UserError(refusal(reference, names, model_type), code="checkpoint-kind")
            kind = found
        _check_positions(reference, kind, config, scoring.max_length, "teacher.scoring")
        if kind == "encoder":
            check_masks(reference, str(config.get("model_type")))
            labels.find(reference, config, scoring.false_token, scoring.true_token)
        elif kind == "causal" and not scoring.prompt and (model_type := str(config.get("model_type", ""))):
            told = files.names_of(reference, config, read)
            families.find(reference, model_type, told, files.chat_templates(read))
        elif kind == "monot5":
            _check_labels(reference, scoring, config, read)

    return check_checkpoint(reference, teacher.revision, judge)


def _check_labels(reference: str, scoring: ScoringConfig, config: dict[str, Any], read: files.Read) -> None:
    told = files.names_of(reference, config, read)
    if scoring.kind == "auto" and not (scoring.false_token and scoring.true_token):
        families.check_known(reference, told)
    false, true = families.monot5_answers(told) or ("▁false", "▁true")
    _check_tokens(reference, read, scoring.false_token or false, scoring.true_token or true, "teacher.scoring")


def _check_tokens(reference: str, read: files.Read, false: str, true: str, section: str) -> None:
    if lost := files.has_tokens(read, (false, true)):
        raise UserError(
            f"{reference}: the vocabulary has no token {lost!r}, so this checkpoint is no monoT5; give one that has, or set "
            f"{section}.true_token and {section}.false_token to its own label words",
            code="checkpoint-tokens",
        )


def check_student(student: DistillConfig, later: DistillConfig | None = None) -> str:
    """As :func:`check_checkpoint`, and whether training can make a student of it: the line says of which kind.

    ``later``: phase 2, which goes on from the same student unless it starts from the champion.
    """
    reference = student.checkpoint
    phases = {"phase1": student}
    if later and later.start == "phase1":
        phases["phase2"] = later
    if reference.startswith("init:"):
        told, kind = check_checkpoint(reference), random_models.kind_of(reference)
        for section, phase in phases.items():
            adapters.check(reference, kind, phase, f"{section}.lora_rank")
        return f"{told}, a student of the kind {kind}"
    kinds: list[str] = []

    def judge(config: dict[str, Any], read: files.Read) -> None:
        kinds.extend(check_start(reference, phase, config, read, section) for section, phase in phases.items())

    told = check_checkpoint(reference, student.revision, judge)
    return f"{told}, a student of the kind {kinds[0]}" if kinds else told


def check_start(
    reference: str, student: DistillConfig, config: dict[str, Any], read: files.Read, section: str = "phase1"
) -> Kind:
    """Return the kind of student that a checkpoint with these files becomes. Raises :class:`UserError` where none does.

    ``section``: where ``student`` stands in the profile.
    """
    kind = starting_kind(reference, config)
    adapters.check(reference, kind, student, f"{section}.lora_rank")
    if kind == "monot5":
        _check_tokens(reference, read, student.false_token or "▁false", student.true_token or "▁true", section)
    elif kind == "causal":
        _check_answers(reference, student, config, read, section)
    if kind != "monot5" and student.truncation == "reference":
        raise UserError(
            f"{reference}: truncation: reference is monoT5's, and this is a student of the kind {kind}; set "
            f"{section}.truncation to document",
            code="setting-conflict",
        )
    names = config.get("architectures") or [""]
    if kind == "encoder" and names[0].endswith("ForSequenceClassification") and labels.count(config) in (1, 2):
        labels.find_for_student(section, reference, config, student.false_token, student.true_token)
    layers.check(reference, config, student.layers, f"{section}.layers")
    _check_positions(reference, kind, config, student.max_length, section)
    return kind


def _check_positions(reference: str, kind: str, config: dict[str, Any], wanted: int, section: str) -> None:
    """Raise :class:`UserError` where ``wanted`` tokens are more than a model tells apart by place; T5 knows no places."""
    positions = files.positions(config)
    if kind != "monot5" and positions and positions < wanted:
        raise UserError(
            f"{reference}: max_length {wanted} is more than the checkpoint's {positions} positions; set "
            f"{section}.max_length to {positions} or less",
            code="setting-value",
        )


def _check_answers(
    reference: str, student: DistillConfig, config: dict[str, Any], read: files.Read, section: str
) -> None:
    """Raise :class:`UserError` for answers of a causal student that its vocabulary lacks, that are one, or of which one is set
    where nothing says the other."""
    false, true = student.false_token, student.true_token
    if lost := files.has_tokens(read, list(filter(None, (false, true)))):
        raise UserError(
            f"{reference}: the vocabulary has no token {lost!r}; set {section}.true_token and false_token to pieces of it",
            code="checkpoint-tokens",
        )
    if false and false == true:
        raise UserError(
            f"{section}.true_token and {section}.false_token are both {true!r}; they must differ",
            code="setting-conflict",
        )
    if bool(false) != bool(true) and not families.named(student.prompt) and not read(reading.FILENAME):
        try:
            chat = files.chat_templates(read)
            families.find(reference, str(config.get("model_type", "")), files.names_of(reference, config, read), chat)
        except UserError as error:
            raise UserError(
                f"{section}.{'true_token' if true else 'false_token'}: set alone, and nothing says the other answer of "
                f"{reference}; set both, or none",
                code="setting-missing",
            ) from error


def check_writer(reference: str, revision: str = "", section: str = "generation") -> str:
    """As :func:`check_checkpoint`, and whether it can write at all."""

    def judge(config: dict[str, Any], read: files.Read) -> None:
        names = config.get("architectures")
        if names and not config.get("is_encoder_decoder") and kind_by_name(names, False) != "causal":
            raise UserError(
                f"{reference}: a {names[0]} writes nothing; give a causal or an encoder-decoder language model as "
                f"{section}.checkpoint",
                code="checkpoint-kind",
            )

    return check_checkpoint(reference, revision, judge)


def _check_random(reference: str, options: str) -> str:
    size, _, query = options.partition("?")
    if size not in SIZES:
        raise UserError(f"{reference}: no such size; there is {', '.join(SIZES)}", code="checkpoint-size-unknown")
    for option in query.split("&"):
        name, _, value = option.partition("=")
        if name == "tokenizer":
            return f"{reference}: tokenizer {_check_tokenizer(value)}"
    return f"{reference}: made on the spot"


def _check_tokenizer(reference: str) -> str:
    """Return a tokenizer's folder, which needs no config.json."""
    if reference.startswith("s3://"):
        readable(reference)
        return f"{reference}: readable"
    return f"{reference}: there" if Path(reference).expanduser().is_dir() else check_checkpoint(reference)


def _check_registered(reference: str, rest: str) -> str:
    name, at, alias = rest.strip("/").partition("@")
    name, _, version = (name, "", "") if at else name.partition("/")
    client = connection.client()
    try:
        if at:
            client.get_model_version_by_alias(name, alias)
        else:
            client.get_model_version(name, version)
    except Exception as error:  # MLflow's errors are not imported here
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{reference}: the model registry does not give it ({text}); correct name or version",
            code="version-missing",
        ) from error
    return f"{reference}: registered"
