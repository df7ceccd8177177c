"""The student's variants in a profile: what the budgets are about is made and timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inranker_flow.errors import UserError

if TYPE_CHECKING:
    from inranker_flow.settings.profile import Profile


def check(profile: Profile) -> None:
    """Raise :class:`UserError` where the variant that will serve is not made, or its latency not measured."""
    export, promotion = profile.export, profile.promotion
    if promotion.variant and promotion.variant not in export.variants:
        raise UserError(
            f"promotion.variant: {promotion.variant} is not among export.variants ({', '.join(export.variants) or 'none'}), so "
            "its budgets would never be met; add it there, or leave promotion.variant empty",
            code="setting-conflict",
        )
    if promotion.variant and promotion.latency_budget_ms and not export.latency_queries:
        raise UserError(
            f"promotion.latency_budget_ms: {promotion.latency_budget_ms:g} for promotion.variant {promotion.variant}, but "
            "export.latency_queries is 0, so its latency would not be measured and every verdict would be HOLD; time some "
            "queries or drop the budget",
            code="setting-conflict",
        )
