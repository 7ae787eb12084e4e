"""Wrong words, and right ones where nothing runs: the exit code, and one or two plain lines."""

from __future__ import annotations

import re
import sys

import pytest
from cli_rig import Place, is_plain_error

USAGE, NOT_RUNNING, NOT_FOUND = 2, 3, 5

FAILING = [
    ("stat", USAGE, "no such command 'stat'. Did you mean .*'status'"),
    ("frobnicate", USAGE, "no such command 'frobnicate'"),
    ("--nonsense", USAGE, "no such option"),
    ("--simulated status", USAGE, "no such option"),
    ("config", USAGE, "missing command"),
    ("config chek", USAGE, "Did you mean 'check'"),
    ("status gpu", USAGE, "no view 'gpu'.*gpus, instances, models, processes"),
    ("status gpus models", USAGE, "unexpected extra argument"),
    ("status -o yaml", USAGE, "no form 'yaml'.*table, wide, json"),
    ("status -o", USAGE, "requires an argument"),
    ("status --interval 0", USAGE, "'0' is no pause.*0.1 to 3600"),
    ("status --interval nan", USAGE, "is no pause"),
    ("status --interval x", USAGE, "is no pause"),
    ("status --colour", USAGE, "no such option: --colour"),
    ("events -o yaml", USAGE, "no form 'yaml'.*table, json"),
    ("logs -n -1", USAGE, "-1 is not in the range"),
    ("logs -n ten", USAGE, "'ten' is not a whole number"),
    ("up --simulate 0", USAGE, "0 is not in the range"),
    ("up --simulate four", USAGE, "'four' is not a whole number"),
    ("up -d --timeout 0s", USAGE, "'0s' is no duration"),
    ("up -d --timeout 10", USAGE, "'10' is no duration.*as in \"30s\""),
    ("restart --all --timeout soon", USAGE, "'soon' is no duration"),
    ("restart gpu0 --all", USAGE, "exclude each other"),
    ("exec", USAGE, "missing argument"),
    ("exec gpu0", USAGE, "missing argument"),
    ("env", USAGE, "missing argument"),
    ("down", NOT_RUNNING, "no supervisor is running"),
    ("down --simulated", NOT_RUNNING, "no simulation is running.*--simulate 4"),
    ("start gpu0", NOT_RUNNING, "no supervisor is running.*ollamux up -d"),
    ("stop gpu0", NOT_RUNNING, "no supervisor is running"),
    ("restart", NOT_RUNNING, "no supervisor is running"),
    ("restart --if-unhealthy -q", NOT_RUNNING, "no supervisor is running"),
    ("exec gpu0 -- true", NOT_RUNNING, "no supervisor is running"),
    ("sim crash", NOT_RUNNING, "no supervisor is running"),
    ("sim --simulated", NOT_RUNNING, "no simulation is running"),
    ("logs", NOT_FOUND, "nothing has been logged yet"),
    ("events", NOT_FOUND, "nothing has been recorded yet"),
    ("up", NOT_FOUND, "no configuration.*ollamux init.*ollamux up --simulate 4"),
    ("up -d", NOT_FOUND, "no configuration.*ollamux init.*ollamux up --simulate 4"),
    ("up --ensure -q", NOT_FOUND, "no configuration"),
]


@pytest.mark.parametrize(("words", "code", "told"), FAILING, ids=[row[0] for row in FAILING])
def test_an_error_is_one_or_two_lines_and_a_documented_exit_code(
    shared_place: Place, words: str, code: int, told: str
) -> None:
    result = shared_place.run(*words.split())
    assert result.code == code, result
    assert re.search(told, result.err, re.DOTALL), result.err
    assert is_plain_error(result.err), result.err
    assert result.out == ""


@pytest.mark.parametrize("words", ["restart --if-running", "restart --all --if-running -q"])
def test_restart_if_running_is_content_without_a_supervisor(shared_place: Place, words: str) -> None:
    assert shared_place.run(*words.split()) == (0, "", "")


COMMANDS = ["", "init", "up", "down", "start", "stop", "restart", "status", "logs", "events", "env", "exec", "sim"]
COMMANDS += ["config", "config check", "config show", "config path", "config schema"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_usage_and_exit_codes(shared_place: Place, command: str) -> None:
    result = shared_place.ok(*command.split(), "--help", env={"COLUMNS": "80"})
    assert result.out.startswith(f"Usage: ollamux {command}".rstrip())
    assert "{" not in result.out.split("\n")[0]
    told = re.sub(r"\s+", " ", result.out)
    assert "Exit codes: 0 done" in told and "8 timed out; 9 permission." in told
    assert all(len(line) <= 80 for line in result.out.split("\n"))
    assert shared_place.ok(*command.split(), "-h", env={"COLUMNS": "80"}).out == result.out


def test_no_word_in_the_list_of_commands_is_cut_off(shared_place: Place) -> None:
    assert "..." not in shared_place.ok("--help", env={"COLUMNS": "80"}).out.partition("Commands:")[2]


def test_without_a_word_the_help_is_shown(shared_place: Place) -> None:
    result = shared_place.run()
    assert result.code == USAGE
    assert (result.out + result.err).startswith("Usage: ollamux")


def test_version(shared_place: Place) -> None:
    assert re.fullmatch(r"ollamux \d+\.\d+\.\d+\S*\n", shared_place.ok("--version").out)


def test_status_without_anything(shared_place: Place) -> None:
    result = shared_place.run("status")
    assert result.code == NOT_RUNNING
    assert "not running" in result.out and "ollamux up" in result.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed(place: Place, shell: str) -> None:
    bare = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = place.ok("--show-completion", shell, env=bare)
    assert "ollamux" in shown.out
    place.ok("--install-completion", shell, env=bare)
    assert [path for path in (place.root / "home").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ollamux re", {"reload", "restart"}),
        ("ollamux status gp", {"gpus"}),
        ("ollamux sim cra", {"crash"}),
        ("ollamux sim cle", {"clear"}),
        ("ollamux restart a", {"alpha"}),
        ("ollamux env b", {"beta"}),
    ],
)
def test_completion_knows_commands_views_faults_and_instances(
    shared_place: Place, typed: str, offered: set[str]
) -> None:
    path = shared_place.config("alpha", "beta", name="named.toml")
    asked = {"_OLLAMUX_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    result = shared_place.run(env={**asked, "OLLAMUX_CONFIG": str(path)})
    assert set(result.out.split()) == offered


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["restart", "--help"], ["models", "--help"], ["env", "--help"]])
def test_the_part_that_is_put_together_says_what_the_whole_does(place: Place, words: list[str]) -> None:
    code = f"from ollamux.cli.app import app; app({words!r}, prog_name='ollamux', standalone_mode=False)"
    whole = place.run("-c", code, program=[sys.executable, "-P"])

    assert place.run(*words).out == whole.out != ""
