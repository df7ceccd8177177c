"""Whether what may decide is measured at all: see `PromoteConfig.evidence`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inranker_flow.errors import UserError

if TYPE_CHECKING:
    from inranker_flow.settings.profile import Profile


def check(profile: Profile) -> None:
    """Raise :class:`UserError` for evidence that the policy asks for and the evaluation does not measure."""
    evaluation, asked = profile.evaluation, profile.promotion.evidence
    # Kind -> settings without which it is not measured.
    needed: dict[str, dict[str, object]] = {
        "judge": {"evaluation.judge.checkpoint": evaluation.judge.checkpoint},
        "known_item": {"evaluation.synthetic_queries": evaluation.synthetic_queries},
        "agreement": {
            "evaluation.synthetic_queries": evaluation.synthetic_queries,
            "evaluation.teacher": evaluation.teacher,
        },
    }
    for kind in asked:
        for setting, value in needed.get(kind, {}).items():
            if not value:
                raise UserError(
                    f"promotion.evidence: {kind} is not measured with {setting}={str(value).lower()}, so nothing could ever "
                    f"be shown by it; set {setting}, or leave {kind} out",
                    code="setting-conflict",
                )
