"""make's variables reach the commands as they were typed: no part of one is run, by make or by a shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
VARIABLES = re.findall(r"^## ([A-Z_]+) +", MAKEFILE, re.MULTILINE)
#: Target -> the variables that it reads. Every variable of the help is here.
PROFILE = ("PROFILE", "SEED", "SOURCE", "TARGETS", "TEACHER", "STUDENT", "GENERATOR", "TOKENIZER", "SET", "PIPELINE")
API = ("HOST", "NAMESPACE", "EXPERIMENT")
READS = {
    "run": (*PROFILE, "RUN_DIR", "RUNNER"),
    "plan": (*PROFILE, "RUN_DIR", "DEVICE", "CALIBRATE", "JSON"),
    "collection": ("FROM", "TO", "SET"),
    "compile": PROFILE,
    "submit": (*PROFILE, *API),
    "schedule": (*PROFILE, *API, "CRON"),
    "unschedule": (*PROFILE, *API),
    "runs": API,
    "why": (*API, "RUN", "RUN_DIR"),
    "promote": ("MODEL", "RUN_DIR", "VERSION", "WHY"),
    "rollback": ("MODEL", "RUN_DIR", "WHY"),
    "history": ("MODEL", "RUN_DIR"),
    "images": ("IMAGES", "PYTHON_IMAGE"),
    "push": ("IMAGES",),
    "try": ("RUN_DIR", "QUERY"),
    "serve": ("RUN_DIR", "PORT", "CANARY"),
    "serving": ("URL",),
    "verify": ("RUN_DIR", "URL"),
    "report": ("RUN_DIR",),
    "mlflow": ("RUN_DIR",),
    "clean": ("RUN_DIR", "ALSO", "UNFINISHED"),
}
FLAGS = {"VERBOSE": "run", "WAIT": "submit", "FORCE": "submit", "CPU": "images", "ALL": "clean", "DRY_RUN": "clean"}
HOSTILE = (
    "it's",
    'say "so"',
    "a'; touch PWNED; echo '",
    'a"; touch PWNED; echo "',
    "$(touch PWNED)",
    "`touch PWNED`",
    "$(shell touch PWNED)",
    "${shell touch PWNED}",
    "pri$ce $$ $HOME ${HOME}",
    "two  words # and % more",
    "x\ntouch PWNED",
    "&& touch PWNED | touch PWNED > PWNED",
    "--run-dir=/etc",
    "-",
    "*?[a-z]~!\\",
    "语料库 ünïcode",
    "a,b:c=d",
)

STUB = """#!/bin/sh
printf '%s\\0' "$@" > "$SEEN/arguments"
env -0 > "$SEEN/environment"
"""


@pytest.fixture
def make(tmp_path):
    """Run make with a Python that only tells what it was given; returns its arguments and its environment."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(STUB)
    (folder / "bin" / "python").chmod(0o755)
    (folder / ".ready").write_text("")

    def run(target, *variables, env=(), status=0):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        done = subprocess.run(
            ["make", f"VENV={folder}", target, *variables], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**clean, "SEEN": str(tmp_path), **dict(env)},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        assert not (ROOT / "PWNED").exists() and not (ROOT / "k8s" / "PWNED").exists(), "something was run"
        if status:
            return {}
        read = {name: (tmp_path / name).read_text().split("\0")[:-1] for name in ("arguments", "environment")}
        return {
            **read,
            "said": done.stderr,
            "environment": dict(line.partition("=")[::2] for line in read["environment"]),
        }

    return run


def values(found):
    """Option -> value, for those that have one; "--" -> what follows it."""
    options = {}
    for word in found["arguments"]:
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            options[name] = value
    if "--" in found["arguments"]:
        options["--"] = found["arguments"][found["arguments"].index("--") + 1]
    return options


OPTIONS = {"SET": "--settings", "PIPELINE": "--", "FROM": "--", "QUERY": "--", "URL": "--", "IMAGES": "--only"}


def test_every_variable_of_the_help_is_tried():
    tried = {name for names in READS.values() for name in names} | set(FLAGS) | {"REGISTRY", "OVERLAY", "PYTHON"}
    assert tried == set(VARIABLES)


@pytest.mark.parametrize("target", READS)
def test_values_arrive_as_they_were_typed_and_nothing_of_them_is_run(make, target):
    # Each variable meets another value in each round, so that all meet all over the targets.
    for turn in range(0, len(HOSTILE), 1 if target == "run" else 5):
        typed = {name: HOSTILE[(turn + i) % len(HOSTILE)] for i, name in enumerate(READS[target])}
        found = make(target, *(f"{name}={value}" for name, value in typed.items()))
        got = values(found)
        for name, value in typed.items():
            option = OPTIONS.get(name, f"--{name.lower().replace('_', '-')}")
            assert got[option] == value, (name, found["arguments"])


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_on_unless_it_is_empty_or_says_no(make, name):
    flag = f"--{name.lower().replace('_', '-')}"
    for value in HOSTILE[::4]:
        assert flag in make(FLAGS[name], f"{name}={value}")["arguments"]
    for value in ("", "0", "no", "false"):
        assert flag not in make(FLAGS[name], f"{name}={value}")["arguments"]


def test_a_registry_arrives_in_the_environment(make):
    for value in HOSTILE:
        assert make("push", f"REGISTRY={value}")["environment"]["INRANKER_REGISTRY"] == value
    told = {"INRANKER_REGISTRY": "registry.example/team"}
    assert make("push", env=told.items())["environment"]["INRANKER_REGISTRY"] == "registry.example/team"


def test_an_overlay_is_one_word_for_the_script(make, tmp_path):
    for value in HOSTILE[::3]:
        # kubectl is not asked: there is no such overlay.
        (tmp_path / "kubectl").write_text("#!/bin/sh\ntouch PWNED\n")
        (tmp_path / "kubectl").chmod(0o755)
        for target in ("deploy", "diff"):
            path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
            make(target, f"OVERLAY={value}", "FORCE=$(shell touch PWNED)", env={"PATH": path}.items(), status=2)


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_environment_calls_by_the_same_name_does_not_count(make, name):
    target = next((each for each, names in READS.items() if name in names), FLAGS.get(name, "push"))
    bare, found = make(target), make(target, env={name: "1.2.3"}.items())
    assert found["arguments"] == bare["arguments"]
    assert found["environment"].get("INRANKER_REGISTRY") == bare["environment"].get("INRANKER_REGISTRY")


def test_the_profile_is_passed_on_where_one_is_given(make):
    assert "--profile" not in values(make("run")) | values(make("run", "SOURCE=/data/it's mine"))
    assert values(make("run", "TARGETS=x", "PROFILE=my profile.yaml"))["--profile"] == "my profile.yaml"


def test_an_empty_run_dir_is_told_to_the_command(make):
    for target in ("run", "clean", "mlflow"):
        assert values(make(target, "RUN_DIR="))["--run-dir"] == ""


def test_make_alone_names_every_target_within_the_width_and_help_all_tells_of_each():
    targets = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    said = {}
    for name in ("help", "help-all"):
        done = subprocess.run(["make", "-s", name], cwd=ROOT, capture_output=True, text=True, check=True)
        said[name] = done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
    head, *groups = said["help"].split("\n\n")[1:]
    first = [line.split()[0] for line in head.splitlines() if line.startswith("  ") and line[2] != " "]
    assert first[0] == "run" and first[-1] == "test" and len(first) <= 6
    assert set(first) | set(" ".join(groups).split()) >= targets
    assert "more " not in said["help"], "a target that is in no group of the Makefile"
    told = {line.split()[0] for line in said["help-all"].splitlines() if re.match(r"  [a-zA-Z]", line)}
    assert told == targets | set(VARIABLES)


def test_every_target_is_phony():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    phony = {name for names in re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE) for name in names.split()}
    assert targets == phony


def test_a_variable_of_the_environment_that_somebody_may_have_meant_is_said(make):
    said = make("clean", env={"RUN_DIR": "/etc; touch PWNED", "VERSION": "3", "HOST": "ci"}.items())["said"]
    assert said.startswith("NOTE: RUN_DIR: in the environment, where it does not count") and said.count("\n") == 1
    assert make("clean", "RUN_DIR=x", env={"RUN_DIR": "/etc", "VERSION": "3"}.items())["said"] == ""
