"""What a server is started with: exactly its environment, its descriptors, its session, and nothing of the caller."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from process_box import Box, process_state, wait_for

OUTER = {
    "OLLAMA_HOST": "0.0.0.0:1",
    "OLLAMA_ORIGINS": "*",
    "OLLAMA_DEBUG": "2",
    "OLLAMA_MODELS": "/nowhere",
    "OLLAMA_NOPRUNE": "0",
    "CUDA_VISIBLE_DEVICES": "7",
    "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
    "ROCR_VISIBLE_DEVICES": "7",
    "HIP_VISIBLE_DEVICES": "7",
    "GPU_DEVICE_ORDINAL": "7",
    "GGML_VK_VISIBLE_DEVICES": "7",
    "SLURM_JOB_ID": "42",
    "LD_PRELOAD": "/nonexistent-preload.so",
    "PYTHONPATH": "/nonexistent-modules",
    "PYTHONSTARTUP": "/nonexistent-startup",
    "NOTIFY_SOCKET": "/run/nobody/notify",
    "WATCHDOG_USEC": "30000000",
    "LISTEN_FDS": "1",
    "INVOCATION_ID": "0123",
    "JOURNAL_STREAM": "8:1",
    "AWS_SECRET_ACCESS_KEY": "hush",
    "OLLAMUX_GENERATION": "99",
    "DISPLAY": ":0",
}


def dumped(box: Box, name: str = "a") -> dict[str, Any]:
    """Start one instance with the real command and return what it was given."""
    path = box.root / f"{name}.dump"
    wait_for(path.exists, "the server tells what it was given")
    return dict(json.loads(path.read_text()))


def with_dump(box: Box, **keys: Any) -> Path:
    return box.config(instances={"a": {"env": {"FAKE_DUMP": str(box.root / "a.dump"), **keys.pop("env", {})}, **keys}})


def test_S15_R82_nothing_of_the_callers_environment_reaches_a_server(box: Box) -> None:
    with_dump(box)
    box.up(env=box.env | OUTER | {"LC_ALL": "C.UTF-8", "TZ": "UTC", "USER": "somebody"})

    env = dumped(box)["env"]

    for name, value in OUTER.items():
        assert env.get(name) != value, f"{name} leaked"
    expected = {
        *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER"),
        *("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NOPRUNE", "OLLAMA_CONTEXT_LENGTH", "LLAMA_ARG_CACHE_RAM"),
        *("OLLAMA_LLM_LIBRARY", "OLLAMA_VULKAN", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        *("HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
        *("OLLAMUX_SUPERVISOR", "OLLAMUX_SUPERVISOR_ID", "OLLAMUX_INSTANCE", "OLLAMUX_GENERATION"),
        *("FAKE_DUMP", "FAKE_DIR", "FAKE_STARTS"),
    }
    assert set(env) - {"PWD", "OLDPWD", "SHLVL", "_"} == expected, "the shell in front of the fake may add its own"
    assert env["OLLAMA_HOST"] == f"{box.host}:{box.ports['a']}"
    assert env["OLLAMUX_SUPERVISOR"] == str(box.state)
    assert env["OLLAMUX_INSTANCE"] == "a"
    assert env["OLLAMUX_GENERATION"] == "1"


def test_R70_pruning_is_off_in_every_server_and_at_every_start(box: Box) -> None:
    names = ["a", "b", "c"]
    dumps = {name: {"env": {"FAKE_DUMP": str(box.root / f"{name}.dump")}} for name in names}
    box.config(instances=dumps, supervisor={"on_death": "stop"})
    box.up(env=box.env | {"OLLAMA_NOPRUNE": "0"})
    assert [dumped(box, name)["env"]["OLLAMA_NOPRUNE"] for name in names] == ["1"] * 3
    for name in names:
        (box.root / f"{name}.dump").unlink()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.ask("restart", names=["b", "c"])

    assert [dumped(box, name)["env"]["OLLAMA_NOPRUNE"] for name in names] == ["1"] * 3


def test_R70_a_layer_of_a_pull_that_takes_hours_survives_the_start_of_another_server(box: Box) -> None:
    """The simulated server prunes as the real one does: what no manifest names and is older than an hour."""
    up = box.ollamux("up", "--simulate", "2", "-d")
    assert up.returncode == 0, up.stderr
    try:
        lines = box.ollamux("env", "gpu0", "--simulated").stdout.splitlines()
        home = next(line.partition("=")[2] for line in lines if line.startswith("HOME="))
        named = [line.partition("=")[2] for line in lines if line.startswith("OLLAMA_MODELS=")]
        blobs = Path(named[0] if named else f"{home}/.ollama/models") / "blobs"
        layer = blobs / f"sha256-{'a' * 64}"
        layer.write_bytes(b"x")
        os.utime(layer, (1_000_000_000, 1_000_000_000))

        assert box.ollamux("restart", "gpu1", "--simulated").returncode == 0

        assert layer.exists()
    finally:
        box.ollamux("down", "--simulated")


def test_S15_the_servers_have_a_home_and_a_path_where_the_caller_has_none(box: Box) -> None:
    with_dump(box, ollama=str(box.ollama))
    bare = {name: value for name, value in box.env.items() if name.startswith("OLLAMUX_")}
    box.up(env=bare)

    env = dumped(box)["env"]

    assert env["HOME"].startswith("/")
    assert "/usr/bin" in env["PATH"]


def test_R55_S16_a_server_has_three_descriptors_whatever_the_caller_left_open(box: Box) -> None:
    with_dump(box)
    held = os.open(box.root / "secret", os.O_RDWR | os.O_CREAT)
    supervisor = box.up(env=box.env, pass_fds=(held,))
    assert os.readlink(f"/proc/{supervisor.pid}/fd/{held}") == str(box.root / "secret")
    os.close(held)

    fds = dumped(box)["fds"]

    open_ones = {fd: target for fd, target in fds.items() if not target.startswith("/proc/")}
    assert set(open_ones) == {"0", "1", "2"}
    assert open_ones["0"] == "/dev/null"
    assert open_ones["1"] == open_ones["2"] == str(box.log("a"))


def test_R55_a_respawned_server_has_three_descriptors_too(box: Box) -> None:
    with_dump(box)
    box.config("b", "c", instances={"a": {"env": {"FAKE_DUMP": str(box.root / "a.dump")}}})
    box.up()
    waiting = [box.send({"cmd": "status"}) for _ in range(3)]
    (box.root / "a.dump").unlink()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    fds = dumped(box)["fds"]

    assert {fd for fd, target in fds.items() if not target.startswith("/proc/")} == {"0", "1", "2"}
    for connection in waiting:
        connection.close()


def test_R55_fds_0_to_2_of_the_caller_may_be_closed(box: Box) -> None:
    with_dump(box)

    def close_standard() -> None:
        for fd in (0, 1, 2):
            os.close(fd)

    supervisor = box.up(env=box.env, preexec_fn=close_standard)

    fds = dumped(box)["fds"]
    assert fds["0"] == "/dev/null"
    assert fds["1"] == fds["2"] == str(box.log("a"))
    assert [os.readlink(f"/proc/{supervisor.pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_started("a", 2)


def test_R8_a_server_leads_its_own_session(box: Box) -> None:
    with_dump(box)
    supervisor = box.up()

    told = dumped(box)

    assert told["sid"] == told["pgid"] == told["pid"] == box.instance("a")["pid"]
    assert told["ppid"] == supervisor.pid
    assert os.getsid(supervisor.pid) != told["sid"]


READ_SIGNALS = 'while read -r line; do case $line in Sig*) echo "$line" ;; esac; done < /proc/$$/status > {}'
"""In the shell itself: while it starts another program it blocks signals of its own accord."""


def test_signals_are_at_their_defaults_in_a_server_even_if_the_caller_ignores_and_blocks_them(box: Box) -> None:
    box.install("ollama", before=READ_SIGNALS.format(box.root / "signals"))
    box.config("a")

    def deaf() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    box.up(env=box.env, preexec_fn=deaf)

    told = dict(line.split(":\t") for line in (box.root / "signals").read_text().splitlines())
    assert int(told["SigBlk"], 16) == 0
    internal = 1 << 31 | 1 << 32  # the two signals that glibc keeps for itself
    assert int(told["SigIgn"], 16) & ~internal == 0


def test_R7_children_are_noticed_even_if_the_caller_ignores_their_end(box: Box) -> None:
    box.config("a")
    box.up(env=box.env, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))

    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    assert box.wait_started("a", 2)["exit"]["signal"] == "SIGKILL"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_umask_of_the_user_is_kept(box: Box, umask: int) -> None:
    with_dump(box)
    box.up(env=box.env, umask=umask)

    assert dumped(box)["umask"] == umask


def test_S7_logs_are_private_and_appended_to(box: Box) -> None:
    with_dump(box)
    box.logs.mkdir(mode=0o755)
    box.log("a").write_text("what an earlier run said\n")
    box.log("a").chmod(0o600)
    box.up(env=box.env, umask=0)

    assert dumped(box)["append"]
    assert box.log("a").read_text().startswith("what an earlier run said\n")
    box.log("a").unlink()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_started("a", 2)
    assert stat.S_IMODE(box.log("a").stat().st_mode) == 0o600
    assert stat.S_IMODE(box.logs.stat().st_mode) == 0o700


def test_S7_S19_secrets_stand_in_no_argument_no_status_no_state_and_no_event(box: Box) -> None:
    with_dump(box, env={"API_TOKEN": "wonderful-secret"})
    box.up()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_started("a", 2)

    told = dumped(box)
    assert told["env"]["API_TOKEN"] == "wonderful-secret"
    assert "wonderful-secret" not in " ".join(told["argv"])
    seen = [json.dumps(box.status()), box.ollamux("env", "a").stdout, box.ollamux("status", "-o", "json").stdout]
    seen += [path.read_text() for path in box.state.rglob("*") if path.is_file() and "cache" not in path.name]
    assert not [text for text in seen if "wonderful-secret" in text]
    assert stat.S_IMODE((box.state / "state.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((box.state / "events.jsonl").stat().st_mode) == 0o600
    for path in box.state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_R72_S18_a_proxy_is_handed_on_but_never_asked(box: Box) -> None:
    with_dump(box)
    nowhere = "http://127.0.0.1:9"
    box.up(env=box.env | {"HTTP_PROXY": nowhere, "http_proxy": nowhere, "ALL_PROXY": nowhere, "HTTPS_PROXY": nowhere})

    assert box.instance("a")["phase"] == "READY"
    assert dumped(box)["env"]["HTTPS_PROXY"] == nowhere


def test_S14_a_program_in_the_current_folder_is_never_taken(box: Box) -> None:
    box.config("a")
    trap = box.root / "ollama"
    trap.write_text("#!/bin/sh\ntouch trapped\n")
    trap.chmod(0o755)

    done = box.ollamux("up", "--config", str(box.config_path), env=box.env | {"PATH": ".::/usr/bin:/bin"})

    assert done.returncode == 5
    assert "ollama was not found" in done.stderr
    assert not (box.root / "trapped").exists()
    assert box.starts("a") == []


@pytest.mark.parametrize("kind", ["missing", "folder", "not-executable", "no-interpreter"])
def test_R17_C17_a_program_that_cannot_run_is_refused_before_anything_starts(box: Box, kind: str) -> None:
    path = box.root / "broken"
    if kind == "folder":
        path.mkdir()
    elif kind == "not-executable":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o644)
    elif kind == "no-interpreter":
        path.write_text("#!/nowhere/python\n")
        path.chmod(0o755)
    box.config("a", instances={"b": {"ollama": str(path)}})

    for words in (("up",), ("up", "-d")):
        done = box.ollamux(*words, "--config", str(box.config_path))
        assert done.returncode == 5, done.stderr
        assert str(path) in done.stderr
    assert box.starts("a") == []


@pytest.mark.parametrize("words", [{"names": ["b"]}, {"all": True}, {"all": True, "rolling": True}])
def test_R17_a_restart_ends_nothing_that_could_not_be_started_again(box: Box, words: dict[str, Any]) -> None:
    """As in the middle of an update of ollama's package: what serves from the old file serves on."""
    box.config("a", instances={"b": {"ollama": str(box.install("other"))}})
    box.up()
    pids = [box.instance(name)["pid"] for name in "ab"]
    (box.bin / "other").unlink()

    answer = box.ask("restart", **words)

    assert (answer["ok"], answer["exit"]) == (False, 5)
    assert answer["message"].startswith("nothing was restarted, since b could not be started again: ")
    assert str(box.bin / "other") in answer["message"]
    assert [box.instance(name)["pid"] for name in "ab"] == pids
    box.install("other")
    assert box.ask("restart", **words)["exit"] == 0


def test_R17_a_program_that_breaks_while_it_runs_makes_the_instance_failed_and_start_mends_it(box: Box) -> None:
    box.config("a")
    box.up()
    text = box.ollama.read_text()
    draft = box.bin / "draft"
    draft.write_bytes(b"\x7fELF this is no program")
    draft.chmod(0o755)
    draft.rename(box.ollama)
    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    failed = box.wait_phase("a", "FAILED")

    assert "Exec format error" in failed["reason"]
    assert failed["pid"] is None
    box.ollama.write_text(text)
    assert box.ask("start", names=["a"])["exit"] == 0


def test_R17_a_program_that_cannot_run_behind_a_launcher_is_not_tried_eight_times(box: Box) -> None:
    """With on_death = "stop" it is setpriv(1) that starts the server, and that says so."""
    box.config("a", supervisor={"on_death": "stop"}, restart={"failure_limit": 8})
    box.up()
    draft = box.bin / "draft"
    draft.write_bytes(Path(os.path.realpath("/bin/sleep")).read_bytes().replace(b"/ld-linux", b"/no-linux"))
    draft.chmod(0o755)  # a program for a system with another loader
    draft.rename(box.ollama)
    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    failed = box.wait_phase("a", "FAILED")

    assert "exited with status 127" in failed["reason"]
    assert "8 failures" not in failed["reason"]
    assert (failed["generation"], failed["next_action"]) == (2, "try again")


LATER = ["may not be executed", "too long", "is busy"]


@pytest.mark.parametrize("kind", LATER)
def test_R17_what_the_kernel_says_to_a_start_is_told_and_decides_whether_it_is_tried_again(box: Box, kind: str) -> None:
    long = {"LONG": "x" * 100_000, "LONG_TOO": "x" * 100_000} if kind == "too long" else {}
    box.config("b", instances={"a": {"env": long}})
    supervisor = box.up()
    writer = None
    if kind == "too long":  # a quarter of the stack is what arguments and environment may take (execve(2))
        _, hard = resource.prlimit(supervisor.pid, resource.RLIMIT_STACK)
        resource.prlimit(supervisor.pid, resource.RLIMIT_STACK, (1 << 18, hard))
    elif kind == "may not be executed":
        box.ollama.chmod(0o644)
    elif kind == "is busy":
        real = box.bin / "real"
        shutil.copy("/bin/sleep", real)
        writer = os.open(real, os.O_WRONLY)  # as long as an installer writes it nobody can run it
        text = box.ollama.read_text()
        real.rename(box.ollama)
    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    if writer is None:
        failed = box.wait_phase("a", "FAILED")
        told = {"may not be executed": "may not be executed by this user", "too long": "Argument list too long"}[kind]
        assert told in failed["reason"]
        assert (failed["pid"], failed["next_action"]) == (None, "try again"), "slowly"
    else:
        busy = "could not be started: Text file busy"
        wait_for(lambda: sum(busy in reason for reason in box.reasons()) >= 2, "it is tried again")
        assert "FAILED" not in box.changes("a")
        draft = box.install("draft")
        draft.write_text(text)
        draft.rename(box.ollama)
        os.close(writer)
        box.wait_started("a", 2)
    assert box.wait_phase("b", "READY")["restarts"] == 0


def test_R29_a_program_that_is_replaced_is_used_at_the_next_start(box: Box) -> None:
    box.config("a")
    box.up()
    first = box.instance("a")["pid"]
    box.install("ollama.new", before=f"touch {box.root}/newer; export FAKE_VERSION=0.99.1").rename(box.ollama)
    assert box.instance("a")["ollama_version"] == "0.32.15"

    box.ask("restart", names=["a"])

    assert (box.root / "newer").exists()
    assert box.instance("a")["pid"] != first
    assert box.instance("a")["ollama_version"] == "0.99.1"
    assert "0.99.1" in box.ollamux("status", "instances", env=box.env | {"COLUMNS": "200"}).stdout


def test_R69_eight_first_starts_make_one_key(box: Box) -> None:
    names = [f"gpu{number}" for number in range(8)]
    box.config(
        instances={name: {"env": {"FAKE_KEY_S": "0.05"}} for name in names}, supervisor={"max_parallel_starts": 8}
    )
    box.up()

    assert len((box.home / ".ollama/id_ed25519").read_text().splitlines()) == 1


def test_R69_no_more_than_so_many_start_at_once(box: Box) -> None:
    names = [f"gpu{number}" for number in range(6)]
    gates = {name: box.root / f"{name}.gate" for name in names}
    (box.home / ".ollama").mkdir()
    (box.home / ".ollama/id_ed25519").write_text("a key")
    box.config(
        instances={name: {"env": {"FAKE_READY_GATE": str(gate)}} for name, gate in gates.items()},
        supervisor={"max_parallel_starts": 2},
    )
    box.up(ready=False)

    for done in range(0, 6, 2):
        two = names[done : done + 2]
        wait_for(lambda two=two: all(box.starts(name) for name in two), f"{two} were started")
        phases = {entry["name"]: entry["phase"] for entry in box.status()["instances"]}
        assert [name for name, phase in phases.items() if phase == "STARTING"] == two
        assert all(phases[name] == "WAITING" for name in names[done + 2 :])
        for name in two:
            gates[name].touch()
        for name in two:
            box.wait_phase(name, "READY")


def test_a_zombie_is_never_left_of_a_child(box: Box) -> None:
    box.config("a", restart={"failure_limit": 3, "policy": "on-failure"})
    box.set("a", "exit", 0)
    supervisor = box.up(ready=False)

    box.wait_phase("a", "FAILED")

    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    assert not [pid for pid in children if process_state(int(pid)) == "Z"]
