"""Whether a checkpoint is where its reference says, without loading or downloading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inranker_flow import storage, tracking
from inranker_flow.config import TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.preflight import hub
from inranker_flow.preflight.stores import readable
from inranker_flow.rankers.checkpoints import SIZES, locate
from inranker_flow.rankers.kinds import kind_by_name, refusal


def check_checkpoint(reference: str, revision: str = "") -> str:
    """Find ``config.json`` of a checkpoint (see :mod:`inranker_flow.rankers.checkpoints` for what it may be)."""
    scheme, _, rest = reference.partition(":")
    if scheme == "init":
        return _check_random(reference, rest)
    if scheme == "models":
        return _check_registered(reference, rest)
    if scheme == "s3":
        if "config.json" not in readable(reference):
            raise UserError(f"{reference}: no checkpoint: it holds no config.json; upload the whole folder")
        return f"{reference}: readable"
    if locate(reference):  # folders and the demo's own; nothing is fetched
        return f"{reference}: there"
    return hub.check_file(reference, revision, "config.json")


def check_teacher(teacher: TeacherConfig) -> str:
    """As :func:`check_checkpoint`, and whether its config.json is that of any reranker."""
    told = check_checkpoint(teacher.checkpoint, teacher.revision)
    config = _config(teacher.checkpoint, teacher.revision) if teacher.scoring.kind == "auto" else {}
    # transformers, which is not here, knows defaults: only what the file says is judged.
    names = config.get("architectures")
    if names and kind_by_name(names, bool(config.get("is_encoder_decoder"))) is None:
        raise UserError(refusal(teacher.checkpoint, names, ""))
    return told


def _config(reference: str, revision: str) -> dict[str, Any]:
    """The checkpoint's config.json; empty where it cannot be had without fetching the model, or is none."""
    scheme = reference.partition(":")[0]
    if scheme in ("init", "models"):
        return {}
    if scheme == "s3":
        text = storage.read(f"{reference.rstrip('/')}/config.json")
    elif folder := locate(reference):
        text = (folder / "config.json").read_bytes()
    else:
        text = hub.read(reference, revision, "config.json")
    try:
        found = json.loads(text)
    except ValueError:  # whoever loads it will say more
        return {}
    return found if isinstance(found, dict) else {}


def _check_random(reference: str, options: str) -> str:
    size, _, query = options.partition("?")
    if size not in SIZES:
        raise UserError(f"{reference}: no such size; there is {', '.join(SIZES)}")
    for option in query.split("&"):
        name, _, value = option.partition("=")
        if name == "tokenizer":
            return f"{reference}: tokenizer {_check_tokenizer(value)}"
    return f"{reference}: made on the spot"


def _check_tokenizer(reference: str) -> str:
    """A tokenizer's folder needs no config.json."""
    if reference.startswith("s3://"):
        readable(reference)
        return f"{reference}: readable"
    return f"{reference}: there" if Path(reference).expanduser().is_dir() else check_checkpoint(reference)


def _check_registered(reference: str, rest: str) -> str:
    name, at, alias = rest.strip("/").partition("@")
    name, _, version = (name, "", "") if at else name.partition("/")
    client = tracking.client()
    try:
        if at:
            client.get_model_version_by_alias(name, alias)
        else:
            client.get_model_version(name, version)
    except Exception as error:  # MLflow's errors are not imported here
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{reference}: the model registry does not give it ({text}); correct name or version"
        ) from error
    return f"{reference}: registered"
