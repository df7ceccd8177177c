"""Read a profile: ``profiles/NAME.yaml`` + overrides -> :class:`Profile`. Profiles differ only in values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inranker_flow import text_files
from inranker_flow.errors import UserError
from inranker_flow.settings.profile import SEEDED, TOP, Profile, apply, build, substitute
from inranker_flow.text_files import quoted, shown

PROFILES = Path(__file__).parent


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Read profile ``name`` (or a path to a YAML file), apply ``overrides`` (dotted key -> value), validate.

    Strings may hold ``{seed}`` and ``{tokenizer}``. Raises :class:`UserError` naming file and key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    where = shown(path.name)
    data = _read(path, name)
    apply(data, overrides or {})
    for key in data:
        if key not in TOP:
            close = difflib.get_close_matches(str(key)[:100], TOP, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"a profile has: {', '.join(TOP)}"
            raise UserError(f"{where}: unknown section {quoted(key)}; {hint}", code="setting-unknown")
    seed = data.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise UserError(f"SEED: expected a whole number from 0 to {2**31 - 1}, got {quoted(seed)}", code="setting-type")
    tokenizer = data.pop("tokenizer", "")
    if not isinstance(tokenizer, str) or len(tokenizer) > 4096:
        raise UserError(f"TOKENIZER: expected a folder or a hub id, got {quoted(tokenizer)}", code="setting-type")
    data = substitute(data, {"seed": str(seed), "tokenizer": tokenizer})
    for section, keys in data.items():
        if keys is None:  # all its keys are commented out
            data[section] = [] if section == "targets" else {}
    for section in SEEDED:
        data.setdefault(section, {})
        if isinstance(data[section], dict):
            data[section].setdefault("seed", seed)
    try:
        return build(data)
    except UserError as error:
        raise UserError(f"{where}: {error}", code=error.code) from error


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        data = text_files.parse_yaml(text_files.read(path), shown(str(path)))
    except FileNotFoundError as error:
        known = ", ".join(sorted(each.stem for each in PROFILES.glob("*.yaml")))
        raise UserError(
            f"PROFILE={shown(name)}: no such profile ({shown(str(path))}); there is: {known}, or a path to a file of "
            "yours (its name ends in .yaml)",
            code="profile-unknown",
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{shown(str(path))}: expected sections with keys, got {quoted(data)}", code="setting-type")
    return data
