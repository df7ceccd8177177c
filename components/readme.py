"""Write components/README.md, one row for each component, from their interfaces: `python -m components.readme`
(`make readmes`)."""

from __future__ import annotations

import ast
from pathlib import Path

from components import COMPONENTS
from pipelines.placement import PLACEMENT

README = Path(__file__).with_name("README.md")
_HEAD = """# Components

One folder for each task of the pipelines. A component is an adapter: KFP's types in, one call of `run_stage`, KFP's types out.
What each argument means is in its docstring, which Kubeflow's UI shows too.

<!-- made by `make readmes` -->

| component | what it does | takes | gives | image | CPU | memory |
|---|---|---|---|---|---|---|
"""


def render() -> str:
    """Return the README's text: what each component does, its inputs and outputs, and where it runs.

    Optional inputs are in brackets; plain parameters are left out.
    """
    return _HEAD + "".join(f"| {' | '.join(_row(name))} |\n" for name in COMPONENTS)


def _row(name: str) -> list[str]:
    spec, place = COMPONENTS[name].component_spec, PLACEMENT[name]
    takes = [f"[{key}]" if value.optional else key for key, value in (spec.inputs or {}).items() if _is_artifact(value)]
    gives = [key for key, value in (spec.outputs or {}).items() if _is_artifact(value)]
    does = _summary(name) + ("" if place.cache else " Never cached.")
    image = place.image + (", the run's GPUs" if place.gpu else "")
    return [f"`{name}`", does, ", ".join(takes), ", ".join(gives), image, place.cpu, place.memory]


def _is_artifact(value: object) -> bool:
    return str(getattr(value, "type", "")).startswith("system.")


def _summary(name: str) -> str:
    source = (Path(__file__).parent / name / "component.py").read_text(encoding="utf-8")
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return (ast.get_docstring(function) or "").splitlines()[0]


if __name__ == "__main__":
    README.write_text(render(), encoding="utf-8")
