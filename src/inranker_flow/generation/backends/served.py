"""The server with OpenAI's API that `endpoint` of a language model's section names, and what it says of the model."""

from __future__ import annotations

import re
from typing import Any

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services.endpoint import Address, Endpoint

#: Fields of a request that are the backend's.
_OWN = ("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "logprobs", "stream")


def connect(config: GenerateConfig) -> Endpoint:
    """Return the server at ``config.endpoint``; an address without a path gets OpenAI's.

    Raises :class:`UserError` for an address that is none, and for fields of requests that are not the user's to set.
    """
    if taken := sorted(set(config.request_fields) & set(_OWN)):
        raise UserError(
            f"{config.section}.request_fields: {', '.join(taken)} cannot be set there, as the backend sets it "
            f"({config.section}.checkpoint, prompt, max_new_tokens, temperature, top_p, queries_per_document, seed; answers "
            "do not stream)",
            code="setting-conflict",
        )
    url = config.endpoint.rstrip("/")
    return Endpoint(
        Address(
            url=f"{url}/v1" if re.fullmatch(r"https?://[^/]+", url) else url,
            setting=f"{config.section}.endpoint",
            variable=variables.ENDPOINT_KEY,
            form="http://HOST:PORT/v1",
            route="completions",
            instead=f"{config.section}.backend".partition(".")[2],
            concurrency=config.concurrency,
            timeout=config.request_timeout,
            retries=config.retries,
            key=variables.endpoint_key(),
        )
    )


def describe(endpoint: Endpoint, name: str) -> dict[str, str]:
    """Return the server's description of the model ``name``: its root, context and version, as far as it tells.

    Raises :class:`UserError` naming the models that are served where it is none of them.
    """
    served = {each["id"]: each for each in endpoint.get("models", _models)}
    if name not in served:
        section = endpoint.address.setting.rpartition(".")[0]
        raise UserError(
            f"{endpoint.url}: serves {', '.join(sorted(served)) or 'no model'} and not {name}; set "
            f"{section}.checkpoint to the name of a served model, or {section}.endpoint to the server that has it",
            code="model-not-served",
        )
    found = {f"server_{key}": str(served[name][key]) for key in ("root", "max_model_len") if served[name].get(key)}
    version = endpoint.look(f"{endpoint.url.removesuffix('/v1')}/version")  # vLLM's alone
    return {**found, "server": str(version["version"])} if isinstance(version, dict) and "version" in version else found


def _models(answer: Any) -> list[dict[str, Any]]:
    try:
        return [each for each in answer["data"] if isinstance(each["id"], str)]
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of models") from error
