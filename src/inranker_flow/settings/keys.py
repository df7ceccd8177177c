"""The identities of a run: the same for the same values, whoever resolved them (`make submit`, `make run`, `preflight`)."""

from __future__ import annotations

import json
from hashlib import sha256

from inranker_flow.config.parsing import deciding
from inranker_flow.settings.profile import Profile

#: Sections that say for which corpora the work is done, or what is thought of it; not how it is done.
_ASIDE = ("targets", "corpora", "export", "promotion")


def keys(pipeline: str, resolved: Profile, code: str) -> dict[str, str]:
    """Return ``run_key`` is a digest of pipeline, values and ``code``: a repeat of the same work has the same key.
    ``work_key`` is one of the configuration alone: what is trained anew when it changes, whatever the corpora, and not for
    other code. Settings that change no result are in neither."""
    values = deciding(resolved)
    del values["cluster"]
    if pipeline != "retrain":
        del values["corpora"]
    identity = json.dumps([pipeline, values, code], sort_keys=True)
    work = json.dumps({key: value for key, value in values.items() if key not in _ASIDE}, sort_keys=True)
    return {"run_key": _digest(identity), "work_key": _digest(work)}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
