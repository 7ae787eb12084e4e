"""`ollamux top` on real terminals: what is shown, what keys do, and that the terminal is left as it was, always."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cli_rig import COMMAND, ESCAPES, Place, Terminal, on_terminal, until

REFUSED, USAGE = 7, 2
CTRL_C, CTRL_Z, CTRL_BACKSLASH, ESC = "\x03", "\x1a", "\x1c", "\x1b"
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
SGR = re.compile(r"\x1b\[[0-9;]*m")
QUICK = ("top", "--interval", "0.2")


@pytest.fixture
def box(place: Place) -> Place:
    """Two instances, ready."""
    place.fake_ollama()
    place.config("a", "b")
    place.ok("up", "-d", "-q")
    return place


def generations(place: Place) -> dict[str, int]:
    return {one["name"]: one["generation"] for one in place.status()["instances"]}


def assert_restored(terminal: Terminal) -> None:
    assert terminal.is_line_by_line()
    assert terminal.raw.count(ENTERED) == terminal.raw.count(LEFT) >= 1
    assert terminal.raw.rindex(LEFT) > terminal.raw.rindex(ENTERED)
    assert "\x1b[?25h" in terminal.raw.rpartition(ENTERED)[2]


def test_the_box_is_shown_and_q_leaves_the_terminal_as_it_was(box: Place) -> None:
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        assert ">a" in terminal.text and not terminal.is_line_by_line()
        terminal.type("q")
        assert terminal.end() == 0
        assert_restored(terminal)


@pytest.mark.parametrize("key", [CTRL_C, CTRL_BACKSLASH], ids=["Ctrl-C", "Ctrl-backslash"])
def test_other_keys_that_end_programs_leave_it_as_it_was_too(box: Place, key: str) -> None:
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        terminal.type(key)
        assert terminal.end() == 0
        assert_restored(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_the_terminal_as_it_was(box: Place, number: signal.Signals) -> None:
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        terminal.process.send_signal(number)
        assert terminal.end() == 0
        assert_restored(terminal)


def test_a_bug_leaves_the_terminal_as_it_was(box: Place) -> None:
    broken = (
        "import sys; import ollamux.cli.top as top; from ollamux.__main__ import main\n"
        "def bug(*args, **kwargs): raise ZeroDivisionError('of the test')\n"
        "top.draw_top = bug; main()"
    )
    with on_terminal(box, *QUICK, program=[sys.executable, "-P", "-c", broken]) as terminal:
        assert terminal.end() == 1
        assert_restored(terminal)
        assert "ollamux: " in terminal.raw.rpartition(LEFT)[2]


def test_a_terminal_that_hangs_up_ends_it(box: Place) -> None:
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        closed, terminal.fd = terminal.fd, os.open("/dev/null", os.O_RDONLY)
        os.close(closed)
        terminal.process.wait(timeout=20)


def test_an_instance_is_restarted_only_after_a_yes(box: Place) -> None:
    before = generations(box)
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        terminal.type("j")
        terminal.wait_for(">b")
        terminal.type("r")
        terminal.wait_for("Restart b?")
        terminal.type("n")
        terminal.wait_for("nothing was restarted")
        assert generations(box) == before
        terminal.forget()
        terminal.type("r")
        terminal.wait_for("Restart b?")
        terminal.type("y")
        terminal.wait_for("b: ready at")
        terminal.type("q")
        assert terminal.end() == 0
    after = generations(box)
    assert (after["a"], after["b"]) == (before["a"], before["b"] + 1)


def test_a_text_that_is_pasted_restarts_nothing(box: Place) -> None:
    before = generations(box)
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")

        terminal.type("try this")

        terminal.wait_for("Restart a?")
        terminal.type("n")
        terminal.wait_for("nothing was restarted")
        terminal.type("q")
        assert terminal.end() == 0
    assert generations(box) == before


def test_a_filter_and_the_help_are_shown(box: Place) -> None:
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        terminal.type("/b")
        terminal.wait_for("1 of 2 shown: b")
        terminal.wait_for(">b")
        terminal.type(ESC)
        terminal.wait_for(">a")
        terminal.type("?")
        terminal.wait_for("Any key goes back")
        terminal.type("xs")
        terminal.wait_for("sorted by name")
        terminal.type("q")
        assert terminal.end() == 0


def test_the_supervisor_may_end_and_come_back(box: Place) -> None:
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        box.ok("down", "-q")
        terminal.wait_for("no supervisor is running")
        terminal.wait_for("what is shown is")
        terminal.type("r")
        terminal.wait_for("there is no supervisor to ask")
        terminal.forget()
        box.ok("up", "-d", "-q")
        terminal.wait_for(" up ")  # what has not changed, as "2 of 2 READY", is not drawn again
        terminal.type("q")
        assert terminal.end() == 0


def test_it_may_be_there_before_the_supervisor(place: Place) -> None:
    place.fake_ollama()
    place.config("a")
    with on_terminal(place, *QUICK) as terminal:
        terminal.wait_for("no supervisor is running")
        place.ok("up", "-d", "-q")
        terminal.wait_for("1 of 1 READY")
        terminal.type("q")
        assert terminal.end() == 0


def test_a_supervisor_that_hangs_is_said_and_keys_still_work(box: Place) -> None:
    pid = box.status()["supervisor"]["pid"]
    with on_terminal(box, *QUICK) as terminal:
        terminal.wait_for("2 of 2 READY")
        os.kill(pid, signal.SIGSTOP)
        try:
            terminal.wait_for(f"the supervisor (pid {pid}) does not answer")
            terminal.type("?")
            terminal.wait_for("Any key goes back")
            terminal.type("x")
        finally:
            os.kill(pid, signal.SIGCONT)
        terminal.forget()
        terminal.resize(90)  # all is drawn anew
        terminal.wait_for("2 of 2 READY")
        until(lambda: "does not answer" not in newest_screen(terminal), "it is told that it answers again")
        terminal.type("q")
        assert terminal.end() == 0


def newest_screen(terminal: Terminal) -> str:
    """Return what is drawn when all is drawn anew."""
    terminal.forget()
    os.kill(terminal.process.pid, signal.SIGCONT)
    terminal.wait_for("choose")
    return terminal.text


def test_its_lines_follow_the_width_of_the_terminal(box: Place) -> None:
    with on_terminal(box, *QUICK, columns=200) as terminal:
        terminal.wait_for("2 of 2 READY")
        for columns in (60, 120, 61):
            terminal.forget()
            terminal.resize(columns)
            terminal.wait_for("choose")
            drawn = re.split(r"\x1b\[\d+;1H", terminal.raw.partition("\x1b[2J")[2])
            widest = max(len(ESCAPES.sub("", line)) for line in drawn)
            assert widest <= columns
            # Erased after a line that fills the screen, its last character would go with it.
            assert "\x1b[K" not in terminal.raw
        terminal.type("q")
        assert terminal.end() == 0


# A shell's part in job control: starts the command as a foreground job, says when it is stopped, and goes on with it.
_SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    os.tcsetpgrp(0, os.getpgrp())
    print("STOPPED", flush=True)
    sys.stdin.readline()
    print("GOES ON", flush=True)
    os.tcsetpgrp(0, pid)
    os.kill(pid, signal.SIGCONT)
"""


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(box: Place) -> None:
    with on_terminal(box, *QUICK, program=[sys.executable, "-c", _SHELL, COMMAND]) as terminal:
        terminal.wait_for("2 of 2 READY")
        for _ in range(2):
            terminal.type(CTRL_Z)
            terminal.wait_for("STOPPED")
            assert_restored(terminal)
            terminal.forget()
            terminal.type("\n")
            terminal.wait_for("GOES ON")
            terminal.wait_for("2 of 2 READY")  # all of it, not what changed
            assert not terminal.is_line_by_line()
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.is_line_by_line()


@pytest.mark.parametrize("flags", [{"TERM": "dumb"}, {"TERM": None}], ids=str)
def test_C30_a_terminal_that_cannot_be_drawn_on_is_refused_kindly(box: Place, flags: dict[str, str | None]) -> None:
    with on_terminal(box, "top", env=flags) as terminal:
        assert terminal.end() == REFUSED
        assert "ollamux status --watch" in terminal.text and not ESCAPES.search(terminal.raw)


def test_without_a_terminal_it_is_refused_kindly(box: Place) -> None:
    result = box.run("top")
    assert (result.code, result.out) == (REFUSED, "")
    assert "status --watch" in result.err and result.err.count("\n") == 2


@pytest.mark.parametrize("words", ["0", "61", "x", "-1"])
def test_a_pause_that_makes_no_sense_is_refused(place: Place, words: str) -> None:
    assert place.run("top", "--interval", words).code == USAGE


def test_C30_without_colour_everything_is_still_said(box: Place) -> None:
    with on_terminal(box, *QUICK, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("2 of 2 READY")
        terminal.wait_for("choose")
        terminal.type("q")
        assert terminal.end() == 0
        assert not SGR.search(terminal.raw) and ">a" in terminal.text


def test_C30_another_locale_gets_ascii(box: Place) -> None:
    with on_terminal(box, *QUICK, env={"LC_ALL": "C"}) as terminal:
        terminal.wait_for("2 of 2 READY")
        terminal.type("?")
        terminal.wait_for("Any key goes back")
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.raw.isascii()


def test_in_tmux_it_fills_the_screen_and_leaves_the_one_before(box: Place) -> None:
    tmux = shutil.which("tmux") or pytest.skip("needs tmux")

    def say(*words: str) -> str:
        command = [tmux, "-S", str(box.root / "tmux"), "-f", "/dev/null", *words]
        return subprocess.run(command, env=box.env, capture_output=True, text=True, check=True, timeout=20).stdout

    script = box.root / "script"
    script.write_text(
        textwrap.dedent(f"""\
            cd {box.work}
            echo before
            {COMMAND} top --interval 0.2
            echo after $?
            read line
            """)
    )
    say("new-session", "-d", "-x", "60", "-y", "16", f"sh {script}")
    try:
        until(lambda: "2 of 2 READY" in say("capture-pane", "-p"), "the box is shown")
        lines = say("capture-pane", "-p").split("\n")[:16]
        assert lines[0].startswith(" ollamux ") and "before" not in "".join(lines)
        assert lines[-1].strip().startswith("q quit")
        say("resize-window", "-x", "90", "-y", "20")
        until(lambda: "q quit" in say("capture-pane", "-p").split("\n")[19], "it fills the larger screen")
        say("send-keys", "q")
        until(lambda: "after 0" in say("capture-pane", "-p"), "it has ended")
        assert say("capture-pane", "-p").split() == ["before", "after", "0"]
    finally:
        say("kill-server")


def test_its_help_names_it_among_the_commands(place: Place) -> None:
    assert "top " in place.ok("--help").out
    assert Path(COMMAND).exists() and "--interval" in place.ok("top", "--help").out
