"""Under which licences a student's ancestors are, as far as they say so themselves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.storage import uris

log = logging.getLogger(__name__)


def of_checkpoint(reference: str, revision: str = "") -> str:
    """Return the licence that a checkpoint's model card or config.json names, as it is written there; "" where none does.

    A card on the hub is asked for, once; where the hub does not answer, its cache on this disk is.
    """
    if reference.startswith("demo:"):
        return "apache-2.0"  # they are part of this package
    if reference.startswith(("init:", "models:")):
        return ""
    if reference.startswith("s3:"):
        return _of_files(_from_s3(reference, "README.md"), _from_s3(reference, "config.json"))
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return _of_files(folder / "README.md", folder / "config.json")
    return _of_hub(reference, revision)


def _from_s3(reference: str, name: str) -> Path:
    """Return a copy of one file: the weights are not wanted."""

    try:
        return uris.local_copy(f"{reference.rstrip('/')}/{name}")
    except UserError:
        return Path(name)  # of no file: a checkpoint need not have it


def _of_files(card: Path, config: Path) -> str:
    return (_of_card(card) if card.is_file() else "") or _of_config(config)


def _of_config(path: Path) -> str:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(found.get("license") or "") if isinstance(found, dict) else ""


def _of_card(path: Path) -> str:
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except Exception as error:  # whatever a parser makes of a card that a person wrote
        log.warning("%s: its licence is not readable: %s", path, " ".join(str(error).split()))
        return ""
    named = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return ", ".join(named) if isinstance(named, list) else str(named or "")


def _of_hub(repository: str, revision: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return _of_card(Path(hf_hub_download(repository, "README.md", revision=revision or None)))
    except Exception as error:  # the client's errors have no common base, and no evaluation fails for want of a card
        log.info("%s: its licence is not known here (%s)", repository, type(error).__name__)
        return ""
