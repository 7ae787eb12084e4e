"""`up --ensure` and a supervisor that hangs: it is replaced; one that is only busy, or a stranger, never is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

from process_box import Box, Process, Supervisor, alive, process_state, wait_for

from ollamux.cli.hung import _what_it_does
from ollamux.system.procs import CLOCK_TICKS, Stat

HASTY = {"HUNG_AFTER_S": 3.0, "FIRST_PATIENCE_S": 0.5, "ASK_AGAIN_S": 1.0, "STARVED_S": 0.05}
PROGRAM = """
import json, sys
from ollamux.cli import hung
for name, value in json.loads(sys.argv.pop(1)).items():
    getattr(hung, name)
    setattr(hung, name, value)
sys.argv[0] = "ollamux"
from ollamux.__main__ import main
main()
"""


def ensure(box: Box, *words: str, **haste: float) -> Process:
    """Start `up --ensure` with less patience than the real one."""
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(HASTY | haste), "up", "--ensure", *words]
    return Process(
        [*command, "--config", str(box.config_path)],
        env=box.env,
        cwd=box.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: Process) -> tuple[int, str, list[str]]:
    """Return how a command ended and what it said, without the warning that only root gets."""
    out, err = process.communicate(timeout=60)
    lines = [line for line in err.decode().splitlines() if "running as root" not in line]
    return process.returncode, out.decode(), lines


def replaced(box: Box) -> int:
    return sum("and was ended" in reason for reason in box.reasons())


def remember_the_new_one(box: Box) -> int:
    box.supervisors.append(Supervisor(box.supervisor_pid(), None))
    return box.supervisors[-1].pid


def test_a_supervisor_that_is_stopped_is_replaced_and_its_instances_serve_on(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up()
    before = {name: box.instance(name)["pid"] for name in ("a", "b")}
    supervisor.signal(signal.SIGSTOP)
    wait_for(lambda: process_state(supervisor.pid) == "T")

    code, out, err = ended(ensure(box, "-q"))

    assert (code, out) == (0, "")
    told = f"the supervisor (pid {supervisor.pid}) did not answer for 3 s (it is stopped, as by Ctrl-Z) and was ended"
    assert err == [f"ollamux: {told}; a new one takes its instances over"]
    assert told in box.reasons()
    assert supervisor.wait() == -signal.SIGKILL
    assert remember_the_new_one(box) != supervisor.pid
    for name, pid in before.items():
        found = box.wait_phase(name, "READY")
        assert (found["pid"], found["adopted"], len(box.starts(name))) == (pid, True, 1)
    assert [event["seq"] for event in box.events()] == list(range(1, len(box.events()) + 1))


def test_a_supervisor_whose_loop_spins_is_replaced(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    (box.root / "spin").touch()
    wait_for(lambda: (box.root / "spinning").exists(), "it spins")

    code, _, err = ended(ensure(box, "-q"))

    assert (code, len(err)) == (0, 1)
    assert "it computes without end" in err[0]
    assert supervisor.wait() == -signal.SIGKILL
    remember_the_new_one(box)
    assert box.wait_phase("a", "READY")["pid"] == pid


def test_of_two_that_find_it_hung_one_replaces_it(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    supervisor.signal(signal.SIGSTOP)

    both = [ensure(box, "-q") for _ in range(2)]
    found = [ended(one) for one in both]

    assert [code for code, _, _ in found] == [0, 0]
    assert sum(len(err) for _, _, err in found) == 1
    assert replaced(box) == 1
    supervisor.wait()
    wait_for(lambda: box.socket_path.exists() and box.supervisor_pid() != supervisor.pid)
    remember_the_new_one(box)
    assert len(box.starts("a")) == 1


def test_a_crowd_that_waits_to_be_let_in_is_no_sign_of_life(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    supervisor.signal(signal.SIGSTOP)
    wait_for(lambda: process_state(supervisor.pid) == "T")
    crowd: list[socket.socket] = []
    try:
        while True:
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            crowd.append(one)
            one.connect(str(box.socket_path))
    except BlockingIOError:
        pass

    code, _, err = ended(ensure(box))

    for one in crowd:
        one.close()
    assert (code, len(err)) == (0, 1)
    supervisor.wait()
    remember_the_new_one(box)


def test_one_that_answers_late_is_left_alone(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    supervisor.signal(signal.SIGSTOP)
    process = ensure(box, HUNG_AFTER_S=60.0)
    wait_for(lambda: held(box.state / "replacing"), "it is being watched")

    supervisor.signal(signal.SIGCONT)

    assert ended(process) == (0, "", [])
    assert box.supervisor_pid() == supervisor.pid
    assert replaced(box) == 0


def held(path: object) -> bool:
    try:
        fd = os.open(str(path), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_one_that_is_well_is_not_even_waited_for(box: Box) -> None:
    box.config("a")
    supervisor = box.up()

    assert ended(ensure(box, FIRST_PATIENCE_S=60.0)) == (0, "", [])

    assert box.supervisor_pid() == supervisor.pid


def test_one_that_is_ended_meanwhile_by_somebody_else_is_followed_by_another(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    supervisor.signal(signal.SIGSTOP)
    process = ensure(box, "-q", HUNG_AFTER_S=60.0)
    wait_for(lambda: held(box.state / "replacing"), "it is being watched")

    supervisor.kill()

    assert ended(process) == (0, "", [])
    remember_the_new_one(box)
    assert replaced(box) == 0


def test_one_that_is_just_ending_is_followed_by_another_though_it_has_the_lock_still(box: Box) -> None:
    """What a killed process had is taken from it one by one: its socket may be gone before its lock."""
    box.config("a")
    supervisor = box.up_detached()
    assert box.ollamux("down").returncode == 0
    supervisor.wait()
    code = """
import fcntl, os, select, signal, socket, sys
lock = open(sys.argv[1], "r+")
lock.write(f"{os.getpid()}\\n")
lock.flush()
fcntl.flock(lock, fcntl.LOCK_EX)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen(8)
print("there", flush=True)
select.select([listener], [], [])
listener.close()
select.select([], [], [], 0.5)
"""
    words = (sys.executable, "-IS", "-c", code, str(box.state / "lock"), str(box.socket_path))
    box.socket_path.unlink(missing_ok=True)
    dying = box.stranger(*words, stdout=subprocess.PIPE)
    assert dying.stdout is not None
    with dying.stdout as said:
        assert said.readline() == b"there\n"

    assert ended(ensure(box, "-d", "-q")) == (0, "", [])

    remember_the_new_one(box)
    assert box.instance("a")["phase"] == "READY" and dying.wait() == 0


def test_S12_who_holds_the_lock_and_is_not_the_supervisor_is_never_signalled(box: Box) -> None:
    """The file names a process that lives; the lock is held by another one; and something listens and is silent."""
    box.config("a")
    supervisor = box.up_detached()
    assert box.ollamux("down").returncode == 0
    supervisor.wait()
    named = box.stranger(sys.executable, "-IS", "-c", "import signal; signal.pause()")
    (box.state / "lock").write_text(f"{named.pid}\n")
    code = "import fcntl, signal, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); signal.pause()"
    holder = box.stranger(sys.executable, "-IS", "-c", code, str(box.state / "lock"))
    wait_for(lambda: held(box.state / "lock"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(box.socket_path))
        listener.listen(8)

        found = ended(ensure(box))

    assert found[0] == 8
    assert "which process it is cannot be told" in found[2][0]
    assert alive(named.pid) and alive(holder.pid)
    (box.state / "lock").unlink()


def test_what_others_hold_up_is_no_proof() -> None:
    def stat(state: str, used_s: float) -> Stat:
        ticks = int(used_s * CLOCK_TICKS)
        return Stat(comm="x", state=state, ppid=1, pgid=1, session=1, cpu_ticks=ticks, start_ticks=1)

    def judged(state: str, used_s: float) -> str | None:
        return _what_it_does(stat("S", 5.0), stat(state, 5.0 + used_s))

    assert judged("R", 0.5) is None, "it wants to run and is not let"
    assert judged("t", 0.0) is None, "somebody looks at it with a debugger"
    assert judged("R", 20.0) == "it computes without end"
    assert judged("T", 0.0) == "it is stopped, as by Ctrl-Z"
    assert judged("D", 0.0) == "it hangs in the kernel"
    assert judged("S", 0.0) == "it waits for something"
