"""`init` and `config …`, and every way in which a file can be wrong for `up`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_rig import COMMAND, Place, is_plain_error

CONFIG, NOT_FOUND, REFUSED, PERMISSION = 4, 5, 7, 9
UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
"""Root may write everywhere, but not without these capabilities."""


@pytest.fixture
def humble() -> list[str]:
    """What to put before the command so that permissions count for it."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root without setpriv: permissions forbid nothing")
    return UNPRIVILEGED


def test_init_writes_once(place: Place) -> None:
    path = place.root / "home/.config/ollamux/config.toml"
    first = place.ok("init")
    assert str(path) in first.out and "ollamux up" in first.out
    written = path.read_text()
    assert "version = 1" in written and written.startswith("#")

    path.write_text("mine")
    again = place.run("init")
    assert again.code == REFUSED and is_plain_error(again.err)
    assert str(path) in again.err and "--force" in again.err
    assert path.read_text() == "mine"

    place.ok("init", "--force")
    assert path.read_text() == written
    assert place.ok("config", "path").out == f"{path}\n"
    assert place.ok("config", "check").out == f"{path}: valid, 1 instance\n"
    assert place.ok("config", "check", "-q").out == ""


def test_init_to_standard_output_writes_no_file(place: Place) -> None:
    result = place.ok("init", "--stdout")
    assert "[instances." in result.out
    assert not list((place.root / "home").iterdir())
    (place.work / "ollamux.toml").write_text(result.out)
    place.ok("config", "check")


def test_init_refuses_a_folder_and_what_it_may_not_write(place: Place, humble: list[str]) -> None:
    assert place.run("init", "--config", str(place.work)).code == REFUSED
    place.work.chmod(0o555)
    result = place.run("init", "--config", "new.toml", program=[*humble, COMMAND])
    place.work.chmod(0o755)
    assert result.code == PERMISSION and is_plain_error(result.err)
    assert "new.toml" in result.err


def test_C1_config_path_says_where_it_looked(place: Place) -> None:
    result = place.run("config", "path")
    assert result.code == NOT_FOUND
    assert result.err.startswith("ollamux: there is no configuration file; looked at\n")
    assert str(place.work / "ollamux.toml") in result.err and "ollamux init" in result.err
    path = place.config("a")
    found = place.ok("config", "path")
    assert found.out == f"{path}\n"
    assert "in the current folder: found" in found.err


def test_C24_S7_config_show_fills_in_and_masks(place: Place) -> None:
    place.config("a", a='env = { MY_API_TOKEN = "hunter2" }')
    shown = place.ok("config", "show")
    assert "hunter2" not in shown.out and 'first = "0s"' in shown.out
    revealed = place.ok("config", "show", "--reveal").out
    assert "hunter2" in revealed
    (place.work / "shown.toml").write_text(revealed)
    place.ok("config", "check", "shown.toml")


def test_config_schema_is_json(place: Place) -> None:
    assert place.ok("config", "schema").json["$schema"].startswith("https://json-schema.org/")


def test_config_check_here_wants_the_programs_and_cards(place: Place) -> None:
    place.config("a", a='ollama = "/nowhere/ollama"')
    place.ok("config", "check")
    result = place.run("config", "check", "--here")
    assert result.code == NOT_FOUND
    assert "/nowhere/ollama" in result.err
    place.fake_ollama()
    place.config("a")
    place.ok("config", "check", "--here")


def test_config_check_judges_a_file_for_cards_that_are_elsewhere(place: Place) -> None:
    (place.work / "ollamux.toml").write_text('version = 1\n[instances.a]\ngpus = ["GPU-00000000-1111"]\nport = 31000\n')
    place.ok("config", "check")
    assert place.run("config", "check", "--here").code == NOT_FOUND


def _broken(folder: Path, kind: str) -> Path:
    path = folder / "given.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes(BROKEN[kind])
    return path


BROKEN = {
    "empty": b"",
    "syntax": b"version = \n",
    "utf-16": "version = 1".encode("utf-16"),
    "misspelt": b'version = 1\n[instances.a]\ngpus = []\nprot = 1\nport = "1"\n',
}
JUDGED = [("missing", NOT_FOUND), ("folder", CONFIG), ("fifo", CONFIG), *((kind, CONFIG) for kind in BROKEN)]


@pytest.mark.parametrize("command", [["config", "check"], ["up"], ["up", "--ensure", "-q"]], ids=" ".join)
@pytest.mark.parametrize(("kind", "code"), JUDGED, ids=[row[0] for row in JUDGED])
def test_C1_C2_C3_C5_a_broken_file_starts_nothing(place: Place, command: list[str], kind: str, code: int) -> None:
    place.fake_ollama()
    path = _broken(place.work, kind)
    result = place.run(*command, "--config", str(path))
    assert result.code == code, result
    assert path.name in result.err and result.out == ""
    if kind in BROKEN:
        assert "Nothing was changed." in result.err
    else:
        assert is_plain_error(result.err), result.err
    if kind == "misspelt":
        assert 'did you mean "port"?' in result.err and "2 problems" in result.err
    assert not place.pids()
    assert not (place.state / "state.json").exists()


def test_an_unreadable_file_is_a_matter_of_permission(place: Place, humble: list[str]) -> None:
    path = place.config("a")
    path.chmod(0)
    for command in ("config check", "up", "up -d"):
        result = place.run(*command.split(), program=[*humble, COMMAND])
        assert result.code == PERMISSION and is_plain_error(result.err), result


def _to_a_group(path: Path) -> None:
    os.chown(path, 0, 1234)
    path.chmod(0o664)


FOREIGN: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "everybody": (lambda path: path.chmod(0o666), "can be written by everybody", "chmod go-w"),
    "its owner": (lambda path: os.chown(path, 1234, -1), "can be written by its owner, user 1234", "chown root"),
    "a group": (_to_a_group, "can be written by group 1234", "chmod go-w"),
    "the folder": (lambda path: path.parent.chmod(0o777), "who could swap", "/etc/ollamux"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is that careful")
@pytest.mark.parametrize("who", FOREIGN)
def test_C21_S13_root_refuses_a_file_that_others_could_write(place: Place, who: str) -> None:
    place.fake_ollama()
    path = place.config("a")
    FOREIGN[who][0](path)
    for command in ("config check", "up", "up -d", "up --ensure"):
        result = place.run(*command.split())
        assert result.code == PERMISSION and is_plain_error(result.err), result
        assert FOREIGN[who][1] in result.err and FOREIGN[who][2] in result.err
    assert not place.pids()
    assert not (place.state / "state.json").exists()


@pytest.mark.parametrize("variable", ["OLLAMUX_STATE_DIR", "OLLAMUX_RUNTIME_DIR", "OLLAMUX_LOG_DIR"])
def test_a_folder_that_may_not_be_written_starts_nothing(place: Place, humble: list[str], variable: str) -> None:
    place.fake_ollama()
    place.config("a")
    closed = place.root / "closed"
    closed.mkdir(mode=0o555)
    for words in (["up"], ["up", "-d"]):
        result = place.run(*words, env={variable: f"{closed}/x"}, program=[*humble, COMMAND])
        assert result.code == PERMISSION and is_plain_error(result.err), result
        assert f"{closed}/x" in result.err
    assert not place.pids()


def test_C23_a_path_too_long_for_a_socket_is_told_with_the_way_out(place: Place) -> None:
    place.fake_ollama()
    place.config("a")
    result = place.run("up", "-d", env={"OLLAMUX_RUNTIME_DIR": f"{place.root}/{'x' * 120}"})
    assert result.code == 1 and is_plain_error(result.err)
    assert "OLLAMUX_RUNTIME_DIR" in result.err
    assert not place.pids()


def test_status_without_a_supervisor_shows_the_configuration(place: Place) -> None:
    place.config("a", "off", off="enabled = false")
    table = place.run("status")
    assert table.code == 3 and "STOPPED" in table.out
    found = place.run("status", "-o", "json")
    assert found.code == 3
    assert found.json["supervisor"] is None
    assert [(one["name"], one["phase"], one["pid"]) for one in found.json["instances"]] == [
        ("a", "STOPPED", None),
        ("off", "STOPPED", None),
    ]
    json.loads(place.run("status", "instances", "-o", "json").out)


def test_C24_env_without_a_supervisor_is_what_it_would_be(place: Place) -> None:
    place.config("a", a='env = { MY_API_TOKEN = "hunter2", PLAIN = "x" }')
    shown = place.ok("env", "a")
    assert "OLLAMA_HOST=127.0.0.1:" in shown.out and "PLAIN=x\n" in shown.out
    assert "hunter2" not in shown.out and "no supervisor" in shown.err
    assert "MY_API_TOKEN=hunter2\n" in place.ok("env", "a", "--reveal").out
    assert place.run("env", "b").code == NOT_FOUND
