"""`@component`: the stage's own image with the library in it, and nothing installed at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl

from pipelines.placement import image


def component(function: Callable[..., Any]) -> Any:
    """Turn a thin adapter into a KFP component that runs in the image that `placement.py` names for it."""
    return dsl.component(base_image=image(function.__name__), install_kfp_package=False)(function)
