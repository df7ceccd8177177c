"""`scripts/setup`: what is wrong with PYTHON, the disk or the index is one line; what was interrupted goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A Python 3.11 that makes environments of stubs, and fails where FAIL says so.
PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
  *version_info*) echo 3.11 ;;
  "-m venv --clear "*)
    [ "$FAIL" != venv ] || { echo 'Error: [Errno 28] No space left on device'; exit 1; }
    rm -rf "$4"; mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"; cp "$0" "$4/bin/python" ;;
  "-m pip config"*) exit 1 ;;
esac
"""
UV = """#!/bin/sh
echo "uv $@" >> "$LOG"
[ "$FAIL" != uv ] || { printf 'a page of words\\nerror: No space left on device (os error 28)\\n\\n' >&2; exit 1; }
"""


@pytest.fixture
def setup(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in (("python3", PYTHON), ("uv", UV)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(python="python3", fail="", venv=tmp_path / "venv"):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "LOG": str(log), "FAIL": fail}
        done = subprocess.run(
            ["scripts/setup", python, venv], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        return done, log.read_text() if log.exists() else ""

    return run


def failed(done) -> str:
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("FAILED: "), done
    return done.stderr


@pytest.mark.parametrize(
    "python", ["nowhere", "/nowhere/python", "-c", "--version", "/bin/ls", "/", "", "two words", "'", "$(exit)", "true"]
)
def test_a_python_that_is_none_is_one_line(setup, python):
    done, _ = setup(python)
    assert "set PYTHON to a Python 3.11, 3.12 or 3.13" in failed(done) and f"PYTHON={python} " in done.stderr


@pytest.mark.parametrize("version", ["2.7", "3.10", "3.14", "4.0"])
def test_a_python_of_another_version_is_one_line(setup, tmp_path, version):
    other = tmp_path / "bin" / "other"
    other.write_text(f"#!/bin/sh\necho {version}\n")
    other.chmod(0o755)
    assert f"is Python {version}" in failed(setup("other")[0])


def test_no_room_for_the_environment_and_for_its_packages(setup, tmp_path):
    assert "venv cannot be made: Error: [Errno 28] No space left on device" in failed(setup(fail="venv")[0])
    said = failed(setup(fail="uv")[0])
    assert "cannot be installed" in said and "No space left on device" in said and "run again" in said
    assert not (tmp_path / "venv" / ".ready").exists()
    done, log = setup()
    assert done.returncode == 0 and "venv --clear" not in log, "what is there is not made again"
    assert (tmp_path / "venv" / ".ready").exists()


def test_an_environment_that_was_interrupted_is_made_anew(setup, tmp_path):
    """Its Python is there, as in the first moments of `python -m venv`, and pip is not."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (venv / "bin" / "python").chmod(0o755)
    done, log = setup()
    assert done.returncode == 0 and "venv --clear" in log and (venv / ".ready").exists()
    # Its Python was upgraded away.
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nowhere/python3")
    done, log = setup()
    assert done.returncode == 0 and "venv --clear" in log


def test_a_folder_that_is_no_environment_is_never_emptied(setup, tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.txt").touch()
    assert "no virtual environment; move it away" in failed(setup()[0])
    assert (tmp_path / "venv" / "thesis.txt").exists()
    (tmp_path / "file").touch()
    assert "no virtual environment" in failed(setup(venv=tmp_path / "file")[0])


def test_ctrl_c_is_one_line(setup, tmp_path):
    (tmp_path / "bin" / "python3").write_text('#!/bin/sh\ncase "$*" in *version*) echo 3.11;; *) kill -INT 0;; esac\n')
    env = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        **{key: os.environ[key] for key in ("HOME",) if key in os.environ},
    }
    done = subprocess.run(
        ["bash", "scripts/setup", "python3", str(tmp_path / "venv")],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
        # As a terminal sends it: to all of a group. What starts the tests may ignore it, which a shell does not undo.
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == 130 and "INTERRUPTED: the same command continues" in done.stderr
