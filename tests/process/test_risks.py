"""What a configuration or a machine lays open: allowed where it is meant, told where it is not, and never hidden."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from process_box import Box, all_pids, wait_for
from test_disk import fill, small_disk

from ollamux.system.files import replaceable_by

NOBODY = "GPU-00000000-0000-0000-0000-000000000000"


def test_C14_without_the_driver_what_needs_no_gpu_starts_all_the_same(box: Box) -> None:
    box.config("plain", instances={"pinned": {"gpus": [NOBODY]}})
    box.up(ready=False)

    box.wait_ready("plain")

    waiting = wait_for(lambda: [one for one in (box.instance("pinned"),) if NOBODY in (one["reason"] or "")])[0]
    assert waiting["phase"] == "WAITING"
    assert waiting["next_action"] == "look again"
    assert box.starts("pinned") == []
    assert box.ollamux("status").returncode == 6


@pytest.mark.parametrize("kind", ["loop", "file", "below a file", "no permission"])
def test_C18_a_store_that_cannot_be_used_is_told_before_the_start_and_waited_for(box: Box, kind: str) -> None:
    store = box.root / "store"
    told = {"loop": "cannot be entered", "file": "is not a folder", "below a file": "cannot be made"}
    if kind == "loop":
        store.symlink_to("store")
    elif kind == "no permission":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        told[kind] = "cannot be made"
        (box.root / "closed").mkdir(mode=0o555)
        store = box.root / "closed" / "store"
    else:
        store.write_text("")
        store = store / "below" if kind == "below a file" else store
    box.config("a", store=str(store))
    box.up(ready=False)

    waiting = box.wait_phase("a", "WAITING")

    assert f"the store {store} {told[kind]}" in waiting["reason"]
    assert box.starts("a") == []
    if kind == "no permission":
        (box.root / "closed").chmod(0o755)
    else:
        (box.root / "store").unlink()
    box.wait_phase("a", "READY")


def test_C18_a_store_on_a_disk_that_may_only_be_read_cannot_be_made_and_one_that_is_there_serves(box: Box) -> None:
    disk = box.root / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk can be mounted by root only")
    try:
        (disk / "there").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        box.config(instances={"a": {"store": str(disk / "new")}, "b": {"store": str(disk / "there")}})
        box.up(ready=False)

        waiting = box.wait_phase("a", "WAITING")

        assert waiting["reason"] == f"the store {disk / 'new'} cannot be made: {disk} is not writable"
        assert box.starts("a") == []
        box.wait_ready("b")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        box.wait_phase("a", "READY")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_C18_a_store_that_is_missing_is_made_and_one_on_a_full_disk_serves(box: Box) -> None:
    with small_disk(box.root / "full") as disk:
        (disk / "models").mkdir()
        fill(disk)
        box.config(instances={"a": {"store": str(box.root / "not" / "yet")}, "b": {"store": str(disk / "models")}})

        box.up()

        assert [box.changes(name) for name in ("a", "b")] == [["STARTING", "READY"]] * 2


OPEN = "asks no password"


def exposed(box: Box, **keys: Any) -> str:
    """Start a server that others can reach; return what the table of it looks like."""
    box.config(instances={"a": keys, "b": {}})
    supervisor = box.start(env=box.env)
    wait_for(lambda: box.listens(supervisor.pid))
    box.wait_ready()
    return str(box.ollamux("status", env=box.env | {"COLUMNS": "100"}).stdout)


def test_C19_S5_a_server_that_others_can_reach_is_told_everywhere(box: Box) -> None:
    table = exposed(box, host="0.0.0.0")

    badge = "whoever reaches 0.0.0.0 may use it: ollama asks no password"
    assert f"! {badge}" in table
    assert box.instance("a")["warnings"] == [badge]
    assert box.instance("b")["warnings"] == []
    assert re.search("^warning: a: host 0.0.0.0 lets everybody", box.output(), re.MULTILINE), "on standard error"
    assert any(OPEN in reason for reason in box.reasons()), "in the record"
    box.ask("stop", names=["a"])
    assert box.instance("a")["warnings"] == [], "what does not run lays nothing open"


def test_C19_S5_where_it_is_meant_nothing_is_told(box: Box) -> None:
    table = exposed(box, host="0.0.0.0", allow_lan=True)

    assert "!" not in table
    assert OPEN not in box.output()
    assert not [reason for reason in box.reasons() if OPEN in reason]


def test_S6_a_server_that_every_web_page_may_use_is_told_everywhere(box: Box) -> None:
    table = exposed(box, env={"OLLAMA_ORIGINS": "http://localhost, http://*"})

    assert "! every web page may use it (OLLAMA_ORIGINS)" in table
    assert re.search("^warning: a: OLLAMA_ORIGINS=.* lets every web page", box.output(), re.MULTILINE)
    assert any("every web page" in reason for reason in box.reasons())


def tcp_sockets() -> set[str]:
    """Return the inodes of all TCP sockets of this machine."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {line.split()[9] for line in lines if line.split()[3] == "0A"}


def listening(pid: int) -> list[str]:
    """Return the descriptors on which a process listens over TCP."""
    known = tcp_sockets()
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            inode = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
            found += [fd] if inode and inode[1] in known else []
    return found


def test_S3_the_supervisor_listens_on_no_tcp_port(box: Box) -> None:
    box.config("a")
    supervisor = box.up()

    assert listening(box.instance("a")["pid"]), "the server itself does, so that the test would see it"
    assert listening(supervisor.pid) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is warned")
def test_S13_root_is_warned_and_served(box: Box) -> None:
    box.config("a")
    done = box.ollamux("up", "-d", "--config", str(box.config_path))

    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: running as root: whoever reaches a server reads and writes files as root")
    assert any("running as root" in reason for reason in box.reasons())
    assert box.ollamux("down").returncode == 0


def test_S14_a_program_that_others_could_replace_is_told_at_up_and_by_the_check(box: Box) -> None:
    box.config("a")
    box.bin.chmod(0o777)

    up = box.ollamux("up", "-d", "--config", str(box.config_path))
    check = box.ollamux("config", "check", "--here", "--config", str(box.config_path))
    elsewhere = box.ollamux("config", "check", "--config", str(box.config_path))

    told = f"{box.ollama} runs as this user, but everybody could replace it: look at ls -ld {box.bin}"
    assert up.returncode == check.returncode == elsewhere.returncode == 0
    assert up.stderr.count(told) == check.stderr.count(told) == 1
    assert told not in elsewhere.stderr, "another machine's program is not judged"
    assert sum(told in reason for reason in box.reasons()) == 1
    assert box.ollamux("down").returncode == 0
    box.bin.chmod(0o755)
    assert "could replace" not in box.ollamux("config", "check", "--here", "--config", str(box.config_path)).stderr


def test_S14_who_could_replace_a_program(tmp_path: Path) -> None:
    home = tmp_path / "real"
    (home / "bin").mkdir(parents=True)
    program, link = home / "bin/ollama", tmp_path / "link"
    program.write_text("#!/bin/sh\n")
    link.symlink_to(program)
    for path in (home, home / "bin", program):
        path.chmod(0o755)
    assert replaceable_by(str(program)) is None
    assert replaceable_by("/nowhere/at/all") is None

    for place in (program, home / "bin", home):
        place.chmod(0o777)
        assert replaceable_by(str(program)) == replaceable_by(str(link)) == (str(place), "everybody")
        place.chmod(0o755)
    (home / "bin").chmod(0o1777)
    assert replaceable_by(str(program)) is None, "in a sticky folder nobody renames what is ours"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_S14_other_owners_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ollama"
    program.write_text("")
    os.chown(program, 1234, 0)
    assert replaceable_by(str(program)) == (str(program), "its owner, user 1234,")
    os.chown(program, 65534, 0)
    assert replaceable_by(str(program)) is None, "in a container root's own files may look like this"
    os.chown(program, 0, 4321)
    program.chmod(0o775)
    members = ["root"]
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("staff", "x", gid, members)))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("root", "x", 0, 0, "", "/root", "/bin/sh")))
    assert replaceable_by(str(program)) is None, "a group with nobody else in it"
    members.append("mallory")
    assert replaceable_by(str(program)) == (str(program), "the group staff")


def test_S21_what_a_server_calls_its_models_is_cut_and_made_safe(box: Box) -> None:
    box.config("a")
    evil = "\x1b[2J\n" + "m" * 5000
    model = {"name": evil, "size": 1, "size_vram": 1, "digest": "d" * 5000}
    box.set("a", "ps", json.dumps({"models": [model] * 100}))
    box.up()
    models = wait_for(lambda: box.status()["models"])

    assert {len(model["name"]) for model in models} == {1024}
    assert {len(model["digest"]) for model in models} == {1024}
    for words in ((), ("models",), ("instances",)):
        shown = box.ollamux("status", *words, env=box.env | {"COLUMNS": "80"}).stdout
        assert "\x1b" not in shown
        assert max(map(len, shown.splitlines())) <= 80


def test_C25_a_file_that_says_the_same_restarts_nothing(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    before = box.instance("a")
    text = box.config_path.read_text()
    draft = box.root / "draft"
    draft.write_text(text)
    draft.rename(box.config_path)
    box.socket_path.unlink()
    wait_for(lambda: box.listens(supervisor.pid), "it has looked after its socket, and in the same breath at the file")

    assert box.status()["supervisor"]["config_changed"] is False
    box.config_path.write_text(f"# said in other words\n{text}")
    wait_for(lambda: box.status()["supervisor"]["config_changed"])
    supervisor.signal(signal.SIGKILL)
    supervisor.wait()
    box.up()
    after = box.instance("a")
    assert (after["pid"], after["generation"], after["adopted"]) == (before["pid"], 1, True)
    assert before["pid"] in all_pids()
