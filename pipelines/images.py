"""`make images` and `make push`: build the images that `placement.py` names, and record what was pushed.

The images' tag is the content tag, so that what a pipeline names is what was built from these sources. `make push` writes
the digests to `images/images.lock`; a pipeline compiled after that names images by digest.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inranker_flow.commands.command import Parser, command
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage.local import atomic_write
from pipelines.placement import PLACEMENT, ROOT, content_tag, pushed_images

#: Megabytes that an image should have beside its base image, at most: with the CPU build of torch, and with CUDA's.
BUDGETS = {"base": (300, 300), "train": (1400, 8900), "generate": (1400, 15900), "serve": (1300, 8800)}
#: Without GPUs there is no vLLM in `generate`, and what the other backends need is in `train`.
ON_CPU = {"generate": "train"}
#: Of the server, in which no stage runs.
SERVER = "serve"
NAMES = (*dict.fromkeys(row.image for row in PLACEMENT.values()), SERVER)


def reference(name: str) -> str:
    """Return the tagged reference under which image ``name`` is built and pushed."""
    return f"{variables.registry()}/inranker-flow-{name}:{content_tag()}"


def build(name: str, python_image: str = "", cpu: bool = False) -> int:
    """Build one image, or what it is on a cluster without GPUs (``cpu``); returns its megabytes beside its base image.

    More than the budget is a warning that names what is large. Raises :class:`UserError` where docker fails.
    """
    start = time.monotonic()
    context = _context(ON_CPU.get(name, name) if cpu else name)
    options = [f"--build-arg=VERSION={content_tag()}", f"--build-arg=GIT_REVISION={git_revision()}"]
    if python_image:
        options += ["--build-arg", f"PYTHON_IMAGE={python_image}"]
    with _wheels_of_this_machine() as address:
        if address:
            # The build reaches this machine's loopback only in its network.
            options += [
                "--network=host",
                f"--build-arg=PIP_FIND_LINKS={address}",
                f"--build-arg=UV_FIND_LINKS={address}",
            ]
        elif cpu:
            options.append("--build-arg=UV_TORCH_BACKEND=cpu")  # from PyTorch's own index: PyPI's build holds CUDA
        _docker("build", "--quiet", *options, "--tag", reference(name), str(context))
    size = _own_megabytes(name)
    budget = BUDGETS[name][1 if _holds_cuda(name) else 0]
    print(f"{reference(name)}  {size} MB of {budget}  {time.monotonic() - start:.0f} s", flush=True)
    if size > budget:
        print(f"WARNING: image {name} is larger than it should be; the largest in it: {_largest(name)}", flush=True)
    return size


def _own_megabytes(name: str) -> int:
    """Return the megabytes that our Dockerfile copies into the image; its base has no such steps."""
    layers = _docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", reference(name))
    rows = [line.partition(" ")[::2] for line in layers.splitlines()]
    return sum(int(size) for size, step in rows if "COPY" in step) // 1_000_000


def _largest(name: str) -> str:
    """Return the packages that take most: MB and name."""
    command = "du -sm /opt/venv/lib/python3*/site-packages/* /app/* | sort -rn | head -n 5"
    rows = _docker("run", "--rm", reference(name), "sh", "-c", command).splitlines()
    return ", ".join(f"{Path(path).name} {size} MB" for size, path in map(str.split, rows))


def git_revision() -> str:
    """Return the commit of these sources (``-dirty`` with changes), as the Makefile says it or git does; "" outside of a
    checkout."""
    told = variables.git_revision()
    git = shutil.which("git")
    if told or not git:
        return told
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def push(name: str) -> str:
    """Push one image and record its digest in images.lock; returns the digest. Raises :class:`UserError`."""
    if variables.registry() == "localhost":
        raise UserError(
            "REGISTRY is not set: no cluster pulls from here; make push REGISTRY=registry.example/team",
            code="setting-missing",
        )
    _docker("push", "--quiet", reference(name))
    repository = reference(name).rpartition(":")[0]
    digests = json.loads(_docker("image", "inspect", "--format", "{{json .RepoDigests}}", reference(name)))
    digest = next(each.partition("@")[2] for each in digests if each.startswith(f"{repository}@"))
    # One set of images is kept: that of the last push to each repository.
    kept = {known: value for known, value in pushed_images().items() if known.rpartition(":")[0] != repository}
    lock = {
        "comment": "Written by `make push`: what a compiled pipeline names instead of tags.",
        "digests": dict(sorted({**kept, reference(name): digest}.items())),
    }
    with atomic_write(ROOT / "images" / "images.lock") as out:
        out.write((json.dumps(lock, indent=1) + "\n").encode())
    print(f"{repository}@{digest}", flush=True)
    return digest


def _context(name: str) -> Path:
    """Return the folder that docker builds from: the image's own files, what images share, and the wheel."""
    context = ROOT / "build" / "images" / name
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(ROOT / "images" / name, context)
    shutil.copy(ROOT / "images" / "slim", context)
    shutil.copy(_wheel(), context)
    return context


@functools.cache
def _wheel() -> Path:
    """Return the project's wheel, built from these sources in a folder of its own."""
    sources, folder = ROOT / "build" / "images" / "sources", ROOT / "build" / "images" / "wheel"
    for each in (sources, folder):
        shutil.rmtree(each, ignore_errors=True)
    # A copy, because setuptools leaves its own build folder beside what it builds.
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for packages in ("src", "components"):
        shutil.copytree(ROOT / packages, sources / packages, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, sources)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    made = subprocess.run([uv, "build", "--wheel", "-q", "-o", folder, sources], capture_output=True, text=True)
    if made.returncode:
        raise UserError(f"the wheel cannot be built: {' '.join(made.stderr.split())[-300:]}", code="build-failed")
    return next(folder.glob("*.whl"))


@contextmanager
def _wheels_of_this_machine() -> Iterator[str]:
    """Address under which the build finds the wheels of a local folder that pip is configured with, or ""."""
    folder = _pip_setting("find-links")
    if not folder or not Path(folder).is_dir():
        yield folder
        return
    handler = functools.partial(_Quiet, directory=folder)
    with _listening(handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _listening(handler: Callable[..., http.server.SimpleHTTPRequestHandler]) -> http.server.ThreadingHTTPServer:
    """On the same port each time if it is free: docker's build cache sees the address."""
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 18_742), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""


def _pip_setting(name: str) -> str:
    """Return a setting of this machine's pip, from its environment or its files; "" if there is none."""
    pip = [sys.executable, "-m", "pip", "config", "get"]
    for section in (":env:", "global"):
        found = subprocess.run([*pip, f"{section}.{name}"], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    return ""


def _holds_cuda(name: str) -> bool:
    libraries = "ls -d /opt/venv/lib/python3*/site-packages/nvidia"
    return bool(_docker("run", "--rm", reference(name), "sh", "-c", f"{libraries} 2>/dev/null || true"))


def _docker(*arguments: str) -> str:
    """Return the output of a docker command; :class:`UserError` with its last words where it fails."""
    if not shutil.which("docker"):
        raise UserError("docker is not installed here; images are built and pushed with it", code="docker-missing")
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"docker {arguments[0]} failed: {' '.join(words[-3:])[-600:]}", code="build-failed")
    return done.stdout.strip()


def _names(only: str) -> list[str]:
    names = [each.strip() for each in only.split(",") if each.strip()] or list(NAMES)
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"IMAGES={only}: no such image {name!r}; there is: {', '.join(NAMES)}", code="image-unknown"
            )
    return names


@command
def main(arguments: list[str] | None = None) -> int:
    """Build, or push, all images; returns the exit status."""
    parser = Parser("inranker images")
    parser.add_argument("action", choices=["build", "push"])
    parser.add_argument("--only", default="", help=f"some of {', '.join(NAMES)}, separated by commas")
    parser.add_argument("--cpu", action="store_true", help="for a cluster without GPUs: no vLLM in `generate`")
    parser.add_argument("--python-image", default="", help="base of all images (default: the Dockerfiles' own)")
    options = parser.parse_args(arguments)
    for name in _names(options.only):
        if options.action == "build":
            build(name, options.python_image, options.cpu)
        else:
            push(name)
    return 0
