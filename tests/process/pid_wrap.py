"""A program that test_pid_wrap runs in a process-id namespace of its own, where it may say which number comes next.

It prints, as JSON, what became of strangers that were given, or not given, the number of a server that had ended.
"""

import json
import os
import signal
import sys
from pathlib import Path

from process_box import PATIENCE_S, Box, process_state, wait_for

LAST = Path("/proc/sys/kernel/ns_last_pid")


def take(box, number, tries):
    """Start a stranger, with a group of its own, under this very number; None where the number is not free."""
    for _ in range(tries):
        LAST.write_text(str(number - 1))
        stranger = box.stranger("/bin/sleep", "600")
        if stranger.pid == number:
            return stranger
        stranger.kill()
        stranger.wait()
    return None


def own_child(box):
    """The leader has ended, its runner has not: whoever is started meanwhile does not get the leader's number."""
    box.config("a")
    box.set("a", "runners", 1)
    box.set("a", "runner-setsid")
    box.set("a", "runner-ignore-term")
    supervisor = box.up(haste={"ollamux.domain.rules.SWEEP_TIMEOUT_S": 300.0, "ollamux.domain.rules.HURRY_S": 0.2})
    wait_for(lambda: box.runners("a"))
    pid = box.instance("a")["pid"]
    os.kill(pid, signal.SIGKILL)
    box.wait_phase("a", "SWEEPING")
    stranger = take(box, pid, 20)
    box.ask("down", hurry=True)
    supervisor.wait()
    return {"taken": stranger is not None, "unharmed": stranger is None or stranger.poll() is None}


def adopted(box):
    """An adopted server ends and another process has its number before the supervisor knows, and is told to stop it."""
    box.config("a", restart={"stop_timeout": "1h"})
    box.up().kill()
    supervisor = box.up()
    server = box.instance("a")
    stopping = box.connect()
    stopping.sendall(b'{"v":1,"cmd":"stop",')
    box.status()  # by now the supervisor listens to that client as well
    supervisor.signal(signal.SIGSTOP)
    wait_for(lambda: process_state(supervisor.pid) == "T")
    stopping.sendall(b'"names":["a"]}\n')  # this is what it finds first when it goes on
    os.kill(server["pid"], signal.SIGKILL)
    wait_for(lambda: process_state(server["pid"]) is None, "init collects it")
    stranger = take(box, server["pid"], 200)
    supervisor.signal(signal.SIGCONT)
    stopping.settimeout(PATIENCE_S)
    answer = json.loads(stopping.makefile("rb").readline())
    return {
        "adopted": server["adopted"],
        "taken": stranger is not None,
        "stopped": answer["exit"] == 0,
        "unharmed": stranger is not None and stranger.poll() is None,
    }


def main():
    root, runtime, story = sys.argv[1:]
    box = Box(Path(root), Path(runtime))
    try:
        print(json.dumps({"own-child": own_child, "adopted": adopted}[story](box)))
    finally:
        box.close()


if __name__ == "__main__":
    main()
