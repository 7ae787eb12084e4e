"""Readers that go away, disks that are full, streams that are closed, and a supervisor that does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from cli_rig import COMMAND, ESCAPES, Place, is_plain_error, until

TIMEOUT = 8
COMMANDS = ["status", "status -o json", "logs", "events", "--help", "--version", "config schema", "env gpu0", "sim"]


def shell(place: Place, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell with the command in `$O`; its own pipes and redirections count."""
    env = {**place.env, "O": COMMAND}
    return subprocess.run(["bash", "-c", line], env=env, cwd=place.work, text=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("words", COMMANDS)
def test_C29_output_into_a_reader_that_goes_a_full_disk_and_nowhere(simulation: Place, words: str) -> None:
    headed = shell(simulation, f"$O {words} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (headed.returncode, headed.stderr) == (0, ""), headed
    assert len(headed.stdout.splitlines()) == 1

    full = shell(simulation, f"$O {words} > /dev/full")
    assert full.returncode == 1 and is_plain_error(full.stderr), full
    assert "No space left on device" in full.stderr

    closed = shell(simulation, f"$O {words} >&-")
    assert (closed.returncode, closed.stderr) == (0, ""), closed


@pytest.mark.parametrize(("words", "code"), [("stat", 2), ("logs nosuch", 5), ("up --simulate 2", 7)])
@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "2> >(true)", ">&- 2>&- <&-"])
def test_C29_an_error_that_cannot_be_told_keeps_its_exit_code(
    simulation: Place, words: str, code: int, stream: str
) -> None:
    untold = shell(simulation, f"$O {words} {stream}")
    assert untold.returncode == code
    assert (untold.stdout, untold.stderr) == ("", "")


def test_C29_a_change_is_made_though_nobody_reads_of_it(simulation: Place) -> None:
    before = simulation.status("--simulated")["instances"][0]["generation"]
    assert shell(simulation, "$O restart gpu0 >&-").returncode == 0
    assert shell(simulation, "$O restart gpu0 | true; exit ${PIPESTATUS[0]}").returncode == 0
    assert simulation.status("--simulated")["instances"][0]["generation"] == before + 2


@pytest.mark.parametrize("words", ["logs -f", "events -f", "status --watch --interval 0.1"])
def test_C29_following_ends_when_the_reader_goes_away(simulation: Place, words: str) -> None:
    result = shell(simulation, f"$O {words} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (result.returncode, result.stderr) == (0, ""), result


def test_C30_piped_output_has_no_escapes(simulation: Place) -> None:
    for words in ("status", "events", "logs -n 5", "restart gpu0", "sim"):
        assert not ESCAPES.search(simulation.ok(*words.split()).out)


@contextlib.contextmanager
def stopped(place: Place) -> Iterator[int]:
    pid = place.status("--simulated")["supervisor"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)
        until(lambda: place.run("status", "--simulated").code == 0, "it answers again")


def test_a_supervisor_that_is_stopped_is_told_and_not_waited_for(simulation: Place) -> None:
    words = ("status", "status --simulated", "status gpus -o json", "down", "restart gpu0", "sim", "env gpu0")
    with stopped(simulation) as pid:
        asking = [simulation.popen(*one.split()) for one in (*words, "exec gpu0 -- true")]
        ended = [(one.communicate(timeout=30), one.returncode) for one in asking]
    for (out, err), code in ended:
        assert code == TIMEOUT and out == "" and is_plain_error(err), (code, err)
        assert f"kill -CONT {pid}" in err
    assert simulation.status("--simulated")["instances"][0]["phase"] == "READY"


def test_a_supervisor_that_dies_under_a_command_is_exit_3(place: Place) -> None:
    place.simulate(1, "-q")
    place.ok("sim", "never-ready")
    pid = place.status()["supervisor"]["pid"]
    waiting = place.popen("restart", "gpu0")
    until(lambda: place.status()["instances"][0]["phase"] == "STARTING", "the restart is under way")
    os.kill(pid, signal.SIGKILL)
    _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 3 and is_plain_error(err), err
    for one in place.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)  # the instances serve on, as they should
