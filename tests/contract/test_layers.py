"""The rooms of the library lie in layers: each knows those below it. What points up is listed here, with its reason."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "inranker_flow"
SRC = ROOT / "src" / PACKAGE

#: From the bottom; rooms of one layer may know each other.
LAYERS = (
    # Words that everybody uses.
    {"errors", "config", "text_files", "words", "beginnings", "markdown", "progress", "cpus", "redaction", "environment",
     "lifeline", "scratch", "error_codes"},
    {"storage"},
    {"artifacts"},
    {"services"},
    {"corpora"},
    {"rankers", "reading", "students"},
    {"tracking"},
    {"model_registry", "reranker"},
    {"store"},
    {"scoring"},
    # Parts of stages.
    {"retrieval", "generation", "judging", "labelling", "distillation", "evaluation", "exporting", "report",
     "demo", "serving"},
    {"settings", "profiles"},
    {"preflight", "planning"},
    {"execution"},
    {"stages"},
    {"commands"},
    {"workflow"},
    {"cli", "api", "__main__", "__init__"},
)  # fmt: skip
#: Module -> (room above it, why).
UPWARD = {
    "corpora.sources.demo": ("demo", "the miniature world is a source among others, and made by a room of its own"),
    "rankers.checkpoints": ("model_registry", "a checkpoint may be a registered model"),
    "store.conditions": ("evaluation", "the device in words is part of what a cost follows from"),
    "settings.checks": ("preflight", "the same look at a checkpoint before a run is submitted"),
    "planning.speed": ("stages", "a training is measured by training"),
    "commands.run": ("workflow", "the table of tasks names the rows of the last table"),
}
#: Files above the limit, and why: none is to be added.
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 500, 80
LONG: dict[str, str] = {}
#: Imports of the project inside functions. Each keeps Arrow, numpy, torch or MLflow out of a command that does without.
MOST_LAZY = 26
#: Modules that touch the process' environment beside those of the room `environment`, and why.
ENVIRONMENT = {
    "": "the face of the package imports nothing unless a local run is to be followed",
}
#: Programs of their own, which stand above all rooms: `python -m inranker_flow.NAME`.
PROGRAMS = {"distillation.__main__", "distillation.node"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for name, path in files():
        yield name or "__init__", ast.parse(path.read_text())


def files() -> Iterator[tuple[str, Path]]:
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(tree: ast.Module) -> Iterator[str]:
    """Names below the package that a module imports, in functions too; not for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}."):
            room = str(node.module).removeprefix(PACKAGE).removeprefix(".")
            for each in node.names:
                inside = SRC.joinpath(*room.split("."), each.name)
                is_module = inside.with_suffix(".py").is_file() or inside.is_dir()
                if name := f"{room}.{each.name}".removeprefix(".") if is_module else room:
                    yield name


def layer(name: str) -> int:
    room = name.partition(".")[0]
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def test_every_room_is_in_a_layer():
    rooms = {each.stem for each in SRC.iterdir() if each.suffix == ".py" or (each / "__init__.py").is_file()}
    assert rooms == set().union(*LAYERS)


def test_arrows_point_down():
    upward = {
        (name, wanted.partition(".")[0])
        for name, tree in modules()
        for wanted in imports(tree)
        if name not in PROGRAMS and layer(wanted) > layer(name)
    }
    assert upward == {(name, room) for name, (room, _) in UPWARD.items()} and len(upward) <= 6


def test_no_room_imports_another_in_a_circle():
    """Of what is imported with a module itself; Python would import such a circle or not, by where it begins."""
    graph: dict[str, set[str]] = {}
    for name, tree in modules():
        top = ast.Module([node for node in tree.body if isinstance(node, ast.ImportFrom)], [])
        graph[name] = set(imports(top)) - {name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done or name not in graph:
            return
        for each in graph[name]:
            visit(each, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_stages_hold_one_file_for_each_task_and_parts_hold_none():
    from inranker_flow.workflow.tasks import STAGES

    files = {f"{PACKAGE}.stages.{each.stem}" for each in (SRC / "stages").glob("*.py") if each.stem != "__init__"}
    assert {each.partition(":")[0] for each in STAGES.values()} == files
    assert not list(SRC.rglob("stage.py"))


def test_no_file_and_no_function_is_long():
    long = {name for name, path in files() if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set(LONG)
    functions = {
        (name, node.name)
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert not functions


def test_few_imports_of_the_project_are_inside_functions():
    lazy = [
        (name, node.lineno)
        for name, tree in modules()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}.")
    ]
    assert len(lazy) <= MOST_LAZY, lazy


def test_light_commands_load_no_heavy_library():
    heavy = "numpy", "pyarrow", "torch", "transformers", "mlflow", "boto3"
    for command in (["--help"], ["settings", "phase1.loss"]):
        script = f"""
import runpy, sys
sys.argv[1:] = {command}
try:
    runpy.run_module("{PACKAGE}", run_name="__main__")
except SystemExit:
    pass
assert not [name for name in {heavy} if name in sys.modules]
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_environment_is_touched_in_its_room_alone():
    elsewhere = {name for name, path in files() if not name.startswith("environment.")} & {
        name
        for name, path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv", "unsetenv"))
        or (isinstance(node, ast.alias) and node.name in ("environ", "environb", "getenv", "putenv", "unsetenv"))
    }
    assert elsewhere == set(ENVIRONMENT)
    for path in (ROOT / "pipelines").rglob("*.py"):
        assert not re.search(r"\benviron\b|\bgetenv\b", path.read_text()), path


def test_every_variable_has_a_function_that_says_what_it_is():
    tree = dict(modules())["environment.variables"]
    readers = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in ("_text", "everything")
    ]
    for node in readers:
        said = ast.get_docstring(node)
        assert node.returns and said and re.search(r"``[A-Z_]{4,}``", said), node.name


def test_faces_of_rooms_are_empty():
    """Whoever wants one function of a room pays for no other."""
    script = f"""
import sys
from {PACKAGE}.corpora.passage import default_text
assert "pyarrow" not in sys.modules and "numpy" not in sys.modules
print(len([name for name in sys.modules if name.startswith("{PACKAGE}")]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) < 4, done.stdout + done.stderr
