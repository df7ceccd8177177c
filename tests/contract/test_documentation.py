"""What the documentation tells people to type exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from inranker_flow import profiles

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_in_it_exists(page):
    named = set(re.findall(r"(?:^|[`$ ])make ([a-z][a-z-]*)\b(?= |`|$)", page.read_text(), re.MULTILINE))
    assert named <= TARGETS, named - TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_readmes_commands_fit_a_terminal_of_80_columns():
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    assert not [line for block in blocks for line in block.splitlines() if len(line) > 80]


def test_every_profile_that_is_named_exists():
    named = set(re.findall(r"PROFILE=([a-z]+)", "".join(page.read_text() for page in PAGES)))
    assert named and named <= {path.stem for path in profiles.PROFILES.glob("*.yaml")}


def test_make_compile_writes_what_the_readme_says():
    subprocess.run(["make", "compile", "PROFILE=paper", "SEED=3"], cwd=ROOT, capture_output=True, check=True)
    assert (ROOT / "build" / "inranker.yaml").is_file() and (ROOT / "build" / "inranker.paper.json").is_file()


def test_make_help_all_prints_every_target_and_variable():
    ended = subprocess.run(["make", "help-all"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text()
    variables = set(re.findall(r"^([A-Z_]+) *\?=", makefile, re.MULTILINE))
    variables |= set(re.search(r"foreach name,([A-Z_ ]+)", makefile).group(1).split())
    for name in TARGETS | variables:
        assert re.search(rf"^  {name} ", ended.stdout, re.MULTILINE), name
