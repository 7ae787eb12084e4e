"""Signals and broken outputs do to a simulated server what they were recorded to do to a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from simulation_rig import NEW, OLD, VERSIONS, Rig, state_of, until
from test_scheduling import Stream, slow

from tests.ports import free_port


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_end_takes_the_runners_along(rig: Rig, version: str, number: int) -> None:
    served = rig.cpu(version)
    served.generate("tiny")
    (pid,) = served.runners()
    begun = time.monotonic()
    assert served.end(number) == 0
    assert state_of(pid) is None
    assert time.monotonic() - begun < 2


def test_term_cuts_a_stream_and_writes_its_access_line(rig: Rig) -> None:
    served = slow(rig)
    stream = Stream(served, "tiny")
    assert stream.line()
    before = served.stderr
    assert served.end() == 0
    with pytest.raises(Exception, match=r"IncompleteRead|reset"):
        while stream.response.read1():
            continue
        raise ConnectionResetError("reset: the stream just ended")
    assert '| POST     "/api/generate"' in served.stdout
    assert served.stderr == before
    stream.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_term_during_a_load_and_with_a_frozen_runner(rig: Rig, version: str) -> None:
    served = rig.cpu(version, OLLAMUX_SIMULATION_SPEED="0.05")
    threading.Thread(target=lambda: _ignore(served.generate, "tiny"), daemon=True).start()
    (pid,) = until(served.runners, "a load begins")
    os.kill(pid, signal.SIGSTOP)
    assert served.end() == 0
    assert state_of(pid) is None


def _ignore(work: object, *words: str) -> None:
    try:
        work(*words)  # type: ignore[operator]
    except Exception:  # noqa: BLE001 the connection is cut on purpose
        return


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_rude_end_orphans_the_runners(rig: Rig, version: str, number: int) -> None:
    served = rig.start(version, CUDA_VISIBLE_DEVICES="0", OLLAMA_VULKAN="0")
    served.generate("tiny2")
    (pid,) = served.runners()
    assert served.end(number) == -number
    assert served.runners() == [pid], "same group as before"
    assert os.getsid(pid) == served.pid
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    port = words[words.index("--port") + 1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as health:
        assert health.status == 200
    comm = Path(f"/proc/{pid}/comm").read_text().strip()
    shown = " ".join(words)
    assert comm == ("llama-server" if version == NEW else "ollama")
    assert ("llama-server --model " if version == NEW else "ollama runner --model ") in shown
    assert rig.cards()[0].memory_used_bytes
    os.kill(pid, signal.SIGTERM)
    until(lambda: state_of(pid) is None, "an orphan obeys SIGTERM")
    assert rig.cards()[0].memory_used_bytes == 0


@pytest.mark.parametrize(("version", "stays"), [(OLD, False), (NEW, True)])
def test_killed_while_loading(rig: Rig, version: str, stays: bool) -> None:
    served = rig.cpu(version, OLLAMUX_SIMULATION_SPEED="0.5")
    threading.Thread(target=lambda: _ignore(served.generate, "tiny"), daemon=True).start()
    (pid,) = until(served.runners, "a load begins")
    until(lambda: "load_tensors: loading model tensors" in served.stderr, "the weights are being read")
    served.end(signal.SIGKILL)
    time.sleep(0.8)
    assert (state_of(pid) is not None) is stays


def test_quit_dumps_and_others_are_ignored(rig: Rig) -> None:
    served = rig.cpu()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        served.process.send_signal(number)
    assert served.answers()
    assert served.end(signal.SIGQUIT) == 2
    assert "SIGQUIT: quit" in served.stderr


def test_a_stopped_server_ends_once_it_goes_on(rig: Rig) -> None:
    served = rig.cpu()
    served.process.send_signal(signal.SIGSTOP)
    until(lambda: state_of(served.pid) == "T", "it is stopped")
    served.process.send_signal(signal.SIGTERM)
    assert not served.answers()
    served.process.send_signal(signal.SIGCONT)
    assert served.process.wait(5) == 0


@pytest.mark.parametrize("fd", ["stdout", "stderr"])
def test_a_closed_pipe_kills(rig: Rig, fd: str) -> None:
    port = free_port()
    env = rig.env(OLLAMA_HOST=f"127.0.0.1:{port}")
    reader, writer = os.pipe()
    outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, fd: writer}
    process = subprocess.Popen([rig.ollama, "serve"], env=env, start_new_session=True, **outputs)  # noqa: TID251
    os.close(writer)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _ok(f"{url}/api/version"), "it serves")
        os.close(reader)
        if fd == "stdout":
            _ok(f"{url}/api/version")
        else:
            assert _ok(f"{url}/api/version")
            request = urllib.request.Request(f"{url}/api/generate", b'{"model":"tiny","prompt":"x"}')
            _ok(request)
        assert process.wait(10) == -signal.SIGPIPE
    finally:
        process.kill()
        process.wait()


def _ok(request: str | urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_term_before_http_is_served(rig: Rig) -> None:
    from ollamux.simulation.faults import inject

    inject(rig.box, "never-ready", "gpu0")
    served = rig.start(ready=False)
    until(lambda: "vram-based default context" in served.stderr, "discovery is over")
    assert served.end() == 0
