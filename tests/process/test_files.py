"""Files on disk that are not as they should be: said, put aside or swept, and never a reason to fail without a word."""

from __future__ import annotations

import os
import signal
import stat

import pytest
from process_box import Box, wait_for
from test_devices import CUDA


@pytest.mark.parametrize("kind", ["too large", "a folder", "a link"])
def test_R39_a_state_file_that_cannot_be_read_is_put_aside_and_said(box: Box, kind: str) -> None:
    box.config("a")
    box.state.mkdir(mode=0o700)
    path = box.state / "state.json"
    if kind == "too large":
        path.write_bytes(b" " * ((4 << 20) + 1))
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(box.root / "nowhere")
    box.up()

    said = "it is larger than 4 MiB" if kind == "too large" else "it is not a plain file"
    assert f"the state file could not be read and was put aside as {path}.bad: {said}" in box.reasons()
    wait_for(lambda: path.exists() and stat.S_ISREG(path.lstat().st_mode), "a new one is written")


def test_R39_drafts_of_a_writer_that_was_killed_are_swept_and_others_are_not(box: Box) -> None:
    box.config("a")
    for folder in (box.state, box.logs):
        folder.mkdir(mode=0o700)
    gone = box.stranger("/bin/true")
    gone.wait()
    swept = [box.state / f"state.json.{gone.pid}.new", box.logs / "a.log.new"]
    kept = [box.state / f"state.json.{os.getpid()}.new", box.state / "mine.new", box.state / "12.old"]
    for path in (*swept, *kept):
        path.write_text("{}")
    (box.state / f"folder.{gone.pid}.new").mkdir()

    box.up()

    assert not [path for path in swept if path.exists()]
    assert all(path.exists() for path in kept)


def test_a_place_below_a_file_is_told_with_the_variable_that_mends_it(box: Box) -> None:
    box.config("a")
    for words in (["up"], ["up", "-d"]):
        done = box.ollamux(
            *words, "--config", str(box.config_path), env={**box.env, "OLLAMUX_STATE_DIR": "/dev/null/x/y"}
        )
        assert done.returncode == 9, done.stderr
        assert "cannot make /dev/null/x/y: /dev/null is not a folder" in done.stderr
        assert "OLLAMUX_STATE_DIR" in done.stderr


def test_a_time_out_of_a_moment_is_told_as_such(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "5s"})
    box.set("a", "ignore-term")
    box.up()
    done = box.ollamux("restart", "a", "--timeout", "1ms")
    assert done.returncode == 8
    assert "after 1 ms" in done.stderr
    box.clear("a", "ignore-term")
    for pid in box.family("a"):
        os.kill(pid, signal.SIGKILL)


def test_once_an_incident_holds_for_cron_after_the_supervisor_was_replaced(box: Box) -> None:
    box.config("a")
    box.set("a", "device-lines", CUDA)
    supervisor = box.up()
    wait_for(lambda: box.instance("a")["health"] == "degraded")
    box.ollamux("restart", "--if-unhealthy")
    starts = len(box.starts("a"))
    wait_for(lambda: '"asked_incidents": ["wrong_gpu"]' in (box.state / "state.json").read_text())
    supervisor.kill()

    box.up()
    wait_for(lambda: box.instance("a")["health"] == "degraded")
    assert box.instance("a")["adopted"]
    box.ollamux("restart", "--if-unhealthy")

    assert len(box.starts("a")) == starts, "no second restart for the same incident"
