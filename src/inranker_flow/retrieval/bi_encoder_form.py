"""How a bi-encoder makes a vector of a text, as the files say that sentence-transformers writes beside its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.rankers.files import Read

#: Names of the boolean keys of older pooling configurations.
_OLDER = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = ("mean", "cls", "lasttoken")
#: Prompts that passages have, the first that is there (`SentenceTransformer.encode_document`).
_OF_PASSAGES = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Form:
    """What the files say."""

    pooling: str
    #: Whether the prompt's own tokens are pooled too.
    include_prompt: bool
    #: Whether vectors have length 1: the checkpoint's module, or because they are compared by their cosine.
    normalize: bool
    #: Tokens of a text at most; 0: as many as tokenizer and model read.
    max_length: int
    query_prompt: str
    passage_prompt: str


def read_form(reference: str, read: Read) -> Form:
    """Return the form of a checkpoint. Raises :class:`UserError` where its files do not say it, or say what is not done here."""
    modules = _modules(reference, read)
    folder = str(modules[1].get("path") or "")
    pooled = _object(reference, f"{folder}/config.json", read) if folder and ".." not in folder else None
    if pooled is None:
        raise UserError(
            f"{reference}: lacks {folder or '1_Pooling'}/config.json, which says how tokens become a vector; fetch it again",
            code="checkpoint-pooling",
        )
    settings = _object(reference, "config_sentence_transformers.json", read) or {}
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise UserError(
            f"{reference}: compares vectors by {similarity}; only cosine and dot are searched here",
            code="checkpoint-pooling",
        )
    prompts = settings.get("prompts") or {}
    if not (isinstance(prompts, dict) and all(isinstance(each, str | None) for each in prompts.values())):
        raise _odd(reference, "config_sentence_transformers.json", "prompts are no texts by their names")
    usual = prompts.get(str(settings.get("default_prompt_name") or ""), "")
    own = next((prompts[name] for name in _OF_PASSAGES if name in prompts), usual)
    transformer = _object(reference, "sentence_bert_config.json", read) or {}
    if transformer.get("do_lower_case"):
        raise UserError(
            f"{reference}: sentence_bert_config.json says do_lower_case, which is not done here; save it with a tokenizer "
            "that makes its texts small",
            code="checkpoint-pooling",
        )
    longest = transformer.get("max_seq_length") or 0
    if not isinstance(longest, int) or longest < 0:
        raise _odd(reference, "sentence_bert_config.json", "max_seq_length is no number of tokens")
    return Form(
        pooling=_pooling(reference, pooled),
        include_prompt=bool(pooled.get("include_prompt", True)),
        normalize=len(modules) == 3 or similarity == "cosine",
        max_length=longest,
        query_prompt=str(prompts.get("query", usual) or ""),
        passage_prompt=str(own or ""),
    )


def _modules(reference: str, read: Read) -> list[dict[str, Any]]:
    """Return Transformer, Pooling and perhaps Normalize: the modules that are known here, in their order."""
    modules = _json(reference, "modules.json", read)
    if modules is None:
        raise UserError(
            f"{reference}: lacks modules.json, which says how a bi-encoder pools its tokens; save it with sentence-transformers",
            code="checkpoint-pooling",
        )
    found = [dict(each) for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    names = [str(each.get("type", "")).rpartition(".")[2] for each in found]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{reference}: modules.json says {', '.join(names) or 'nothing'}; known here are Transformer, Pooling and then "
            "perhaps Normalize",
            code="checkpoint-pooling",
        )
    if found[0].get("path"):
        raise UserError(
            f"{reference}: its model lies in the folder {found[0]['path']}, as old ones' do; load and save it with a newer "
            "sentence-transformers",
            code="checkpoint-pooling",
        )
    return found


def _pooling(reference: str, config: dict[str, Any]) -> str:
    mode = config.get("pooling_mode") or [name for key, name in _OLDER.items() if config.get(key)] or ["mean"]
    modes = list(mode) if isinstance(mode, list) else [mode]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(
            f"{reference}: pools by {' and '.join(map(str, modes))}; known here is one of {', '.join(POOLINGS)}",
            code="checkpoint-pooling",
        )
    return str(modes[0])


def _odd(reference: str, name: str, what: str) -> UserError:
    return UserError(f"{reference}: {name}: {what}; fetch the checkpoint again", code="checkpoint-damaged")


def _object(reference: str, name: str, read: Read) -> dict[str, Any] | None:
    """Return the JSON object that a file holds; None where there is none."""
    found = _json(reference, name, read)
    if found is not None and not isinstance(found, dict):
        raise _odd(reference, name, "is no JSON object")
    return found


def _json(reference: str, name: str, read: Read) -> Any:
    """Return what a file holds; None where there is none."""
    text = read(name)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{reference}: {name} is no JSON ({str(error)[:100]}); fetch the checkpoint again",
            code="checkpoint-damaged",
        ) from error
