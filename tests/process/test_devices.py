"""What a server says about its devices, what is done about it, and who is told."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from process_box import Box, wait_for

CUDA = (
    'time=2026-01-01T00:00:00.000Z level=INFO source=types.go:42 msg="inference compute" id=GPU-{0} filter_id=GPU-{0} '
    'library=CUDA compute=8.6 name=CUDA0 description="NVIDIA RTX A2000 12GB" libdirs=ollama,cuda_v13 driver=13.0 '
    'pci_id=0000:65:00.0 type=discrete total="12.0 GiB" available="11.6 GiB"'
).format("00000000-0000-0000-0000-000000000001")
CPU = (
    'time=2026-01-01T00:00:00.000Z level=INFO source=types.go:60 msg="inference compute" id=cpu library=cpu compute="" '
    'name=cpu description=cpu libdirs=ollama driver="" pci_id="" type="" total="31.3 GiB" available="30.1 GiB"'
)


def test_level_4_a_wrong_device_is_restarted_once_and_then_told(box: Box) -> None:
    box.config("a", "b")
    box.set("a", "device-lines", CUDA)
    box.set("b", "device-lines", CPU)
    box.up()

    wrong = box.wait_phase("a", "READY")

    assert wrong["health"] == "degraded"
    assert wrong["pinning"] == "wrong"
    assert "should use the CPU alone" in wrong["reason"]
    assert len(box.starts("a")) == 2, "one restart an incident, no loop"
    assert box.instance("b")["health"] == "ok"
    assert box.ollamux("status").returncode == 6
    for count in (3, 3):
        box.ollamux("restart", "--if-unhealthy")
        assert len(box.starts("a")) == count, "cron tries once an incident"
    assert len(box.starts("b")) == 1
    box.clear("a", "device-lines")
    box.ask("restart", names=["a"])
    assert box.instance("a")["health"] == "ok"


def test_level_4_policy_stop_takes_it_out_of_service(box: Box) -> None:
    box.config(instances={"a": {"on": {"wrong_gpu": "stop"}}})
    box.set("a", "device-lines", CUDA)
    box.up(ready=False)

    failed = box.wait_phase("a", "FAILED")

    assert "should use the CPU alone" in failed["reason"]
    assert failed["next_action"] is None
    assert len(box.starts("a")) == 1


def test_R22_a_proof_outlives_the_supervisor_and_the_log(box: Box) -> None:
    box.config(instances={"a": {"gpus": "any"}})
    box.set("a", "device-lines", CUDA)
    supervisor = box.up(ready=False)
    box.wait_phase("a", "READY")
    assert box.instance("a")["pinning"] == "proven"
    wait_for(lambda: '"proven"' in (box.state / "state.json").read_text(), "it is written down")
    supervisor.kill()
    os.truncate(box.log("a"), 0)

    box.up()

    found = box.instance("a")
    assert (found["pinning"], found["adopted"]) == ("proven", True)


def notified(path: Path) -> list[str]:
    return [json.loads(line)["to"] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_notifier_tells_of_failure_and_recovery_and_is_never_waited_for(box: Box) -> None:
    told, program = box.root / "told", box.bin / "tell"
    program.write_text(f"#!/bin/sh\necho $$ >> {box.root}/pids\ncat >> {told}\nexec sleep 3600\n")
    program.chmod(0o755)
    box.config("a", supervisor={"notify": [str(program)]}, restart={"failure_limit": 1, "retry_failed": "1h"})
    box.set("a", "exit", 1)
    box.up(ready=False, haste={"ollamux.supervisor.notify.SPACING_S": 0.1})
    box.wait_phase("a", "FAILED")
    wait_for(lambda: notified(told) == ["FAILED"])

    box.clear("a", "exit")
    assert box.ask("start", names=["a"])["exit"] == 0

    wait_for(lambda: notified(told) == ["FAILED", "READY"], "though the first one still runs")
    for pid in (box.root / "pids").read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_the_notifier_is_rate_limited(box: Box) -> None:
    told, program = box.root / "told", box.bin / "tell"
    program.write_text(f"#!/bin/sh\ncat >> {told}\n")
    program.chmod(0o755)
    box.config("a", supervisor={"notify": [str(program)]}, restart={"failure_limit": 1, "retry_failed": "50ms"})
    box.set("a", "exit", 1)
    box.up(ready=False, haste={"ollamux.supervisor.notify.SPACING_S": 3600})

    wait_for(lambda: len(box.starts("a")) >= 6)

    assert notified(told) == ["FAILED"]
