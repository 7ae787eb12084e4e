"""Who is on the cards where no supervisor runs: real processes, some with our marks, on the stand-in's cards."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin_rig import SCENES, Driver, built

from ollamux.system import procs

ME = pwd.getpwuid(os.getuid()).pw_name
NOBODY = 65534


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("processes") / "new")


@pytest.fixture
def driver(tmp_path: Path, library: Path) -> Driver:
    return Driver(tmp_path, library)


@contextlib.contextmanager
def running(*, session: bool = False, **changes: Any) -> Iterator[int]:
    """Run a process that says when it is there, and waits for its input to end."""
    process = subprocess.Popen(  # noqa: TID251
        ["/bin/sh", "-c", "echo here; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=session,
        **changes,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()


def marks(driver: Driver, instance: str, state: str | None = None) -> dict[str, str]:
    return {
        **os.environ,
        "OLLAMUX_INSTANCE": instance,
        "OLLAMUX_GENERATION": "3",
        "OLLAMUX_SUPERVISOR": state or driver.env["OLLAMUX_STATE_DIR"],
        "OLLAMUX_SUPERVISOR_ID": "0123",
    }


def rows(driver: Driver, said: str) -> list[dict[str, Any]]:
    driver.says((SCENES / "two-cards.state").read_text() + said)
    plain = json.loads(driver.ollamux("status", "processes", "-o", "json"))
    assert "gpus" not in plain and plain["supervisor"] is None
    return list(plain["processes"])


def test_ours_are_told_with_their_instance_and_strangers_as_such(driver: Driver) -> None:
    with running(session=True, env=marks(driver, "gpu1")) as server, running() as stranger:
        found = rows(driver, f"0 processes {stranger}:7340032 {server}:na\n1 processes {server}:1048576\n")
    seen = [(row["pid"], row["kind"], row["instance"], row["memory_bytes"]) for row in found]
    assert seen == [
        (server, "serve", "gpu1", None),
        (server, "serve", "gpu1", 1048576),
        (stranger, "foreign", None, 7340032),
    ]
    assert {row["user"] for row in found} == {ME}
    assert all(row["name"] in ("sh", "dash", "bash") for row in found)
    assert len({row["gpu"] for row in found}) == 2


def test_what_is_left_of_an_instance_is_told_without_a_card_too(driver: Driver) -> None:
    with running(session=True, env=marks(driver, "gpu0")) as server:
        found = rows(driver, "")
        assert [(row["pid"], row["gpu"], row["instance"]) for row in found] == [(server, None, "gpu0")]
        table = driver.ollamux("status", "processes", columns=60)
        assert "gpu0" in table and ME[:8] in table
    assert rows(driver, "") == []


def test_a_process_of_another_supervisor_is_a_stranger(driver: Driver) -> None:
    with running(session=True, env=marks(driver, "gpu0", "/somewhere/else")) as other:
        found = rows(driver, f"0 processes {other}:1\n")
    assert [(row["kind"], row["instance"]) for row in found] == [("foreign", None)]


def test_a_program_in_a_shell_with_a_copied_environment_is_a_stranger(driver: Driver) -> None:
    """It is in a session whose leader carries no mark."""
    with running(env=marks(driver, "gpu0")) as copied:
        found = rows(driver, f"0 processes {copied}:1\n")
    assert [row["kind"] for row in found] == ["foreign"]


def test_a_process_that_the_kernel_does_not_show_has_no_name_and_no_user(driver: Driver) -> None:
    (row,) = rows(driver, "0 processes 4194303:5\n")  # beyond the largest number a process can have
    assert (row["pid"], row["name"], row["user"], row["memory_bytes"]) == (4194303, None, None, 5)
    assert "4194303" in driver.ollamux("status", "processes")


def test_a_user_without_a_name_is_told_by_number(driver: Driver) -> None:
    if os.getuid():
        pytest.skip("only root may run a process as somebody else")
    with running(user=1234567, cwd="/") as other:
        (row,) = rows(driver, f"0 processes {other}:5\n")
    assert row["user"] == "1234567"
    with running(user=NOBODY, cwd="/") as other:
        assert procs.owner(other) == pwd.getpwuid(NOBODY).pw_name


def test_the_whole_box_as_json_tells_of_them_too(driver: Driver) -> None:
    driver.plays("two-cards")
    with running(session=True, env=marks(driver, "gpu0")) as server:
        plain = json.loads(driver.ollamux("status", "-o", "json"))
    assert [row["pid"] for row in plain["processes"]] == [server]
