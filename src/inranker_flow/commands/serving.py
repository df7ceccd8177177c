"""`inranker serving` and `make serving`: what a running server serves, what it refused to serve, and how its canary does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError

from prometheus_client.parser import text_string_to_metric_families

from inranker_flow.commands.command import Parser, listing
from inranker_flow.commands.serve import PORT
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.services import web

URL = f"http://127.0.0.1:{PORT}"


@listing
def main(arguments: list[str] | None = None) -> int:
    """Print the state of a server; returns the exit status."""
    parser = Parser("inranker serving")
    parser.add_argument("url", nargs="?", default=URL, help="its address (default %(default)s)")
    options = parser.parse_args(arguments)
    state = state_of(options.url)
    print(show(options.url, state, _samples(_get(options.url, "metrics"))))
    return 0


def state_of(url: str) -> dict[str, Any]:
    """Return the state of the server at ``url``; :class:`UserError` where none of this project answers."""
    try:
        found = json.loads(_get(url, "health"))
        return {**found, "serves": str(found["serves"]), "name": str(found["name"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"URL: {url} is no server of inranker serve; correct the address", code="server-misbehaves"
        ) from error


def show(url: str, state: Mapping[str, Any], samples: Mapping[str, float]) -> str:
    """Return what a person reads of a server's ``state`` and of the ``samples`` of its metrics."""
    since = f" since {state['since']}" if state.get("since") else ""
    lines = [f"{url} serves {state['serves'] or 'nothing yet'}{since}"]
    lines.append(
        f"requests   {samples.get('inranker_requests_total', 0):,.0f}, {_mean_ms(samples, 'inranker_request')}"
    )
    if "registry" in state:
        lines.append(f"registry   {state['registry']}")
    lines += [f"FAILED     {reference}: {reason}" for reference, reason in state.get("failed", {}).items()]
    if state.get("challenger"):
        compared = samples.get("inranker_canary_compared_total", 0)
        differs = samples.get("inranker_canary_top_differs_total", 0)
        lines.append(
            f"canary     {state['challenger']}: {samples.get('inranker_canary_requests_total', 0):,.0f} requests, another best "
            f"passage in {differs / compared if compared else 0:.1%} of {compared:,.0f}"
        )
        lines += [
            f"           {alias}: {_mean_ms(samples, 'inranker_canary', f'{{{alias}}}')} for the same requests"
            for alias in ("champion", "challenger")
        ]
    return "\n".join(lines)


def _mean_ms(samples: Mapping[str, float], name: str, alias: str = "") -> str:
    count = samples.get(f"{name}_seconds_count{alias}", 0)
    return f"mean {1000 * samples[f'{name}_seconds_sum{alias}'] / count:.1f} ms" if count else "none answered yet"


def _samples(text: str) -> dict[str, float]:
    """Return sums by the name of the sample, and of those with an alias by ``name{alias}``, too."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for name in {sample.name, f"{sample.name}{{{sample.labels.get('alias', '')}}}"}:
                found[name] = found.get(name, 0.0) + sample.value
    return found


def _get(url: str, route: str) -> str:
    try:
        return web.request(f"{url.rstrip('/')}/{route}").decode()
    except OSError as error:
        if isinstance(error, HTTPError) and error.code == 503:  # it is there, and says what is wrong
            return error.read().decode()
        raise NoAnswer(
            f"URL: no server answers at {url} ({web.reason(error)}); start one (make serve), or correct the address",
            code="server-no-answer",
        ) from error
