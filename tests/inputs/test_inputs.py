"""Every row of the table of inputs ends in one clear line and the right status: no traceback, no password."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

from tests import inputs
from tests.inputs.table import PASSWORD, Input

AREAS = [each.name for each in pkgutil.iter_modules(inputs.__path__) if each.name not in ("table", "test_inputs")]


def rows() -> list[object]:
    found = []
    for area in AREAS:
        for row in importlib.import_module(f"tests.inputs.{area}").INPUTS:
            found.append(pytest.param(row, id=f"{area}: {row.what}", marks=row.marks))
    return found


@pytest.mark.parametrize("row", rows())
def test_one_line_says_what_is_wrong(row: Input, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, value in row.env:
        monkeypatch.setenv(name, value)
    status = row.act(tmp_path)
    out, error = capfd.readouterr()
    printed = out + error
    assert status == row.status, printed
    for part in row.says:
        assert part in printed
    assert "Traceback" not in printed and PASSWORD not in printed
    failed = [line for line in printed.splitlines() if "FAILED: " in line]
    assert len(failed) == (status != 0), printed
