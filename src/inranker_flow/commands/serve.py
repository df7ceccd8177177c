"""`inranker serve` and `make serve`: a reranker behind HTTP, by default the champion, which it follows.

    inranker serve                                # the champion of the registry, or of the last local run
    inranker serve out/student --port 9000        # a folder, a hub id or models:/NAME/VERSION, which stays

It logs JSON lines on standard error, and ends on SIGTERM or Ctrl-C when it has answered what is under way.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from inranker_flow.commands import folder
from inranker_flow.commands.champion import use_registry
from inranker_flow.commands.command import Parser, command
from inranker_flow.config.sections import PromoteConfig
from inranker_flow.errors import UserError
from inranker_flow.serving import backends, logs, models, server
from inranker_flow.serving.bodies import Limits
from inranker_flow.serving.metrics import Metrics
from inranker_flow.serving.service import Service

log = logging.getLogger(__name__)
PORT = 8080


@command
def main(arguments: list[str] | None = None) -> int:
    """Load, listen, serve until it is told to end; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(options)
    logs.start()
    with server.listen(options.host, options.port) as listening:
        service = _service(options)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        serves = service.models.state()["serves"] or f"{service.name}, once the registry answers,"
        print(f"{serves} at http://{shown}:{port} (Ctrl-C ends it)", flush=True)
        server.server(service).run(sockets=[listening])
    return 0


def _parser() -> Parser:
    limits = Limits()
    parser = Parser("inranker serve")
    parser.add_argument(
        "model", nargs="?", default=PromoteConfig.model_name,
        help="registered model, whose champion is followed (default %(default)s); or a folder, a hub id, models:/NAME/VERSION",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine")
    parser.add_argument("--port", type=int, default=PORT, help="default %(default)s; 0: a free one")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT), help="whose registry it is, without a server")
    parser.add_argument("--poll", type=float, default=15.0, help="seconds between two looks at the registry")
    parser.add_argument("--canary", type=float, default=0.0, help="share of requests for the challenger, 0 to 1")
    parser.add_argument("--backend", default=backends.DEFAULT, help=f"one of {', '.join(backends.LOADERS)}")
    parser.add_argument(
        "--dtype", default="", choices=("float32", "bfloat16", "int8"),
        help="what torch computes in (default: what the version was measured in)",
    )  # fmt: skip
    parser.add_argument("--batch-tokens", type=int, default=0, help="padded tokens of a batch (default: the device's)")
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait; more are answered 429")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that a request may wait; then 503")
    parser.add_argument("--max-passages", type=int, default=limits.passages, help="in one request")
    parser.add_argument("--max-characters", type=int, default=limits.passage_characters, help="of one passage")
    parser.add_argument("--log-texts", action="store_true", help="log queries and passages, too")
    return parser


def _check(options: Any) -> None:
    for name, least in (("poll", 0.1), ("patience", 0.1), ("queue", 1), ("max_passages", 1), ("max_characters", 1)):
        if not getattr(options, name) >= least:
            raise UserError(f"{name.upper()}: {getattr(options, name):g} is below {least}", code="setting-value")
    if not 0 <= options.canary <= 1:
        raise UserError(f"CANARY: {options.canary:g} is no share; give 0 to 1", code="setting-value")


def _service(options: Any) -> Service:
    """Return the service of what the options name; :class:`UserError` where it cannot be loaded."""
    metrics, loader = Metrics(), backends.loader(options.backend, options.dtype)
    name, alias = _named(options.model)
    if options.model.startswith("models:/") or alias:
        use_registry(folder.checked(options.run_dir))
    made: models.Fixed | models.Followed
    if alias:
        made = models.Followed(
            name, loader, metrics,
            poll=options.poll, canary=options.canary > 0, batch_tokens=options.batch_tokens,
        )  # fmt: skip
        made.start()
    elif options.canary:
        raise UserError("CANARY: only for a registered model, whose challenger it is", code="setting-conflict")
    else:
        made = models.Fixed(models.load(options.model, loader, options.batch_tokens), metrics)
    limits = Limits(passages=options.max_passages, passage_characters=options.max_characters)
    return Service(
        name, made, metrics,
        queue=options.queue, patience=options.patience, canary=options.canary, limits=limits,
        log_texts=options.log_texts,
    )  # fmt: skip


def _named(model: str) -> tuple[str, bool]:
    """Return what clients call the model, and whether it is the champion of the registered model of that name."""
    if found := re.fullmatch(r"(?:models:/)?([^/@]+)@champion", model):
        return found[1], True
    if model.startswith("models:/"):
        return model.removeprefix("models:/").partition("/")[0].partition("@")[0], False
    if "/" not in model and ":" not in model and not Path(model).expanduser().exists():
        return model, True
    return Path(model).name or "model", False
