"""Who is the supervisor, where it listens, who may talk to it, and what a rude client can do: nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from process_box import COMMAND, Box, answer_on, wait_for

from ollamux.supervisor import server
from ollamux.supervisor.server import MOST_WAITING, Server
from ollamux.system.loop import Loop

root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")


def test_R30_a_second_up_is_refused_and_changes_nothing(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    inode = box.socket_path.stat().st_ino
    pid = box.instance("a")["pid"]
    box.rounds_at_rest()  # what is written a moment after a change is there by now
    state = ((box.state / "state.json").read_bytes(), (box.state / "state.json").stat().st_ino)

    for words in ((), ("-d",), ("-d", "--no-wait")):
        done = box.ollamux("up", "--config", str(box.config_path), *words)
        assert done.returncode == 7, done.stderr
        assert "running already" in done.stderr

    direct = box.start()
    assert direct.wait() == 7
    assert f"(pid {supervisor.pid})" in box.output()
    assert box.ollamux("up", "--ensure", "--config", str(box.config_path)).returncode == 0
    assert box.socket_path.stat().st_ino == inode
    assert box.instance("a")["pid"] == pid
    assert (box.state / "lock").read_text() == f"{supervisor.pid}\n"
    assert ((box.state / "state.json").read_bytes(), (box.state / "state.json").stat().st_ino) == state
    assert len(box.starts("a")) == 1


def test_R31_of_ten_simultaneous_ups_exactly_one_wins(box: Box) -> None:
    box.config("a")
    started = [box.start() for _ in range(10)]

    wait_for(lambda: sum(not supervisor.runs for supervisor in started) == 9, "nine have given up")

    winner = next(supervisor for supervisor in started if supervisor.runs)
    wait_for(lambda: box.listens(winner.pid))
    box.wait_ready()
    assert [supervisor.wait() for supervisor in started if supervisor is not winner] == [7] * 9
    assert len(box.starts("a")) == 1


def test_R33_a_socket_that_was_removed_comes_back(box: Box) -> None:
    box.config("a")
    supervisor = box.up()

    box.socket_path.unlink()

    wait_for(lambda: box.socket_path.exists() and box.listens(supervisor.pid), "it is bound again")
    assert stat.S_IMODE(box.socket_path.stat().st_mode) == 0o600


def test_R33_while_the_socket_is_gone_every_command_says_so(box: Box) -> None:
    """And none says that no supervisor runs, which would make a person start another one."""
    box.config("a")
    supervisor = box.up(haste={"ollamux.supervisor.upkeep.INTERVAL_S": 3600.0})
    box.socket_path.unlink()

    for words in (("status",), ("status", "-o", "json"), ("restart", "a", "--if-running", "-q"), ("down",)):
        done = box.ollamux(*words)
        assert (done.returncode, done.stdout) == (8, ""), done
        assert f"a supervisor runs (pid {supervisor.pid}), but its control socket is gone" in done.stderr
        assert "ask once more" in done.stderr
    assert supervisor.runs
    assert len(box.starts("a")) == 1


def test_R33_a_command_waits_a_moment_for_a_supervisor_that_is_about_to_listen(box: Box) -> None:
    box.config("a")
    box.up(haste={"ollamux.supervisor.upkeep.INTERVAL_S": 0.5})
    box.socket_path.unlink()

    assert box.ollamux("restart", "a", "-q").returncode == 0

    assert len(box.starts("a")) == 2


def test_R33_a_runtime_folder_that_was_removed_comes_back(box: Box) -> None:
    box.config("a")
    supervisor = box.up()

    shutil.rmtree(box.runtime)

    wait_for(lambda: box.socket_path.exists() and box.listens(supervisor.pid), "it is bound again")
    assert stat.S_IMODE(box.runtime.stat().st_mode) == 0o700


def test_R33_a_place_that_cannot_be_used_for_a_while_is_tried_again(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    shutil.rmtree(box.runtime)
    box.runtime.write_text("in the way")
    wait_for(lambda: any("is not a folder" in event["reason"] or "" for event in box.events()), "it says so")

    box.runtime.unlink()

    wait_for(lambda: box.socket_path.exists() and box.listens(supervisor.pid), "it is bound again")


@pytest.mark.skipif(os.path.isdir(f"/run/user/{os.getuid()}"), reason="a login folder is there: it would be used")
def test_R38_when_the_folder_of_the_login_goes_the_socket_moves_to_the_folder_of_state(box: Box) -> None:
    login = box.runtime.parent / "login"
    login.mkdir(mode=0o700)
    del box.env["OLLAMUX_RUNTIME_DIR"]
    box.env["XDG_RUNTIME_DIR"] = str(login)
    box.runtime = login / "ollamux"
    box.config("a")
    supervisor = box.up()

    shutil.rmtree(login)

    box.runtime = box.state / "run"
    wait_for(lambda: box.socket_path.exists() and box.listens(supervisor.pid), "it is bound elsewhere")
    assert box.ollamux("status").returncode == 0


@pytest.mark.skipif(os.path.isdir(f"/run/user/{os.getuid()}"), reason="a login folder is there: it would be used")
def test_R37_cron_finds_the_supervisor_with_almost_no_environment(box: Box) -> None:
    del box.env["OLLAMUX_RUNTIME_DIR"]
    box.runtime = box.state / "run"
    box.config("a", ollama=str(box.ollama))
    box.up_detached()
    bare = {"OLLAMUX_STATE_DIR": str(box.state)}

    assert box.ollamux("status", env=bare).returncode == 0
    assert box.ollamux("restart", "--all", "-q", env=bare).stdout == ""
    assert len(box.starts("a")) == 2
    assert box.ollamux("up", "--ensure", env=bare).returncode == 0
    assert box.ollamux("down", env=bare).returncode == 0


def test_R37_a_command_without_the_logins_environment_finds_what_was_started_in_it(box: Box) -> None:
    login = box.runtime.parent / "login"
    login.mkdir(mode=0o700)
    del box.env["OLLAMUX_RUNTIME_DIR"]
    box.runtime = login / "ollamux"
    box.config("a")
    box.up(env=box.env | {"XDG_RUNTIME_DIR": str(login)})

    assert box.socket_path.exists()
    bare = {"OLLAMUX_STATE_DIR": str(box.state)}
    assert box.ollamux("status", env=bare).returncode == 0
    assert box.ollamux("restart", "--all", "-q", env=bare).returncode == 0
    assert len(box.starts("a")) == 2


def test_R34_a_socket_that_nobody_listens_on_is_replaced(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    box.ask("stop", names=["a"])
    supervisor.kill()
    assert box.socket_path.exists()
    inode = box.socket_path.stat().st_ino
    held = os.open(box.socket_path, os.O_PATH)  # the number of the old one cannot be given to the new one

    box.up(ready=False)

    assert box.socket_path.stat().st_ino != inode
    os.close(held)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_R35_what_is_in_the_way_of_the_socket_is_never_removed(box: Box, kind: str) -> None:
    box.config("a")
    box.runtime.mkdir(mode=0o700)
    if kind == "file":
        box.socket_path.write_text("precious")
    elif kind == "folder":
        box.socket_path.mkdir()
    else:
        (box.root / "elsewhere").write_text("precious")
        box.socket_path.symlink_to(box.root / "elsewhere")

    done = box.ollamux("up", "-d", "--config", str(box.config_path))

    assert done.returncode == 7
    assert "is in the way" in done.stderr
    found = box.socket_path.lstat().st_mode
    assert {"file": stat.S_ISREG, "folder": stat.S_ISDIR, "link": stat.S_ISLNK}[kind](found)
    assert kind == "folder" or box.socket_path.read_text() == "precious"
    assert box.starts("a") == []


@pytest.mark.parametrize("which", ["runtime", "state", "logs"])
@pytest.mark.parametrize("fault", ["open", "link", "foreign"])
def test_R36_S1_a_folder_that_others_could_write_is_refused(box: Box, which: str, fault: str) -> None:
    if fault == "foreign" and os.getuid() != 0:
        pytest.skip("only root can make a folder that is somebody else's")
    box.config("a")
    folder: Path = getattr(box, which)
    if fault == "link":
        (box.root / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(box.root / "elsewhere")
    else:
        folder.mkdir(mode=0o700)
        if fault == "open":
            folder.chmod(0o777)
        else:
            os.chown(folder, 12345, 12345)

    for words in (("up",), ("up", "-d")) if which == "runtime" else (("up",),):
        done = box.ollamux(*words, "--config", str(box.config_path))
        assert done.returncode == 9, done.stdout + done.stderr
        why = {"open": "can be written by others", "link": "is a symbolic link", "foreign": "belongs to another user"}
        assert f"{folder} {why[fault]}" in done.stderr
    assert box.starts("a") == []
    assert not box.socket_path.exists()


def test_S1_the_socket_and_its_folder_are_private_under_any_umask(box: Box) -> None:
    box.config("a")
    box.up(env=box.env, umask=0)

    assert stat.S_IMODE(box.runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(box.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(box.state.stat().st_mode) == 0o700
    assert os.listdir(box.runtime) == ["ollamux.sock"]


def test_S1_nobody_else_could_ever_connect_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at right after bind(2), under the most generous umask."""
    seen: list[tuple[int, int]] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            seen.append((stat.S_IMODE(os.stat(address).st_mode), stat.S_IMODE(os.stat(Path(address).parent).st_mode)))

    def fail(error: BaseException) -> None:
        raise error

    loop, folder = Loop(on_error=fail), tempfile.mkdtemp(prefix="ox-", dir="/tmp")
    monkeypatch.setattr(server.socket, "socket", Watched)
    before = os.umask(0)
    try:
        made = Server(loop, lambda: (f"{folder}/run",), handle=lambda *_: None, bound=lambda path: None)
        made.listen()
        made.close()
    finally:
        os.umask(before)
        loop.close()
        shutil.rmtree(folder)

    assert seen == [(0o600, 0o700)]


@root_only
def test_S2_somebody_else_gets_no_answer_even_where_the_path_lets_him_in(box: Box) -> None:
    box.config("a")
    box.up()
    for folder in (box.runtime, box.runtime.parent):
        folder.chmod(0o755)
    box.socket_path.chmod(0o666)
    read, write = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            connection = box.connect()
            connection.sendall(b'{"v":1,"cmd":"status"}\n')
            os.write(write, connection.recv(10) or b"closed")
        except ConnectionError:
            os.write(write, b"closed")
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(write, repr(error).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)

    assert os.read(read, 1000) == b"closed"
    os.close(read)
    assert box.status()


def test_C23_the_address_of_a_socket_may_not_be_longer_than_the_kernel_takes(box: Box) -> None:
    long = box.root / ("x" * 110)
    box.config("a")

    done = box.ollamux("up", "-d", "--config", str(box.config_path), env=box.env | {"OLLAMUX_RUNTIME_DIR": str(long)})

    assert done.returncode != 0
    assert "OLLAMUX_RUNTIME_DIR" in done.stderr
    assert box.starts("a") == []


NO_REQUESTS = (
    b"\n",
    b"null\n",
    b"[]\n",
    b"[" * 50_000 + b"\n",
    b'{"v":1}\n',
    b'{"v":1,"cmd":"__class__"}\n',
    b'{"v":1,"cmd":["status"]}\n',
    b'{"v":1,"cmd":"_status"}\n',
    b'{"v":1,"cmd":"handle"}\n',
    b'{"v":2,"cmd":"status"}\n',
    b'{"v":1,"cmd":"draw","view":"secrets"}\n',
    b'{"v":1,"cmd":"draw","view":["gpus"]}\n',
    b'{"v":1,"cmd":"draw","view":{},"width":"wide"}\n',
    b'{"v":1,"cmd":"stop"}\n',
    b'{"v":1,"cmd":"stop","names":"a"}\n',
    b'{"v":1,"cmd":"stop","names":[1]}\n',
    b'{"v":1,"cmd":"stop","names":["../a"]}\n',
    b'{"v":1,"cmd":"restart","names":["nobody"]}\n',
    b'{"v":1,"cmd":"env","name":["a"]}\n',
    b'{"v":1,"cmd":"env"}\n',
    b'{"v":1,"cmd":"sim","fault":"crash"}\n',
    b'{"v":1,"cmd":"status","run":["/bin/true"]}\n',
    b'{"v":1,"cmd":"start","names":["a"],"env":{"LD_PRELOAD":"x"}}\n',
    b'{"v":1,"cmd":"dispatch_all"}\n',
    b"\xff\xfe{}\n",
)


def test_S4_what_is_no_request_is_answered_with_an_error(box: Box) -> None:
    box.config("a")
    box.up()

    for line in NO_REQUESTS:
        connection = box.connect()
        connection.sendall(line)
        answer = answer_on(connection)

        assert answer["ok"] is False, line
        assert answer["exit"] in (1, 2, 5, 7), line
        assert answer["message"], line
        assert "Traceback" not in json.dumps(answer), line
    assert box.instance("a")["phase"] == "READY"


def test_R53_S17_rude_clients_are_dropped_and_cost_nothing(box: Box) -> None:
    box.config("a")
    box.up(haste={"ollamux.supervisor.server.SEND_WITHIN_S": 2.0})
    silent, slow = box.connect(), box.connect()
    slow.sendall(b'{"v":1,')
    longest = box.connect()
    with pytest.raises(OSError):
        for _ in range(64):  # more than a line may have, and than the kernel keeps for us
            longest.sendall(b"x" * 65536)
    assert box.status(), "others are served meanwhile"
    assert box.rounds_while("a") < 200

    assert silent.recv(1) == b""
    assert slow.recv(1) == b""
    for connection in (silent, slow, longest):
        connection.close()


def test_R53_S17_a_line_without_an_end_is_cut_off_long_before_the_time_is_up(box: Box) -> None:
    box.config("a")
    box.up(haste={"ollamux.supervisor.server.SEND_WITHIN_S": 3600.0})
    with box.connect() as connection, pytest.raises(OSError):
        for _ in range(64):
            connection.sendall(b"x" * 65536)


def test_R53_S17_a_byte_now_and_then_buys_no_time(box: Box) -> None:
    box.config("a")
    box.up(haste={"ollamux.supervisor.server.SEND_WITHIN_S": 1.0})
    with box.connect() as connection, pytest.raises(ConnectionError):
        for byte in b'{"v":1,"cmd":"status","x":"' + b"x" * 600:  # a minute's worth of them
            connection.sendall(bytes([byte]))
            box.stranger("/bin/sleep", "0.1").wait()


def test_R53_S17_more_silent_clients_than_there_is_room_for_keep_nobody_out(box: Box) -> None:
    box.config("a")
    box.up(haste={"ollamux.supervisor.server.SEND_WITHIN_S": 3600.0})
    silent = [box.connect() for _ in range(MOST_WAITING + 10)]

    assert box.ollamux("status").returncode == 0

    assert silent[0].recv(1) == b"", "who has been silent for longest has made room"
    for connection in silent:
        connection.close()


def test_R53_a_client_that_does_not_read_its_answer_is_dropped(box: Box) -> None:
    box.config(*(f"gpu{number}" for number in range(4)))
    box.up(haste={"ollamux.supervisor.server.SEND_WITHIN_S": 2.0})
    deaf = []
    for _ in range(10):
        connection = box.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.sendall(b'{"v":1,"cmd":"status"}\n')
        deaf.append(connection)

    assert box.rounds_while("gpu0") < 300
    assert box.status()
    for connection in deaf:
        connection.close()


def test_R53_a_client_that_goes_away_while_it_waits_is_forgotten(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "1h"})
    box.set("a", "ignore-term")
    supervisor = box.up()
    descriptors = len(os.listdir(f"/proc/{supervisor.pid}/fd"))
    for _ in range(5):
        box.send({"cmd": "stop", "names": ["a"]}).close()

    box.wait_phase("a", "STOPPING")

    try:
        wait_for(lambda: len(os.listdir(f"/proc/{supervisor.pid}/fd")) <= descriptors, "nothing is kept of them")
        assert box.rounds_at_rest() < 100
    finally:
        os.kill(box.instance("a")["pid"], 9)
    box.wait_phase("a", "STOPPED")


def test_a_client_that_only_stops_sending_still_gets_its_answer(box: Box) -> None:
    gate = box.root / "gate"
    box.config(instances={"a": {"env": {"FAKE_TERM_GATE": str(gate)}}}, restart={"stop_timeout": "1h"})
    box.up()
    connection = box.send({"cmd": "restart", "names": ["a"]})
    connection.shutdown(socket.SHUT_WR)
    box.wait_phase("a", "STOPPING")
    assert box.rounds_at_rest() < 100

    gate.touch()

    assert answer_on(connection)["exit"] == 0


def test_C28_a_command_of_another_version_is_told_so(box: Box) -> None:
    box.config("a")
    box.up()
    connection = box.connect()
    connection.sendall(b'{"v":99,"cmd":"status"}\n')

    answer = answer_on(connection)

    assert answer["exit"] == 7
    assert answer["message"] == "the supervisor speaks protocol 1, the command speaks 99"
    assert "different versions" in answer["hint"]


OTHER = "import sys; from ollamux.protocol import client; client.PROTOCOL = {}; sys.argv[0] = 'ollamux'; "
OTHER += "from ollamux.__main__ import main; main()"


@pytest.mark.parametrize("spoken", [0, 2], ids=["older", "newer"])
def test_C28_the_real_commands_of_another_version_do_nothing_and_say_both(box: Box, spoken: int) -> None:
    box.config("a")
    supervisor = box.up()
    pid = box.instance("a")["pid"]

    for words in ("status", "status -o json", "restart a", "stop a", "down", "reload", "env a", "upgrade"):
        command = [sys.executable, "-P", "-c", OTHER.format(spoken), *words.split()]
        done = subprocess.run(command, env=box.env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (7, ""), (words, done)
        assert f"the supervisor speaks protocol 1, the command speaks {spoken}" in done.stderr, words
        assert f"kill {supervisor.pid}" in done.stderr, "the way out"
        assert "Traceback" not in done.stderr
    assert supervisor.runs
    assert (box.instance("a")["pid"], len(box.starts("a"))) == (pid, 1)


LOGIN = """
set -e
mount --make-rprivate /
printf 'root:x:0:0::%s:/bin/sh\\n' "$HOME" > "$HOME/passwd"
mount --bind "$HOME/passwd" /etc/passwd
mount -t tmpfs tmpfs /run
[ -z "$LOGIN" ] || mkdir -p -m 700 /run/user/0
unset LOGIN
exec "$@"
"""


@root_only
@pytest.mark.parametrize("login", ["", "1"], ids=["no login", "a login"])
def test_R37_cron_without_any_variable_finds_what_a_login_has_started(open_box: Box, login: str) -> None:
    """In a mount namespace where the home of this user and the folder of his login are the test's own."""
    box = open_box
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a mount namespace")
    env = {name: value for name, value in box.env.items() if not name.startswith("OLLAMUX_")}
    box.config("a", ollama=str(box.ollama))
    launcher = ["unshare", "--mount", "sh", "-c", LOGIN, "sh"]
    words = {"XDG_RUNTIME_DIR": "/run/user/0"} if login else {}
    supervisor = box.start(env=env | {"LOGIN": login} | words, launcher=launcher)

    def cron(*words: str) -> Any:
        enter = ["nsenter", "-t", str(supervisor.pid), "-m", "env", "-i", "PATH=/usr/bin:/bin"]
        command = [*enter, str(COMMAND), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    wait_for(lambda: cron("status").returncode == 0, "it is found")
    place = "/run/user/0/ollamux" if login else f"{box.home}/.local/state/ollamux/run"
    there = Path(f"/proc/{supervisor.pid}/root{place}/ollamux.sock")
    assert stat.S_ISSOCK(there.stat().st_mode)
    (box.home / ".local/state/ollamux/socket-path").unlink()  # as on a full disk: the rule alone has to do
    assert cron("restart", "--all", "-q").returncode == 0
    assert len(box.starts("a")) == 2
    assert cron("up", "--ensure", "-q").returncode == 0
    assert cron("down").returncode == 0
    assert supervisor.wait() == 0
