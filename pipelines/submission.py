"""What a pipeline run is started with, the same for the laptop and for the cluster."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from pipelines.placement import content_tag
from pipelines.profile import Profile


def arguments(pipeline: str, resolved: Profile) -> dict[str, Any]:
    """Values of the pipeline's parameters: the profile's, and ``run_key``, the identity of this work.

    The key is a digest of pipeline, arguments and code: a repeat of the same work has the same key.
    """
    values = resolved.arguments()
    identity = json.dumps([pipeline, values, content_tag()], sort_keys=True)
    return {**values, "run_key": sha256(identity.encode()).hexdigest()[:16]}
