"""Finding the program, with every reason told apart, and asking it for its version."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from ollamux.domain.errors import DeniedError, NotFoundError
from ollamux.ollama.binary import binary_version, find_ollama, parse_version_output, version_text

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"


def program(folder, text="#!/bin/sh\n", *, name="ollama", mode=0o755):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_on_path_that_can_be_run(tmp_path) -> None:
    program(tmp_path / "a", mode=0o644)
    wanted = program(tmp_path / "b")
    (tmp_path / "c").mkdir()
    path = os.pathsep.join(str(tmp_path / name) for name in "cab")
    if os.geteuid() == 0 and os.access(tmp_path / "a" / "ollama", os.X_OK):
        pytest.skip("this user may execute anything")
    assert find_ollama("ollama", {"PATH": path}) == str(wanted)


def test_by_path_and_by_home(tmp_path, monkeypatch) -> None:
    wanted = str(program(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    assert find_ollama(wanted, {}) == wanted
    assert find_ollama("bin/ollama", {}) == wanted
    assert find_ollama("./bin/ollama", {}) == wanted
    assert find_ollama("~/bin/ollama", {"HOME": str(tmp_path)}) == wanted


def test_S14_the_current_folder_is_never_searched(tmp_path, monkeypatch) -> None:
    program(tmp_path / "bin")
    monkeypatch.chdir(tmp_path / "bin")
    for path in ("", ".", "::", ".:" + str(tmp_path / "nowhere")):
        with pytest.raises(NotFoundError):
            find_ollama("ollama", {"PATH": path})


def test_not_on_path_lists_the_path(tmp_path) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_ollama("ollama", {"PATH": str(tmp_path)})
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def make(kind, tmp_path):
    path = tmp_path / "ollama"
    match kind:
        case "folder":
            path.mkdir()
        case "mode":
            program(tmp_path, mode=0o644)
        case "interpreter":
            program(tmp_path, "#!/no/such/shell\n")
        case "no interpreter":
            program(tmp_path, "#!\n")
        case "empty":
            program(tmp_path, "")
        case "link":
            path.symlink_to(tmp_path / "gone")
        case "fifo":
            os.mkfifo(path, 0o755)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "words", "error"),
    [
        ("missing", "does not exist", NotFoundError),
        ("folder", "is a folder", NotFoundError),
        ("mode", "may not be executed", DeniedError),
        ("interpreter", "/no/such/shell is missing", NotFoundError),
        ("no interpreter", "(none) is missing", NotFoundError),
        ("empty", "is empty", NotFoundError),
        ("link", "link to nothing", NotFoundError),
        ("fifo", "no ordinary file", NotFoundError),
    ],
)
def test_C17_each_reason_is_told_apart(tmp_path, kind, words, error) -> None:
    path = make(kind, tmp_path)
    with pytest.raises(error, match=re.escape(words)) as caught:
        find_ollama(path, {})
    assert path in caught.value.message


def test_something_unusable_on_path_is_told(tmp_path) -> None:
    make("interpreter", tmp_path)
    with pytest.raises(NotFoundError, match="/no/such/shell"):
        find_ollama("ollama", {"PATH": str(tmp_path)})


@pytest.mark.parametrize("version", ["v0.24.0", "v0.32.15"])
def test_both_forms_of_output_are_recorded(version) -> None:
    outputs = (RECORDINGS / version / "cli.txt").read_text(), (RECORDINGS / version / "start-failures.txt").read_text()
    for output in outputs:
        if "version is" in output:
            assert f"v{parse_version_output(output)}" == version
    assert any("client version is" in output for output in outputs)


def test_with_a_server_of_another_version_the_own_one_counts() -> None:
    assert parse_version_output("ollama version is 0.24.0\nWarning: client version is 0.32.15\n") == "0.32.15"
    assert parse_version_output("something else") is None


def test_the_program_gets_a_clean_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    seen = tmp_path / "seen"
    path = program(tmp_path / "bin", f"#!/bin/sh\nenv > {seen}\necho Warning: client version is 0.33.0-rc2\n")
    assert binary_version(str(path)) == (0, 33, 0)
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert names <= {"PATH", "HOME", "OLLAMA_HOST", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "OLLAMA_HOST=127.0.0.1:9" in seen.read_text()


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho panic >&2; exit 2\n", "not a program"])
def test_a_version_that_cannot_be_learnt_is_none(tmp_path, text) -> None:
    assert version_text(str(program(tmp_path / "bin", text))) is None


def test_a_program_that_hangs_is_given_up(tmp_path) -> None:
    path = program(tmp_path / "bin", "#!/bin/sh\nexec sleep 60\n")
    before = time.monotonic()
    assert binary_version(str(path), 0.1) is None
    assert time.monotonic() - before < 30


def test_a_missing_program_has_no_version(tmp_path) -> None:
    assert binary_version(str(tmp_path / "ollama")) is None
