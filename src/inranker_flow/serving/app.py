"""The routes of the server: each reads one form of request, asks the service, and answers in the same form."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from inranker_flow import __version__
from inranker_flow.serving import bodies, logs
from inranker_flow.serving.backends import Pair
from inranker_flow.serving.batcher import Scored
from inranker_flow.serving.bodies import Infer, Refusal, Rerank
from inranker_flow.serving.service import Service

log, requests = logging.getLogger(__name__), logging.getLogger(logs.REQUESTS)
Body = TypeVar("Body", bound=BaseModel)

_ABOUT = """InRanker Flow serves {model} (version {version}).

  POST /rerank /v1/rerank /v2/rerank   {{"query": "...", "documents": ["...", ...], "top_n": 3}}   as Cohere and Jina
  POST /rerank                         {{"query": "...", "texts": ["...", ...]}}                   as TEI
  POST /openai/v1/rerank               as KServe's OpenAI-style route
  POST /v2/models/{name}/infer         Open Inference Protocol V2: tensors query and passages
  GET  /health /metrics /openapi.json  state, Prometheus, the routes as OpenAPI

Scores are probabilities; "raw_scores": true gives log odds.
"""


@dataclass
class _Told:
    """What the log says of one request beside its route, status and time."""

    passages: int = 0
    model: str = ""
    texts: dict[str, Any] = field(default_factory=dict)


Handler = Callable[[Request, _Told], Awaitable[Response]]


def make_app(service: Service) -> FastAPI:
    """Return the application that serves ``service``, and closes it at its end."""
    routes = _Routes(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="InRanker Flow", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        exception_handlers={HTTPException: _no_route, Refusal: _refused},
    )  # fmt: skip
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        _post(app, path, routes.answered(path, routes.rerank), Rerank)
    openai = functools.partial(routes.rerank, always_documents=True)
    _post(app, "/openai/v1/rerank", routes.answered("/openai/v1/rerank", openai), Rerank)
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        _post(app, path, routes.answered("/v2/infer", routes.infer), Infer)
    state: dict[str, Callable[..., Awaitable[Response]]] = {
        "/": routes.about,
        "/health": routes.health,
        "/metrics": routes.metrics,
        "/info": routes.info,
        "/v2": routes.server,
        "/v2/health/live": routes.live,
        "/v2/health/ready": routes.ready,
        "/v2/models/{name}": routes.model,
        "/v2/models/{name}/ready": routes.ready,
    }
    for path, route in state.items():
        app.add_api_route(path, route, methods=["GET"], response_model=None)
    return app


def _post(app: FastAPI, path: str, route: Any, body: type[BaseModel]) -> None:
    """Add a route whose ``body`` the OpenAPI document shows: it is read here, whatever its content type."""
    content = {"application/json": {"schema": body.model_json_schema()}}
    app.add_api_route(
        path, route, methods=["POST"], response_model=None, openapi_extra={"requestBody": {"content": content}}
    )


class _Routes:
    """The routes over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def answered(self, name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return ``handler`` with whatever may happen in it turned into an answer, which is counted and logged."""

        async def route(request: Request) -> Response:
            start, told = time.perf_counter(), _Told()
            number = request.headers.get("x-request-id", "")[:64] or uuid.uuid4().hex[:16]
            try:
                answer = await handler(request, told)
            except Refusal as refused:
                answer = _said(refused)
            except Exception as error:
                log.error("a request failed", exc_info=error, extra={"fields": {"id": number}})
                said = f"the model failed; the server's log says more under the id {number}"
                answer = _said(Refusal(500, said, "internal"))
            seconds = time.perf_counter() - start
            answer.headers["x-request-id"] = number
            self._tell(name, answer.status_code, seconds, number, told)
            return answer

        return route

    def _tell(self, route: str, status: int, seconds: float, number: str, told: _Told) -> None:
        self._service.metrics.requests.labels(route, status).inc()
        self._service.metrics.seconds.labels(route).observe(seconds)
        fields = {
            "id": number,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "passages": told.passages,
            "model": told.model,
            **told.texts,
        }
        requests.info("request", extra={"fields": fields})

    # --- scores

    async def rerank(self, request: Request, told: _Told, always_documents: bool = False) -> Response:
        asked = await self._read(request, Rerank)
        self._service.check_model(asked.model)
        passages = bodies.passages_of(asked, self._service.limits)
        found = await self._score([(asked.query, each) for each in passages], request, told)
        results = bodies.ranking(asked, passages, found.scores, always_documents)
        return _answer(bodies.answer(asked, results, self._service.name), found)

    async def infer(self, request: Request, told: _Told) -> Response:
        self._check_path(request)
        asked = await self._read(request, Infer)
        found = await self._score(bodies.pairs_of(asked, self._service.limits), request, told)
        version = found.model.version or "1"
        return _answer(bodies.tensors(asked, found.scores, self._service.name, version), found)

    async def _score(self, pairs: Sequence[Pair], request: Request, told: _Told) -> Scored:
        told.passages = len(pairs)
        if self._service.log_texts:
            told.texts = {"pairs": list(pairs)}
        gone = asyncio.ensure_future(request.receive())  # after the body there is nothing but the client's end
        try:
            found = await self._service.score(pairs, gone)
        finally:
            gone.cancel()
        told.model = found.model.reference
        return found

    async def _read(self, request: Request, kind: type[Body]) -> Body:
        most = self._service.limits.body_bytes
        body = bytearray()
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise Refusal(413, f"the body has more than {most:,} bytes", "too_large")
        except ClientDisconnect:
            raise Refusal(499, "the client has hung up", "gone") from None
        return bodies.parse(kind, bytes(body))

    # --- state

    async def about(self) -> Response:
        model = self._service.models.current("champion")
        told = _ABOUT.format(model=model.reference, version=model.version or "-", name=self._service.name)
        return PlainTextResponse(told)

    async def health(self) -> Response:
        state = self._service.models.state()
        status = "ok" if self._service.alive else "the scoring thread has ended"
        if not state["serves"]:
            status = "no model serves yet"
        return JSONResponse({"status": status, "name": self._service.name, **state}, 200 if status == "ok" else 503)

    async def metrics(self) -> Response:
        return Response(self._service.metrics.text(), media_type=self._service.metrics.content_type)

    async def info(self) -> Response:
        limits = self._service.limits
        return JSONResponse(
            {
                "model_id": self._service.name,
                "model_sha": self._service.models.current("champion").reference,
                "model_type": {"reranker": {}},
                "max_client_batch_size": limits.passages,
                "version": __version__,
            }
        )

    async def server(self) -> Response:
        return JSONResponse({"name": "inranker-flow", "version": __version__, "extensions": []})

    async def live(self) -> Response:
        return JSONResponse({"live": self._service.alive}, 200 if self._service.alive else 503)

    async def ready(self, request: Request) -> Response:
        self._check_path(request)
        return JSONResponse({"ready": self._service.alive}, 200 if self._service.alive else 503)

    async def model(self, request: Request) -> Response:
        self._check_path(request)
        version = self._service.models.current("champion").version or "1"
        return JSONResponse(bodies.metadata(self._service.name, version))

    def _check_path(self, request: Request) -> None:
        """Raise :class:`Refusal` for another model, or another version than the one that serves, in the path."""
        self._service.check_model(request.path_params.get("name"))
        wanted = request.path_params.get("version")
        serves = self._service.models.current("champion").version or "1"
        if wanted not in (None, serves):
            raise Refusal(404, f"version {wanted[:40]!r} does not serve, {serves} does", "model")


def _answer(body: Any, found: Scored) -> Response:
    headers = {"x-inranker-model": found.model.reference}
    return Response(to_json(body), headers=headers, media_type="application/json")


def _said(refused: Refusal) -> Response:
    body, headers = bodies.refusal(refused), refused.headers
    return Response(body, refused.status, headers, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _said(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = f"{request.method} {request.url.path[:80]}: {str(error.detail).lower()}; GET / lists the routes"
    return _said(Refusal(error.status_code, said, "route"))
