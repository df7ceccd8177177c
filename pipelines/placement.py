"""Where each stage runs: the one table of everything that Kubernetes sees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Placement:
    """``image`` is a folder of `images/`; ``cpu`` and ``memory`` are requests as Kubernetes writes them."""

    image: str
    cpu: str
    memory: str
    gpus: int = 0


PLACEMENT: dict[str, Placement] = {
    "prepare_corpus": Placement("base", "2", "8Gi"),
    "retrieve": Placement("base", "4", "32Gi"),
    "teacher_label": Placement("train", "8", "32Gi", gpus=1),
    "generate_queries": Placement("generate", "8", "32Gi", gpus=1),
    "distill_phase1": Placement("train", "8", "32Gi", gpus=1),
    "distill_phase2": Placement("train", "8", "32Gi", gpus=1),
    "evaluate": Placement("train", "8", "32Gi", gpus=1),
    "promote": Placement("base", "2", "8Gi"),
}


def image(stage: str) -> str:
    """Image reference of a stage: ``<registry>/inranker-flow-<image>:<content tag>``.

    The tag is a digest of the sources, because both of KFP's caches (local and cluster) have the image's name in
    their keys and not its content: with a mutable tag, changed code would meet stale results.
    """
    registry = os.environ.get("INRANKER_REGISTRY", "localhost")
    return f"{registry}/inranker-flow-{PLACEMENT[stage].image}:{content_tag()}"


@cache
def content_tag() -> str:
    """Digest over everything that an image is built from: the library, its demo models and the lock."""
    digest = sha256()
    files = [*(ROOT / "src").rglob("*"), ROOT / "requirements.lock", ROOT / "pyproject.toml"]
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts and not any(p.endswith(".egg-info") for p in path.parts):
            digest.update(f"{path.relative_to(ROOT)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
