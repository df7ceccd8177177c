"""What a pipeline run is started with, the same for the laptop and for the cluster."""

from __future__ import annotations

from typing import Any

from inranker_flow.settings.keys import keys
from inranker_flow.settings.profile import FIELDS, Profile
from pipelines.placement import content_tag


def arguments(pipeline: str, resolved: Profile) -> dict[str, Any]:
    """Return values of the pipeline's parameters. Raises :class:`UserError` where the profile does not say what it needs."""
    resolved.check_for(pipeline)
    return {
        **dict.fromkeys(FIELDS, ""),
        "values": resolved.arguments(),
        **keys(pipeline, resolved, content_tag()),
    }
