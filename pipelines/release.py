"""What goes to a cluster: one compiled pipeline and one set of arguments, both checked before anything is created."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow.commands import plan
from inranker_flow.commands.options import profile_of, resolve
from inranker_flow.errors import UserError
from inranker_flow.judging.model import language_models
from inranker_flow.planning.plans import sentence_of
from inranker_flow.profiles import load
from inranker_flow.settings.pin import pin
from inranker_flow.settings.profile import Profile
from pipelines import cluster, compile, status_size, submission
from pipelines.compile import compile_pipeline
from pipelines.kfp_api import Api
from pipelines.registry_check import check_pushed

#: KFP's limit on a run's parameters (MAX_PARAMETER_BYTES of its API server).
PARAMETER_BYTES = 10_000
BUILD = Path("build")

#: What a pod reads by itself, wherever it runs.
_EVERYWHERE = ("s3", "hf", "ir_datasets", "demo", "init")


@dataclass(frozen=True)
class Release:
    """``version`` is the pipeline version's name, a digest of its content; ``name`` is that of a schedule; ``planned`` what
    a run will take, in a sentence ("" where that is not known)."""

    pipeline: str
    description: str
    name: str
    version: str
    package: Path
    arguments: dict[str, Any]
    planned: str = ""

    @property
    def run_name(self) -> str:
        """What the names of runs of the same pipeline version with the same arguments begin with."""
        identity = json.dumps([self.version, self.arguments], sort_keys=True)
        return f"{self.name}-{sha256(identity.encode()).hexdigest()[:8]}"


def prepare(options: argparse.Namespace) -> Release:
    """Resolve, compile and check what ``options`` describe (see `inranker_flow.commands.options`).

    Raises :class:`UserError` for anything that a cluster could not run.
    """
    resolved = resolve(options)
    refuse_local(resolved)
    resolved = pin(resolved)
    package = compile_pipeline(
        options.pipeline, BUILD / f"{options.pipeline}.yaml", resolved.cluster, plain_values(profile_of(options))
    )
    arguments = submission.arguments(options.pipeline, resolved)
    documents = compile.read(package)
    check_arguments(documents[0], arguments)
    if note := status_size.check(documents, arguments, len(resolved.targets), resolved.cluster.retries):
        print(f"note: {note}", file=sys.stderr)
    for warning in [*check_pushed(images(documents[0])), *cluster.check_gpus(resolved.cluster)]:
        print(f"warning: {warning}", file=sys.stderr)
    version = f"{options.pipeline}-{digest(documents)}"
    description = documents[0]["pipelineInfo"].get("description", "")
    return Release(
        options.pipeline, description, schedule_name(options), version, package, arguments,
        planned(options.pipeline, resolved),
    )  # fmt: skip


def plain_values(profile: str) -> dict[str, Any]:
    """Return a profile's own values, with which Kubeflow's form begins: what else a submission sets is in its run, and makes
    no other version. Empty where the profile alone is not complete."""
    try:
        return load(profile).arguments()
    except UserError:
        return {}


def planned(pipeline: str, resolved: Profile) -> str:
    """Return the plan of a run in a sentence, for the run's page and for `notify`; a submission does not fail for want of it."""
    device = resolved.cluster.gpu_model if resolved.cluster.gpus else "cpu"
    try:
        made = plan.outline(pipeline, resolved, Path(os.devnull), device)
    except (UserError, OSError) as error:
        print(f"warning: no plan: {error}", file=sys.stderr)
        return ""
    return f"planned without reuse: {sentence_of(made.promised)}"


def schedule_name(options: argparse.Namespace) -> str:
    """Return PIPELINE-PROFILE: what a schedule is known by, and the beginning of its runs' names."""
    return f"{options.pipeline}-{re.sub(r'[^a-z0-9]+', '-', Path(profile_of(options)).stem.lower()).strip('-')}"


def publish(api: Api, release: Release) -> tuple[str, str]:
    """Return ids of the pipeline and its version, uploaded where they are missing."""
    pipeline_id = api.pipeline(release.pipeline, release.description)
    version_id, uploaded = api.version(pipeline_id, release.version, release.package)
    print(f"version     {release.version} ({'uploaded' if uploaded else 'there already'})")
    return pipeline_id, version_id


def refuse_local(profile: Profile) -> None:
    """Refuse what lies on this machine's disk: pods do not see it."""
    for where, value in _places(profile):
        kind, colon, _ = value.partition(":")
        path = value.removeprefix("file://")
        named = colon and kind in _EVERYWHERE
        if not named and (kind == "file" or value.startswith((".", "/", "~")) or Path(path).exists()):
            raise UserError(
                f"{where}: {value}: a folder or file of this machine, which no pod can read; upload it, for example: "
                f"aws s3 cp --recursive {path} s3://BUCKET/{Path(path).name}, and give that address",
                code="path-of-this-machine",
            )


def _places(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield every address in a profile, without the names of formats and of random checkpoints before it."""
    corpora = [("source", profile.source), *((f"targets[{i}]", each) for i, each in enumerate(profile.targets))]
    for where, corpus in corpora:
        for key, value in ((where, corpus.uri), (f"{where}.labels", corpus.labels)):
            if value:
                yield key, re.sub(r"^inranker-(beir|msmarco):", "", value)
    if profile.corpora.uri:
        yield "corpora.uri", profile.corpora.uri
    for where, checkpoint in (
        *((key, each.checkpoint) for key, each in profile.teacher.named.items() if each.backend == "local"),
        ("phase1", profile.phase1.checkpoint),
    ):
        _, tokenizer, options = checkpoint.partition("?tokenizer=")
        yield f"{where}.checkpoint", options.partition("&")[0] if tokenizer else checkpoint
    # On a server a checkpoint is a name, and crops have none.
    for model in language_models(profile.generation, profile.evaluation.judge):
        key = "tokenizer" if model.backend == "openai" else "checkpoint"
        value = getattr(model, key)
        if value and model.backend != "crop":
            yield f"{model.section}.{key}", re.sub(r"^init:.*tokenizer=|&.*$", "", value)


def check_arguments(spec: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Refuse arguments that the server would refuse, before it is asked."""
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    unknown, missing = sorted(set(arguments) - set(known)), sorted(set(known) - set(arguments))
    missing = [name for name in missing if not known[name].get("isOptional") and "defaultValue" not in known[name]]
    if unknown or missing:
        parts = [f"has no parameter {', '.join(unknown)}"] * bool(unknown)
        parts += [f"needs the parameter {', '.join(missing)}"] * bool(missing)
        raise UserError(f"the pipeline {spec['pipelineInfo']['name']} {' and '.join(parts)}", code="arguments-mismatch")
    size = len(json.dumps(arguments, separators=(",", ":")).encode())
    if size > PARAMETER_BYTES:
        sections = arguments["values"]
        largest = max(sections, key=lambda name: len(json.dumps(sections[name])))
        raise UserError(
            f"the arguments are {size:,} bytes and KFP takes {PARAMETER_BYTES:,}; the largest is {largest}: shorten it, or "
            "split the run (fewer TARGETS each)",
            code="arguments-too-long",
        )


def images(spec: dict[str, Any]) -> set[str]:
    """Return every image that the compiled pipeline names."""
    executors = spec["deploymentSpec"]["executors"].values()
    return {each["container"]["image"] for each in executors if "container" in each}


def digest(documents: list[dict[str, Any]]) -> str:
    """Digest of a compiled pipeline's content: the file itself differs from compilation to compilation."""
    content = [{key: value for key, value in each.items() if key != "sdkVersion"} for each in documents]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
