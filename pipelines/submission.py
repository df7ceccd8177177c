"""What a pipeline run is started with, the same for the laptop and for the cluster."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.profile import Profile
from pipelines.placement import content_tag

#: Parameters that say for which corpora the work is done, or what is thought of it; not how it is done.
_ASIDE = ("targets", "corpora", "promotion")


def arguments(pipeline: str, resolved: Profile) -> dict[str, Any]:
    """Values of the pipeline's parameters: the profile's, and two identities. Raises :class:`UserError` where the profile
    does not say what the pipeline needs."""
    values = resolved.arguments()
    corpora = values.pop("corpora")
    if pipeline == "retrain":
        if "uri" not in corpora:
            raise UserError(
                "corpora.uri is not set: SET=corpora.uri=s3://BUCKET/corpora says where corpora are looked for"
            )
        values["corpora"] = corpora
    elif not values["targets"]:
        raise UserError("targets: none given; TARGETS=COLLECTION,... names them, or PIPELINE=retrain looks for them")
    return {**values, **keys(pipeline, resolved)}


def keys(pipeline: str, resolved: Profile) -> dict[str, str]:
    """The identities of a run.

    ``run_key`` is a digest of pipeline, arguments and code: a repeat of the same work has the same key. ``work_key`` is
    one of the configuration alone: what is trained anew when it changes, whatever the corpora, and not for other code.
    """
    values = resolved.as_data()
    if pipeline != "retrain":
        del values["corpora"]
    identity = json.dumps([pipeline, values, content_tag()], sort_keys=True)
    work = json.dumps({key: value for key, value in values.items() if key not in _ASIDE}, sort_keys=True)
    return {"run_key": _digest(identity), "work_key": _digest(work)}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
