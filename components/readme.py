"""Write each component's README.md from its interface: `python -m components.readme` (`make readmes`)."""

from __future__ import annotations

import ast
from pathlib import Path

from components import COMPONENTS
from pipelines.placement import PLACEMENT

_TYPES = {
    "STRING": "string",
    "STRUCT": "object",
    "LIST": "list",
    "NUMBER_INTEGER": "integer",
    "NUMBER_DOUBLE": "number",
}


def render(name: str) -> str:
    """README text of component ``name``: what it does, its image, inputs and outputs."""
    spec = COMPONENTS[name].component_spec
    place = PLACEMENT[name]
    docs = _argument_docs(name)
    lines = [f"# {name}", "", _summary(name), "", "<!-- made by `make readmes` -->", ""]
    gpus = ", the run's GPUs" if place.gpu else ""
    cached = "" if place.cache else ", never cached"
    lines += [f"Image `{place.image}`, {place.cpu} CPU, {place.memory} memory{gpus}{cached}.", ""]
    lines += ["| input | type | |", "|---|---|---|"]
    for key, value in (spec.inputs or {}).items():
        optional = " (optional)" if value.optional else ""
        lines.append(f"| `{key}` | {_kind(value)}{optional} | {docs.get(key, '')} |")
    if spec.outputs:
        lines += ["", "| output | type | |", "|---|---|---|"]
    for key, value in (spec.outputs or {}).items():
        lines.append(f"| `{key}` | {_kind(value)} | {docs.get(key, '')} |")
    return "\n".join(lines) + "\n"


def _kind(value: object) -> str:
    kind = str(getattr(value, "type", "")).removeprefix("system.").split("@")[0]
    prefix = "list of " if getattr(value, "is_artifact_list", False) else ""
    return prefix + _TYPES.get(kind, kind)


def _function(name: str) -> ast.FunctionDef:
    source = (Path(__file__).parent / name / "component.py").read_text(encoding="utf-8")
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))


def _summary(name: str) -> str:
    return (ast.get_docstring(_function(name)) or "").splitlines()[0]


def _argument_docs(name: str) -> dict[str, str]:
    lines = (ast.get_docstring(_function(name)) or "").splitlines()
    return {
        key: text
        for key, _, text in (line.strip().partition(": ") for line in lines if line.startswith("    "))
        if text
    }


if __name__ == "__main__":
    for each in COMPONENTS:
        (Path(__file__).parent / each / "README.md").write_text(render(each), encoding="utf-8")
