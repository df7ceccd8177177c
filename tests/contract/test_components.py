"""The adapters say what the stages take, and hold no logic of their own."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import docstring_parser
import pytest

from components import COMPONENTS, readme
from inranker_flow.stages import (
    discover,
    distill,
    evaluate,
    export,
    generate_queries,
    notify,
    preflight,
    prepare_corpus,
    promote,
    retrieve,
    teacher_label,
)
from pipelines.placement import PLACEMENT

ROOT = Path(__file__).parents[2]
STAGES = {
    "preflight": preflight.preflight,
    "discover": discover.discover,
    "prepare_corpus": prepare_corpus.prepare_corpus,
    "retrieve": retrieve.retrieve,
    "teacher_label": teacher_label.teacher_label,
    "help_label": teacher_label.help_label,
    "generate_queries": generate_queries.generate_queries,
    "help_generate": generate_queries.help_generate,
    "distill_phase1": distill.distill,
    "distill_phase2": distill.distill,
    "evaluate": evaluate.evaluate,
    "export": export.export,
    "promote": promote.promote,
    "notify": notify.notify,
}


def _function(name: str) -> ast.FunctionDef:
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef))


def _call(name: str) -> ast.Call:
    calls = [node for node in ast.walk(_function(name)) if isinstance(node, ast.Call)]
    return next(call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "run_stage")


def _passed(call: ast.Call) -> dict[str, ast.expr | None]:
    """Stage parameters that an adapter passes, each with its expression."""
    found: dict[str, ast.expr | None] = {}
    for keyword in call.keywords:
        if keyword.arg in ("configs", "inputs", "outputs"):
            assert isinstance(keyword.value, ast.Dict)
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                found[key.value] = value
        elif keyword.arg not in ("metrics", "name", "tracked"):
            assert keyword.arg is not None
            found[keyword.arg] = keyword.value
    return found


def test_every_folder_is_a_component_and_the_reverse():
    folders = {path.parent.name for path in (ROOT / "components").glob("*/component.py")}
    assert folders == set(COMPONENTS) == set(STAGES) == set(PLACEMENT)


@pytest.mark.parametrize("name", STAGES)
def test_adapter_passes_exactly_the_stage_parameters(name):
    from_run_stage = {"left_out"} & set(inspect.signature(STAGES[name]).parameters)
    assert set(_passed(_call(name))) | from_run_stage == set(inspect.signature(STAGES[name]).parameters)


@pytest.mark.parametrize("name", STAGES)
def test_adapter_holds_no_logic(name):
    function = _function(name)
    banned = ast.If | ast.IfExp | ast.For | ast.While | ast.Try | ast.With | ast.BoolOp | ast.Assign
    assert not [node for node in ast.walk(function) if isinstance(node, banned)]
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    assert [type(node) for node in body[:2]] == [ast.ImportFrom, ast.ImportFrom]
    assert len(body) == 3 and isinstance(body[2], ast.Expr | ast.Return)


@pytest.mark.parametrize("name", STAGES)
def test_configs_are_dataclasses_that_the_stage_names(name):
    import dataclasses

    hints = get_type_hints(STAGES[name])
    configs = next(keyword.value for keyword in _call(name).keywords if keyword.arg == "configs")
    for key in configs.keys:
        hint = hints[key.value]
        assert dataclasses.is_dataclass(hint) or dataclasses.is_dataclass(get_args(hint)[0]), key.value


def test_readme_is_current():
    assert readme.README.read_text(encoding="utf-8") == readme.render(), "run `make readmes`"


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_argument_is_documented(name):
    spec = COMPONENTS[name].component_spec
    # As KFP reads it for its UI.
    documented = docstring_parser.parse(COMPONENTS[name].python_func.__doc__).params
    assert {each.arg_name for each in documented if each.description} == {*(spec.inputs or {}), *(spec.outputs or {})}


def test_the_library_imports_no_kfp():
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [m for m in modules if m.split(".")[0] in ("kfp", "kubernetes", "components", "pipelines")], path


def test_only_registry_tracking_and_serving_import_mlflow():
    allowed = {
        *(f"model_registry/{name}.py" for name in ("registry", "registration", "stored_files", "pyfunc")),
        *(f"tracking/{name}.py" for name in ("connection", "curves", "mlflow_errors", "outcomes", "runs", "values")),
    }
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported = [module for module in modules if module.split(".")[0] == "mlflow"]
            assert not imported or str(path.relative_to(ROOT / "src" / "inranker_flow")) in allowed, path


def test_stages_of_the_base_image_need_no_torch():
    """Blocking the import is what the image does: a stage that needs torch would end here."""
    script = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "accelerate", "scipy", "ir_measures")))
import inranker_flow.execution.run_stage
from inranker_flow.stages import notify, preflight, prepare_corpus, promote, retrieve
"""
    base = {name for name, place in PLACEMENT.items() if place.image == "base"}
    assert base == {"preflight", "discover", "prepare_corpus", "retrieve", "promote", "notify"}
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
