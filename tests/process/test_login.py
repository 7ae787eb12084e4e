"""The folder of a login, `/run/user/<uid>`, comes and goes; a supervisor that outlives the login stays in reach."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from process_box import Box, wait_for

pytestmark = pytest.mark.skipif(
    os.path.isdir(f"/run/user/{os.getuid()}"), reason="a login folder is there: it would be used"
)


def log_in(box: Box, folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    box.env["XDG_RUNTIME_DIR"] = str(folder)
    return folder


def test_R38_every_command_finds_a_supervisor_that_has_outlived_its_login(box: Box) -> None:
    shared = box.runtime.parent
    del box.env["OLLAMUX_RUNTIME_DIR"]
    login = log_in(box, shared / "first")
    box.runtime = login / "ollamux"
    box.config("a")
    supervisor = box.up()
    assert box.socket_path.exists()

    shutil.rmtree(login)
    box.runtime = box.state / "run"
    wait_for(lambda: box.socket_path.exists() and box.listens(supervisor.pid), "it is bound in the folder of state")

    stale = box.env | {"XDG_RUNTIME_DIR": str(login)}
    cron = {name: value for name, value in box.env.items() if name != "XDG_RUNTIME_DIR"}
    log_in(box, shared / "second")
    for env in (stale, cron, box.env):
        assert box.ollamux("status", env=env).returncode == 0
    assert box.ollamux("up", "--ensure", "--config", str(box.config_path)).returncode == 0
    assert len(box.starts("a")) == 1
    assert not login.exists()
