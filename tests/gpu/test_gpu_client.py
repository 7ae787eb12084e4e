"""The helper and its clients, with real processes: healthy, hung, crashing, talking nonsense."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ollamux.gpu import client, helper
from ollamux.gpu.codec import inventory_from_json, inventory_to_json
from ollamux.gpu.model import Gpu, Inventory
from ollamux.gpu.spawn import helper_spawn, spawn_command

A = Gpu(uuid="GPU-a", index=0, name="RTX 3090", memory_total_bytes=7, memory_used_bytes=3)
ANSWER = inventory_to_json(Inventory(source="nvml", driver="580", gpus=(A,)))
TROUBLE = inventory_to_json(Inventory(source="nvml", error="reboot"))
READ = "import os, sys, time; os.read(0, 99); "


def stand_in(code):
    """A helper that runs this code instead."""
    return lambda: spawn_command([sys.executable, "-I", "-S", "-c", code])


def say(text):
    return f"sys.stdout.write({text!r} + chr(10)); sys.stdout.flush(); "


class Box:
    """A reader with its own time, and a loop that waits only for its helper."""

    def __init__(self, code=None, spawn=None):
        self.now = 100.0
        self.reader = client.GpuReader()
        self.pids = []
        inner = spawn or stand_in(code)

        def counted():
            pid, connection = inner()
            self.pids.append(pid)
            return pid, connection

        self.reader.start(counted)

    def ask(self):
        return self.reader.ask(self.now)

    def turn(self):
        """Wait until something comes, and take it."""
        poll = select.poll()
        poll.register(self.reader.fileno(), select.POLLIN)
        assert poll.poll(30_000), "the helper said nothing"
        return self.reader.on_readable(self.now)

    def answer(self):
        while (inventory := self.turn()) is None and self.reader.fileno() >= 0:
            pass
        return inventory


@pytest.fixture
def box():
    boxes = []

    def make(*arguments, **more):
        boxes.append(Box(*arguments, **more))
        return boxes[-1]

    yield make
    for made in boxes:
        made.reader.stop()
        wait_until(lambda: made.reader.leftovers() == 0)  # noqa: B023


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_an_answer(box) -> None:
    it = box(READ + say(ANSWER) + READ + say(ANSWER) + READ)
    assert (it.reader.fileno(), it.reader.pid) == (-1, None)
    assert it.ask()
    assert it.reader.pid == it.pids[0]
    assert not it.ask(), "one question at a time"
    assert it.reader.deadline() == it.now + client.FIRST_DEADLINE_S
    it.now += 1
    assert it.answer().gpus == (A,)
    assert (it.reader.last.gpus, it.reader.last_at, it.reader.trouble) == ((A,), 101.0, None)
    assert it.reader.deadline() is None
    assert it.ask()
    assert it.reader.deadline() == it.now + client.DEADLINE_S
    assert it.answer() is not None
    assert len(it.pids) == 1


def test_an_answer_in_pieces(box) -> None:
    half = len(ANSWER) // 2
    it = box(
        READ
        + f"os.write(1, {ANSWER[:half].encode()!r}); os.read(0, 9); os.write(1, {ANSWER[half:].encode()!r} + b'\\n');"
        + READ
    )
    assert it.ask()
    assert it.turn() is None
    it.reader._connection.send(b"go on")
    assert it.answer().gpus == (A,)


def test_R66_R67_a_hung_helper_is_killed_and_what_was_known_stays(box) -> None:
    it = box(READ + say(ANSWER) + READ + "time.sleep(600)")
    it.ask()
    it.answer()
    it.now = 110.0
    assert it.ask()
    assert not it.reader.expire(111.9)
    assert it.reader.expire(112.0)
    assert it.reader.fileno() == -1
    assert (it.reader.last.gpus, it.reader.last_at) == ((A,), 100.0)
    assert it.reader.trouble == "the GPU driver has not answered for 2 s"
    assert it.reader.trouble_at(119.0) == "the GPU driver has not answered for 9 s", "also while it is asked again"
    wait_until(lambda: it.reader.leftovers() == 0)
    assert not it.reader.ask(112.5), "it backs off for a second"
    assert it.reader.ask(113.0)
    assert it.reader.expire(123.0)
    assert it.reader.trouble == "the GPU driver has not answered for 13 s"
    assert not it.reader.ask(124.9), "and then for two"
    assert it.reader.trouble == "the GPU driver has not answered for 15 s"
    assert it.reader.ask(125.0)
    it.now = 126.0
    assert it.answer().gpus == (A,)
    assert it.reader.trouble is None
    assert len(it.pids) == 3


def test_the_first_answer_may_take_longer(box) -> None:
    it = box(READ + "time.sleep(600)")
    it.ask()
    assert not it.reader.expire(it.now + 9.9)
    assert it.reader.expire(it.now + 10)
    assert it.reader.last == Inventory()


def test_R67_the_wait_after_each_crash_is_longer_than_the_one_before(box) -> None:
    it = box(READ + "os.kill(os.getpid(), 11)")
    for wait_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert it.ask()
        assert it.answer() is None
        assert "crashed" in it.reader.trouble
        it.now += wait_s - 0.1
        assert not it.ask(), f"not before {wait_s} s are over"
        it.now += 0.1


def test_R67_a_crash_is_told_and_mended(box) -> None:
    it = box(READ + "os.kill(os.getpid(), 11)")
    it.ask()
    assert it.answer() is None
    assert "crashed" in it.reader.trouble
    assert it.reader.deadline() is None
    it.reader.start(stand_in(READ + say(ANSWER) + READ))
    it.now += 1
    assert it.ask()
    assert it.answer().gpus == (A,)
    assert it.reader.trouble is None


def test_a_helper_that_dies_between_questions(box) -> None:
    it = box(READ + say(ANSWER) + READ + "sys.exit(1)")
    it.ask()
    it.answer()
    os.kill(it.pids[0], signal.SIGKILL)
    assert it.turn() is None
    assert "crashed" in it.reader.trouble
    assert it.reader.last.gpus == (A,)
    it.now += 1
    assert it.ask()
    assert it.answer().gpus == (A,)


@pytest.mark.parametrize("text", ["nonsense", "{}", '{"schema":"ollamux.gpus/1"}'])
def test_nonsense_is_an_error(box, text) -> None:
    it = box(READ + say(text) + READ)
    it.ask()
    assert it.answer() is None
    assert "no sense" in it.reader.trouble


@pytest.mark.parametrize("end", ["", "\n"])
def test_an_answer_without_end_is_an_error(box, end) -> None:
    it = box(
        READ
        + f"sys.stdout.write('x' * ({client.LARGEST_ANSWER} + 70000) + {end!r}); sys.stdout.flush(); time.sleep(600)"
    )
    it.ask()
    assert it.answer() is None
    assert "no sense" in it.reader.trouble


def test_a_program_that_cannot_be_started(box) -> None:
    it = box(spawn=lambda: spawn_command(["/no/such/program"]))
    assert not it.ask()
    assert "cannot be started" in it.reader.trouble
    assert it.reader.fileno() == -1
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        it.now += 100
        assert not it.ask()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_backoff_ends_at_a_minute(box) -> None:
    it = box(spawn=lambda: spawn_command(["/no/such/program"]))
    for _ in range(10):
        it.now += 1000
        it.ask()
    assert it.reader._not_before == it.now + 60


def test_helpers_that_do_not_die_do_not_pile_up(box, monkeypatch) -> None:
    it = box(READ + "time.sleep(600)")
    monkeypatch.setattr(client, "kill_own_child", lambda pid: None)
    for _ in range(10):
        it.now += 1000
        it.ask()
        it.reader.expire(it.now + 100)
    assert len(it.pids) == client.MOST_LEFT_BEHIND == it.reader.leftovers()
    assert "has not answered" in it.reader.trouble
    monkeypatch.undo()
    for pid in it.pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: it.reader.leftovers() == 0)
    it.now += 1000
    assert it.ask()


def test_cards_stay_in_sight_when_the_driver_answers_for_none(box) -> None:
    it = box(READ + say(ANSWER) + READ + say(TROUBLE) + READ)
    it.ask()
    it.answer()
    it.ask()
    [gpu] = it.answer().gpus
    assert (gpu.uuid, gpu.state, gpu.lost_reason, gpu.memory_used_bytes) == ("GPU-a", "unknown", "reboot", None)
    assert (it.reader.last.error, it.reader.last.driver, it.reader.trouble) == ("reboot", "580", None)


def test_amd_cards_are_read_on_when_nvidia_fails() -> None:
    amd = Gpu(uuid="GPU-amd", vendor="amd", index=0)
    before = Inventory(source="nvml", gpus=(A, amd))
    after = client._with_known_cards(Inventory(source="nvml", error="reboot", gpus=(amd,)), before)
    assert [(gpu.uuid, gpu.state) for gpu in after.gpus] == [("GPU-a", "unknown"), ("GPU-amd", "ok")]


def test_nothing_of_ours_is_inherited(box, tmp_path) -> None:
    leak = os.open(tmp_path / "leak", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(leak, True)
    code = READ + "sid = os.getsid(0) == os.getpid(); fds = sorted(map(int, os.listdir('/proc/self/fd'))); "
    report = tmp_path / "report"
    it = box(code + f"open({str(report)!r}, 'w').write(repr((sid, fds, os.getcwd()))); " + say(ANSWER) + READ)
    it.ask()
    it.answer()
    os.close(leak)
    session, descriptors, folder = eval(report.read_text())
    assert session
    # 3 is the listing itself, 4 the report.
    assert [number for number in descriptors if number > 3] == []
    assert folder == "/"


def test_stop_ends_the_helper(box) -> None:
    it = box(READ + say(ANSWER) + "time.sleep(600)")
    it.ask()
    it.answer()
    it.reader.stop()
    wait_until(lambda: it.reader.leftovers() == 0)
    assert not Path(f"/proc/{it.pids[0]}").exists()
    assert not it.ask()


def test_the_real_helper(box) -> None:
    it = box(spawn=helper_spawn("none"))
    for _ in range(3):
        assert it.ask()
        assert it.answer() == Inventory()
    assert len(it.pids) == 1


def test_read_once() -> None:
    assert client.read_once("none", timeout_s=30) == Inventory()
    before = time.monotonic()
    hung = client.read_once_from(stand_in(READ + "time.sleep(600)"), 0.2)
    assert "has not answered" in hung.error
    assert time.monotonic() - before < 20
    assert "crashed" in client.read_once_from(stand_in("import os; os.abort()"), 30).error
    assert "cannot be started" in client.read_once_from(lambda: spawn_command(["/no/such"]), 30).error


def run_helper(*arguments, text="sample\n", env=None):
    command = [sys.executable, "-P", "-m", "ollamux.gpu.helper", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, env=env, check=False)


def test_the_helper_answers_each_request_and_ends_with_its_input() -> None:
    done = run_helper("--source", "none", text="sample\n\nwhat\nsample\nsam")
    assert done.returncode == 0
    assert [inventory_from_json(line) for line in done.stdout.splitlines()] == [Inventory(), Inventory()]
    assert json.loads(done.stdout.splitlines()[0])["schema"] == "ollamux.gpus/1"


def test_the_helper_without_a_driver_says_so() -> None:
    inventory = inventory_from_json(run_helper("--source", "nvml").stdout)
    assert inventory.error or inventory.gpus


@pytest.mark.parametrize("arguments", [("--source", "magic"), ("--source", "simulated")])
def test_the_helper_knows_its_words(arguments) -> None:
    done = run_helper(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_what_libraries_print_is_no_answer(tmp_path) -> None:
    """A pynvml that prints on the output, by Python and by the descriptor, as C libraries do."""
    code = (
        "import os\nprint('noise')\nos.write(1, b'noise')\n"
        "class NVMLError(Exception):\n    value = 9\n"
        "def nvmlInit():\n    os.write(1, b'more noise')\n    raise NVMLError()\n"
    )
    (tmp_path / "pynvml.py").write_text(code)
    done = run_helper("--source", "nvml", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "modprobe" in inventory_from_json(done.stdout).error
    assert "noise" in done.stderr


def test_amd_cards_come_behind_the_others() -> None:
    amd = Inventory(source="sysfs", gpus=(Gpu(uuid="GPU-b", vendor="amd", index=0),))
    nvidia = Inventory(source="nvml", driver="580", gpus=(A,))
    nothing = Inventory(error="no driver")
    broken = Inventory(source="nvml", error="reboot")
    assert helper.merged(nvidia, amd) == Inventory(source="nvml", driver="580", gpus=(A, amd.gpus[0]))
    assert helper.merged(nothing, amd) == amd
    assert helper.merged(nothing, Inventory()) == nothing
    assert helper.merged(broken, amd) == Inventory(source="nvml", gpus=amd.gpus, error="reboot")


def test_only_the_helper_process_loads_nvml() -> None:
    code = "import ollamux.gpu.client, ollamux.gpu.helper, ollamux.gpu.resolve, sys; print('pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
