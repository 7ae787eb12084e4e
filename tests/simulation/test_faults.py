"""Every fault does what its name says, once or until it is cleared."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest
from simulation_rig import NEW, OLD, Rig, Served, state_of, until

from ollamux.domain.errors import NotFoundError, RefusedError, UsageError
from ollamux.gpu.simulated import read_inventory
from ollamux.simulation.box import create_box, default_cards
from ollamux.simulation.catalogue import CATALOGUE
from ollamux.simulation.faults import FAULTS, active, clear, inject
from ollamux.simulation.store import install

PINNED = {"CUDA_VISIBLE_DEVICES": "0", "OLLAMA_VULKAN": "0", "OLLAMA_CONTEXT_LENGTH": "4096"}


def silent(served: Served, path: str = "/api/version") -> bool:
    """Say whether a connection is accepted and nothing answers."""
    try:
        served.ask("GET", path, timeout=0.3)
    except TimeoutError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return False


def ended(served: Served) -> int:
    return served.process.wait(10)


def test_every_fault_asked_for_is_there_and_told() -> None:
    names = "crash exit-code hang-api hang-scheduler slow-start never-ready ignore-term orphan-runner cpu-fallback"
    names += " wrong-gpu spill gpu-lost vram-late nvml-hang port-taken log-flood disk-full"
    assert list(FAULTS) == names.split()
    assert {fault.target for fault in FAULTS.values()} == {"instance", "gpu"}
    assert {name for name, fault in FAULTS.items() if fault.one_shot} == {"crash", "exit-code", "orphan-runner"}
    assert all(fault.description for fault in FAULTS.values())


def test_faults_are_set_told_and_cleared(tmp_path: Path) -> None:
    create_box(tmp_path, default_cards(2))
    card = default_cards(2)[1].uuid
    inject(tmp_path, "hang-api", "gpu0")
    inject(tmp_path, "gpu-lost", "1")
    inject(tmp_path, "nvml-hang", "0")
    assert {(fault.name, fault.target) for fault in active(tmp_path)} == {
        ("hang-api", "gpu0"),
        ("gpu-lost", card),
        ("nvml-hang", None),
    }
    clear(tmp_path, "gpu0")
    assert {fault.name for fault in active(tmp_path)} == {"gpu-lost", "nvml-hang"}
    clear(tmp_path, "1")
    assert active(tmp_path) == ()
    inject(tmp_path, "crash", None)
    clear(tmp_path)
    assert active(tmp_path) == ()


def test_unknown_faults_and_targets_are_refused_in_words(tmp_path: Path) -> None:
    create_box(tmp_path, default_cards(1))
    with pytest.raises(UsageError) as unknown:
        inject(tmp_path, "crsh", "gpu0")
    assert unknown.value.hint == "did you mean crash?"
    with pytest.raises(NotFoundError):
        inject(tmp_path, "gpu-lost", "7")
    with pytest.raises(RefusedError):
        inject(tmp_path, "wrong-gpu", "gpu0")


def test_crash(rig: Rig) -> None:
    other, served = rig.start(name="gpu1"), rig.start(**PINNED)
    served.generate("tiny")
    (runner,) = served.runners()
    inject(rig.box, "crash", "gpu0")
    assert ended(served) == -signal.SIGKILL
    assert state_of(runner)
    assert other.answers()
    assert active(rig.box) == ()
    assert rig.start(**PINNED).answers()


def test_exit_code(rig: Rig) -> None:
    served = rig.start()
    inject(rig.box, "exit-code", "gpu0")
    assert ended(served) == 1
    assert served.stderr.splitlines()[-1].startswith("Error: ")
    assert active(rig.box) == ()


def test_hang_api(rig: Rig) -> None:
    served = rig.start()
    inject(rig.box, "hang-api", "gpu0")
    until(lambda: silent(served), "nothing answers")
    clear(rig.box, "gpu0")
    until(served.answers, "it answers again")
    inject(rig.box, "hang-api", "gpu0")
    until(lambda: silent(served), "nothing answers")
    assert served.end() == 0


def test_hang_scheduler(rig: Rig) -> None:
    served = rig.start()
    inject(rig.box, "hang-scheduler", "gpu0")
    until(lambda: silent(served, "/api/ps"), "ps does not answer")
    assert served.answers()
    with pytest.raises(TimeoutError):
        served.ask("POST", "/api/generate", {"model": "tiny"}, timeout=0.3)
    clear(rig.box)
    until(lambda: not silent(served, "/api/ps"), "ps answers again")


@pytest.mark.parametrize("fault", ["slow-start", "never-ready"])
def test_starts_that_take_long(rig: Rig, fault: str) -> None:
    before = rig.start(name="gpu1")
    inject(rig.box, fault, "gpu0")
    inject(rig.box, fault, "gpu1")
    assert before.answers(), "it acts from the next start on"
    served = rig.start(ready=False, OLLAMUX_SIMULATION_SPEED="10")
    until(lambda: "Listening on" in served.stderr, "it listens")
    assert silent(served)
    if fault == "slow-start":
        until(served.answers, "it answers after 20 s, ten times as fast", 8)
    else:
        clear(rig.box, "gpu0")
        until(served.answers, "it answers once the fault is cleared")


def test_ignore_term(rig: Rig) -> None:
    served = rig.start()
    inject(rig.box, "ignore-term", "gpu0")
    served.process.send_signal(signal.SIGTERM)
    assert served.answers()
    clear(rig.box)
    assert served.end() == 0


def test_orphan_runner(rig: Rig) -> None:
    served = rig.start(**PINNED)
    inject(rig.box, "orphan-runner", "gpu0")
    assert ended(served) == -signal.SIGKILL
    (process,) = rig.cards()[0].processes
    assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGTERM)
    assert rig.start(name="other").answers()
    assert state_of(process.pid), "it ignores SIGTERM"
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: rig.cards()[0].memory_used_bytes == 0, "the memory comes back")


def test_cpu_fallback(rig: Rig) -> None:
    inject(rig.box, "cpu-fallback", "gpu0")
    served = rig.start(**PINNED)
    served.generate("tiny")
    assert "library=cpu" in served.stderr
    assert 'total_vram="0 B"' in served.stderr
    assert served.ps()[0]["size_vram"] == 0
    assert "library=CUDA" in rig.start(name="gpu1", **PINNED).stderr


def test_wrong_gpu(rig: Rig) -> None:
    first, second, _ = default_cards(3)
    inject(rig.box, "wrong-gpu", "gpu0")
    served = rig.start(**PINNED | {"CUDA_VISIBLE_DEVICES": first.uuid})
    served.generate("tiny2")
    (line,) = re.findall(r"inference compute.*", served.stderr)
    assert f"filter_id={first.uuid}" in line
    assert f"pci_id={second.pci}" in line
    used = [card.memory_used_bytes for card in rig.cards()]
    assert used[0] == 0 and used[1]


def test_spill(rig: Rig) -> None:
    install(rig.store, CATALOGUE["qwen3:8b"])
    served = rig.start(**PINNED)
    inject(rig.box, "spill", "gpu0")
    served.generate("qwen3:8b")
    (model,) = served.ps()
    assert 0 < model["size_vram"] < model["size"]
    assert "offloaded 20/37 layers to GPU" in served.stderr
    clear(rig.box)
    served.generate("qwen3:8b", options={"num_ctx": 2048})
    (model,) = served.ps()
    assert model["size_vram"] == model["size"]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_gpu_lost(rig: Rig, version: str) -> None:
    pinned = PINNED | {"CUDA_VISIBLE_DEVICES": default_cards(1)[0].uuid}
    served = rig.start(version, **pinned)
    served.generate("tiny")
    inject(rig.box, "gpu-lost", "0")
    card = rig.cards()[0]
    assert (card.state, card.memory_used_bytes, card.utilization_percent, card.power_w) == ("lost", None, None, None)
    assert card.lost_reason
    assert rig.cards()[1].state == "ok"
    assert served.answers()
    assert served.generate("tiny", prompt="x").status in (200, 500)
    until(lambda: served.generate("tiny", prompt="x", stream=False).status == 200, "a new runner on the CPU")
    assert "unable to refresh free memory, using old values" in served.stderr
    assert served.ps()[0]["size_vram"] == 0
    assert "library=cpu" in rig.start(version, name="again", **pinned).stderr
    clear(rig.box, card.uuid)
    assert rig.cards()[0].state == "ok"


def test_nvml_hang(rig: Rig) -> None:
    inject(rig.box, "nvml-hang", None)
    done = threading.Event()

    def read() -> None:
        read_inventory(rig.box)
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert not done.wait(0.3)
    served = rig.start(**PINNED)
    assert "library=CUDA" in served.stderr, "ollama asks no NVML"
    clear(rig.box)
    assert done.wait(5)


def test_port_taken(rig: Rig) -> None:
    served = rig.start(OLLAMUX_GENERATION="7")
    inject(rig.box, "port-taken", "gpu0")
    assert ended(served) == 1
    pid = until(lambda: holder(served.port), "a stranger holds the port")
    assert b"OLLAMUX_" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getsid(pid) != served.pid
    assert Path(f"/proc/{pid}/stat").read_text().split()[3] != str(os.getpid())
    done = rig.run("serve", OLLAMA_HOST=served.address, OLLAMUX_INSTANCE="gpu0")
    assert (done.returncode, "address already in use" in done.stderr) == (1, True)
    clear(rig.box)
    until(lambda: holder(served.port) is None, "the port is free again")
    assert rig.start(port=served.port).answers()


def holder(port: int) -> int | None:
    """Return the process that listens on a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    inodes = {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).removeprefix("socket:[").rstrip("]") in inodes:
                return int(link.parts[2])
        except OSError:
            continue
    return None


def test_log_flood(rig: Rig) -> None:
    served = rig.start()
    log = served.logs.with_suffix(".err")
    inject(rig.box, "log-flood", "gpu0")
    until(lambda: log.stat().st_size > 2_000_000, "the log grows", 3)
    assert served.answers()
    clear(rig.box)
    sizes: list[int] = []

    def quiet() -> bool:
        sizes.append(log.stat().st_size)
        return len(sizes) > 20 and len(set(sizes[-20:])) == 1

    until(quiet, "the log stops growing")


def test_disk_full(rig: Rig) -> None:
    served = rig.start()
    inject(rig.box, "disk-full", "gpu0")
    body = {"model": "x", "from": "tiny", "stream": False}
    until(lambda: served.ask("POST", "/api/create", body).status == 500, "a full disk")
    assert "no space left on device" in served.ask("POST", "/api/create", body).json["error"]
    pulled = served.ask("POST", "/api/pull", {"model": "qwen3:0.6b"})
    assert pulled.status == 200
    assert "no space left on device" in pulled.lines[-1]["error"]
    before = served.stderr
    assert served.generate("tiny", prompt="x").status == 200
    assert served.stderr == before
    clear(rig.box)
    until(lambda: served.ask("POST", "/api/create", body).status == 200, "space again")


def test_disk_full_hangs_the_loads_of_the_older_version(rig: Rig) -> None:
    served = rig.start(OLD)
    inject(rig.box, "disk-full", "gpu0")
    until(lambda: served.ask("POST", "/api/create", {"model": "x", "from": "tiny", "stream": False}).status == 500, "")
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.settimeout(0.5)
        body = b'{"model":"tiny"}'
        sock.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: x.local\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert served.answers()
        until(lambda: not served.runners(), "its runner is gone")
