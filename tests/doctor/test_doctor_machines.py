"""Whole machines and the real command: what is broken is found, and on a sound machine nothing is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_rig import COMMAND, FAKE_OLLAMA, until
from doctor_rig import HOST, NEWEST, OLDER, UUIDS, Box
from doctor_values import status

from ollamux.doctor.facts import Outdated
from ollamux.doctor.see_ollama import see_outdated

DEGRADED = 6
OFF = "sudo systemctl disable --now ollama"


@contextlib.contextmanager
def process(*words: str, **options: object) -> Iterator[subprocess.Popen[str]]:  # noqa: TID251
    """Run somebody else's process."""
    with subprocess.Popen(words, text=True, **options) as made:  # type: ignore[call-overload]  # noqa: TID251
        try:
            yield made
        finally:
            made.kill()


def test_nothing_is_found_on_a_sound_machine(box: Box) -> None:
    result = box.run()

    assert (result.code, result.out, result.err) == (0, "Nothing wrong was found.\n", "")
    assert box.found() == {} and box.unknown == {}


def test_nothing_is_found_without_a_card_where_none_is_asked_for(box: Box) -> None:
    box.scene("system init no-driver\n")
    box.file("sys/bus/pci/devices/0000:17:00.0/vendor", "0x8086\n")
    box.place.config("cpu0", "cpu1")

    assert box.found() == {}


def test_a_driver_that_was_updated_under_the_running_one(box: Box) -> None:
    box.scene("system init mismatch\n")

    found = box.found(code=DEGRADED)

    assert list(found) == ["driver-mismatch"]
    assert found["driver-mismatch"]["severity"] == "broken"
    assert "580.95.05" in found["driver-mismatch"]["evidence"]
    assert found["driver-mismatch"]["fix"] == "sudo reboot"


def test_a_driver_that_hangs_hides_nothing_else(box: Box) -> None:
    box.scene("system init hang\n")
    box.file("proc/self/cgroup", "0::/a\n")
    box.file("sys/fs/cgroup/a/memory.max", "1073741824\n")

    assert set(box.found(code=DEGRADED)) == {"driver-silent", "cgroup-memory"}


def test_no_driver_for_the_cards_that_are_asked_for(box: Box) -> None:
    box.scene("system init no-driver\n")

    assert box.found(code=DEGRADED)["driver-not-loaded"]["fix"] == "sudo modprobe nvidia && nvidia-smi -L"


def test_a_driver_too_old_for_this_ollama(box: Box) -> None:
    box.changed(("driver 580.95.05", "driver 535.288.01"))

    found = box.found(code=DEGRADED)

    assert list(found) == ["driver-too-old"]
    assert "550" in found["driver-too-old"]["title"] and "535.288.01" in found["driver-too-old"]["evidence"]
    assert found["driver-too-old"]["fix"] == "sudo apt install nvidia-driver && sudo reboot"


def test_a_card_below_what_ollama_supports(box: Box) -> None:
    box.changed(("0 compute.capability 8.6", "0 compute.capability 3.7"))

    found = box.found(code=DEGRADED)

    assert "card-unsupported" in found and "gpu0" in found["card-unsupported"]["evidence"]


def test_a_narrow_and_slow_link_and_persistence_off(box: Box) -> None:
    box.changed(
        ("0 pcie.width 16", "0 pcie.width 4"), ("0 pcie.gen 4", "0 pcie.gen 1"), ("1 persistence 1", "1 persistence 0")
    )

    found = box.found()

    assert list(found) == ["link-narrow", "link-slow", "persistence-off"]
    assert "4 of 16" in found["link-narrow"]["title"] and "GPU 0" in found["link-narrow"]["title"]
    assert "PCIe 1.0" in found["link-slow"]["title"]
    assert "GPU 1" in found["persistence-off"]["title"]


def test_a_card_that_nobody_may_compute_on(box: Box) -> None:
    box.changed(("0 compute.mode 0", "0 compute.mode 2"))

    found = box.found(code=DEGRADED)

    assert found["card-compute-mode"]["fix"] == f"sudo nvidia-smi -i {UUIDS[0]} -c DEFAULT"


def test_a_lost_card_and_one_that_never_was(box: Box) -> None:
    box.changed(("1 uuid", "1 state lost\n1 uuid"))
    box.config(gpus=(UUIDS[0], "GPU-ffffffff"))

    found = box.found(code=DEGRADED)

    assert set(found) == {"card-lost", "card-missing"}
    assert found["card-lost"]["severity"] == "warning"  # no instance is on it
    assert found["card-missing"]["title"].startswith("gpu1 ")


def test_a_stranger_on_a_card(box: Box) -> None:
    with process(sys.executable, "-c", "input()", stdin=subprocess.PIPE) as stranger:
        box.changed(extra=f"0 processes {stranger.pid}:8500000000\n")

        found = box.found()

    assert list(found) == ["card-strangers"]
    assert f"pid {stranger.pid} (" in found["card-strangers"]["evidence"]
    assert "7.9 GiB" in found["card-strangers"]["evidence"]
    assert str(stranger.pid) in found["card-strangers"]["fix"]


def test_the_packaged_service_beside_us(box: Box) -> None:
    box.systemctl(
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=1\nEnvironment=OLLAMA_HOST=0.0.0.0 A=b"
    )

    found = box.found()

    assert {name: one["fix"] for name, one in found.items()} == {"ollama-service": OFF, "exposed-service": OFF}


def test_a_port_that_somebody_holds(box: Box) -> None:
    with socket.socket() as held:
        held.bind((HOST, box.ports[1]))
        held.listen()

        found = box.found(code=DEGRADED)

    assert list(found) == ["port-taken"]
    assert f"pid {os.getpid()} (" in found["port-taken"]["evidence"]
    assert found["port-taken"]["fix"] == f"kill {os.getpid()}"
    assert found["port-taken"]["title"].startswith("gpu1: ")


def test_a_server_of_a_supervisor_that_we_cannot_ask_is_no_stranger(box: Box) -> None:
    """As root the state of a service of another user is another: its server must not be told to be killed."""
    box.serve("a")
    elsewhere = {"OLLAMUX_STATE_DIR": str(box.root / "other"), "OLLAMUX_RUNTIME_DIR": str(box.root / "other/run")}
    pid = box.place.status()["instances"][0]["pid"]
    box.changed(extra=f"0 processes {pid}:8500000000\n")
    box.place.env |= elsewhere
    try:
        assert box.found() == {}
    finally:
        for name in elsewhere:
            box.place.env[name] = str(box.place.state if "STATE" in name else box.place.run_dir)


def test_what_runs_is_judged_and_not_the_file_that_lies_here(box: Box) -> None:
    box.serve("a", path="other.toml", a='env = { OLLAMA_ORIGINS = "*" }')

    found = box.found()

    assert list(found) == ["exposed-origins"] and "other.toml" in found["exposed-origins"]["fix"]


def test_an_address_of_another_machine(box: Box) -> None:
    box.config(gpu0='host = "192.0.2.45"\nallow_lan = true')

    assert list(box.found(code=DEGRADED)) == ["address-missing"]


def test_no_ollama(box: Box) -> None:
    (box.programs / "ollama").unlink()

    found = box.found(code=DEGRADED)

    assert list(found) == ["ollama-missing"]
    assert found["ollama-missing"]["fix"].startswith("curl -fsSL https://ollama.com/install.sh")


def test_several_ollamas_on_path(box: Box) -> None:
    box.program(box.root / "bin/ollama", OLDER)
    (box.root / "lib").symlink_to(box.root / "usr/lib")

    found = box.found()

    assert list(found) == ["ollama-several"]
    assert f"{box.programs}/ollama ({NEWEST}), {box.root}/bin/ollama ({OLDER})" in found["ollama-several"]["evidence"]


def test_runners_and_cuda_that_an_upgrade_left_behind(box: Box) -> None:
    box.runner.unlink()
    for folder in box.libraries.iterdir():
        folder.rmdir()

    assert set(box.found(code=DEGRADED)) == {"runner-missing", "cuda-libraries-missing"}


def test_what_lies_beside_a_wrapper_is_not_judged(box: Box) -> None:
    box.runner.unlink()
    real = box.program(box.root / "real-ollama", NEWEST)
    box.script(box.programs / "ollama", f'#!/bin/sh\nexec {real} "$@"\n')

    assert box.found() == {}


def test_a_server_older_than_its_program(box: Box) -> None:
    program = box.serve("a")
    assert box.found() == {}
    program.write_text(program.read_text().replace("version is 0.24.0", f"version is {NEWEST}"))

    found = box.found()

    assert list(found) == ["server-outdated"]
    assert f"a runs 0.24.0, {program} is {NEWEST}" in found["server-outdated"]["evidence"]
    assert found["server-outdated"]["fix"] == "ollamux restart --all --rolling"


def test_a_supervisor_that_is_stopped(box: Box) -> None:
    box.serve("a")
    pid = box.place.status()["supervisor"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = box.found(code=DEGRADED)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert found["supervisor-silent"]["fix"] == f"kill -CONT {pid}"
    assert "port-taken" not in found  # who listens there is ours


def test_a_store_that_is_a_file(box: Box) -> None:
    box.store.rmdir()
    box.store.write_text("")

    assert list(box.found(code=DEGRADED)) == ["store-unreadable"]


def test_a_store_on_a_disk_that_is_not_mounted(box: Box) -> None:
    (box.root / "disk").write_text("")
    box.config(defaults=f'# not the usual one\n[instances.gpu2]\ngpus = []\nport = 1\nstore = "{box.root}/disk/models"')
    text = (box.place.work / "ollamux.toml").read_text()
    (box.place.work / "ollamux.toml").write_text(text.replace("port = 1\n", f"port = {box.ports[0] + 1}\n"))

    found = box.found(code=DEGRADED)

    assert list(found) == ["store-missing"] and found["store-missing"]["evidence"].count("gpu2") == 1


def test_a_store_that_anybody_may_write(box: Box) -> None:
    box.store.chmod(0o777)

    found = box.found()

    assert list(found) == ["store-open"] and found["store-open"]["fix"] == f"chmod -R o-w {box.store}"


@pytest.mark.parametrize(("mode", "name"), [(0o000, "store-unreadable"), (0o555, "store-read-only")])
def test_a_store_that_is_closed_to_us(box: Box, mode: int, name: str) -> None:
    box.store.chmod(mode)
    # Root without these is bound by modes as anybody is.
    bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    try:
        result = box.run("-o", "json", program=[*bound, COMMAND])
    finally:
        box.store.chmod(0o755)

    assert [found["id"] for found in result.json["findings"]] == [name]


def test_a_store_in_a_folder_that_is_closed_to_us_is_opened_from_there(box: Box) -> None:
    """As that of the packaged service in a home folder: to open the store alone opens nothing."""
    house = box.root / "the house"
    (house / "models").mkdir(parents=True)
    text = (box.place.work / "ollamux.toml").read_text()
    (box.place.work / "ollamux.toml").write_text(text.replace(str(box.store), f"{house}/models"))
    bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    house.chmod(0o600)
    try:
        (found,) = box.run("-o", "json", program=[*bound, COMMAND]).json["findings"]
    finally:
        house.chmod(0o755)

    assert found["id"] == "store-unreadable" and found["evidence"].startswith(f"{house} is closed")
    one, two = (f"'{folder}'" for folder in (house, f"{house}/models"))
    assert found["fix"] == f"sudo setfacl -m u:$(id -un):x {one} && sudo setfacl -R -m u:$(id -un):rX {two}"


def test_another_server_prunes_our_store(box: Box) -> None:
    (box.root / "stray").mkdir()
    stray = box.script(box.root / "stray/ollama", f"#!{sys.executable} -S\n{FAKE_OLLAMA.read_text()}")
    env = {"OLLAMA_HOST": f"{HOST}:{box.ports[0] + 2}", "OLLAMA_MODELS": str(box.store), "PATH": "/usr/bin:/bin"}
    with process(str(stray), "serve", env=env, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline()
        found = box.found()
        assert list(found) == ["store-prune"] and f"pid {server.pid}" in found["store-prune"]["evidence"]
    with process(str(stray), "serve", env={**env, "OLLAMA_NOPRUNE": "1"}, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline()
        assert box.found() == {}


def test_open_to_everybody(box: Box) -> None:
    box.config(gpu0='host = "0.0.0.0"', gpu1='env = { OLLAMA_ORIGINS = "*" }')

    found = box.found()

    assert list(found) == ["exposed-host", "exposed-origins"]
    assert "asks no password" in found["exposed-host"]["evidence"]
    assert "web page" in found["exposed-origins"]["title"]


def test_a_machine_that_sleeps(box: Box) -> None:
    box.file("sys/power/suspend_stats/success", "3\n")
    box.file("etc/systemd/logind.conf", "[Login]\n#IdleAction=ignore\n")
    box.file("etc/systemd/logind.conf.d/idle.conf", "[Login]\nIdleAction=suspend\n")

    assert list(box.found()) == ["suspend-happened", "suspend-idle"]


def test_a_desktop_may_send_a_machine_to_sleep_unless_that_is_masked(box: Box) -> None:
    folder = box.host / "etc/systemd/system"
    folder.mkdir(parents=True)
    (folder / "display-manager.service").symlink_to("/lib/systemd/system/gdm.service")
    assert list(box.found()) == ["suspend-possible"]

    (folder / "sleep.target").symlink_to("/dev/null")

    assert box.found() == {}


@pytest.mark.parametrize("version", [1, 2])
def test_memory_that_is_limited_and_was_short(box: Box, version: int) -> None:
    if version == 1:
        box.file("proc/self/cgroup", "9:cpu,memory:/docker/abc\n1:name=systemd:/x\n")
        box.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        box.file("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "2147483648\n")
        box.file("sys/fs/cgroup/memory/docker/abc/memory.oom_control", "under_oom 0\noom_kill 2\n")
    else:
        box.file("sys/fs/cgroup/user.slice/memory.max", "2147483648\n")
        box.file("sys/fs/cgroup/user.slice/session-1.scope/memory.events", "oom 2\noom_kill 2\n")

    found = box.found()

    assert list(found) == ["cgroup-memory", "oom-kills"]
    assert "2.0 GiB" in found["cgroup-memory"]["title"]
    assert "2 processes" in found["oom-kills"]["title"]


def test_more_than_a_card_can(box: Box) -> None:
    box.changed(("0 compute.capability 8.6", "0 compute.capability 5.2"))
    box.config(
        gpu0='flash_attention = true\nkv_cache_type = "q8_0"\nheadroom = "128MiB"\npreload = ["a:bf16", "b:fp16"]'
    )

    found = box.found()

    assert set(found) == {"flash-attention", "headroom-small", "bf16-model", "fp16-model"}


def test_a_configuration_with_mistakes(box: Box) -> None:
    path = box.place.work / "ollamux.toml"
    path.write_text(path.read_text().replace("store", "stroe"))

    found = box.found(code=DEGRADED)

    assert list(found) == ["config-invalid"]
    assert "store" in found["config-invalid"]["evidence"]
    assert found["config-invalid"]["fix"] == f"ollamux config check --config {path}"


def test_no_configuration_is_a_hint(box: Box) -> None:
    (box.place.work / "ollamux.toml").unlink()

    assert list(box.found()) == ["config-missing"]


def test_a_simulation_is_judged_by_what_it_simulates(box: Box) -> None:
    box.scene("system init mismatch\n")
    box.place.simulate(2)
    result = box.run("--simulated")
    assert (result.code, result.out.splitlines()) == (0, ["SIMULATED", "Nothing wrong was found."])

    box.place.ok("sim", "gpu-lost", "0", "--simulated")

    until(lambda: "card-lost" in box.run("-o", "json", "--simulated").out, "the card is lost")


def test_an_ollama_that_does_not_tell_its_version_is_named_and_not_judged(box: Box) -> None:
    box.script(box.programs / "ollama", "#!/bin/sh\nexec sleep 60\n")

    assert box.found() == {}
    assert box.unknown == {f"the version of {box.programs}/ollama": "it did not tell"}


def test_a_machine_that_tells_nothing_of_itself_is_not_judged(box: Box) -> None:
    shutil.rmtree(box.host)
    box.script(box.root / "bin/systemctl", "#!/bin/sh\nexit 1\n")

    assert box.found() == {}


def test_words_that_do_not_fit(box: Box) -> None:
    assert box.run("-o", "xml").code == 2
    assert box.run("--config", "/nowhere.toml").code == 5


def test_a_server_whose_program_was_replaced(tmp_path: Path) -> None:
    program = tmp_path / "ollama"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with process(str(program), "60") as server:
        until(lambda: os.readlink(f"/proc/{server.pid}/exe") == str(program), "the program runs")
        seen = status(pid=server.pid)
        assert see_outdated(seen) == ()
        program.unlink()

        found = see_outdated(seen)

    assert found == (Outdated(instance="gpu0", program=str(program), running="0.32.15", on_disk=None),)
