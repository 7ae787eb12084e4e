"""Strangers that must never get a signal: look-alikes, holders of ports, copies of our marker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.ground import Ground
from tests.process.process_box import Process, process_state

DECOY = Path(__file__).with_name("decoy.py")


@dataclass(slots=True)
class Stranger:
    """One of them, with the file in which it writes its signals down."""

    name: str
    process: Process
    record: Path
    told: int = 0
    disturbed: bool = False
    """Whether somebody who has nothing to do with the run has signalled it: what follows proves nothing."""

    def news(self) -> str | None:
        """Return what has been done to it since the last look."""
        if process_state(self.process.pid) in ("T", "t"):
            return "was stopped"
        if (code := self.process.poll()) is not None and self.told >= 0:
            self.told = -1
            return None if self.disturbed else f"was ended ({code})"
        signals = self.record.read_text().splitlines() if self.record.exists() else []
        fresh = signals[max(self.told, 0) :]
        if self.told < 0 or not fresh:
            return None
        self.told = len(signals)
        self.disturbed |= any(line.split()[1] == "foreign" for line in fresh)
        ours = [line for line in fresh if line.split()[1] == "ours"]
        return f"got {', '.join(ours)}" if ours else None


class Strangers:
    """All of a run."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.all: list[Stranger] = []
        self.met: list[Stranger] = []
        """All that there ever were."""
        self._count = 0

    def add(
        self, name: str, *words: str, env: Mapping[str, str] | None = None, address: tuple[str, int] | None = None,
        session: bool = True, argv0: str | None = None,
    ) -> Stranger:  # fmt: skip
        """Start one; return once it listens to signals. Raises OSError where it could not take its port."""
        self._count += 1
        record = self._ground.root / f"stranger-{self._count}"
        place = [address[0], str(address[1])] if address else []
        process = Process(
            [argv0 or sys.executable, "-IS", str(DECOY), str(record), *place, *words],
            executable=sys.executable,
            env={"HOME": str(self._ground.home), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=session,
            process_group=None if session else 0,
        )
        assert process.stdout is not None
        with process.stdout as out:
            ready = out.readline()
        if not ready:
            process.wait()
            raise OSError(f"{name} could not start")
        self.all.append(Stranger(name, process, record))
        self.met.append(self.all[-1])
        return self.all[-1]

    def look_alikes(self) -> None:
        """Start those that need nothing but a name."""
        program = str(self._ground.bin / "ollama")
        self.add("a look-alike in a session of its own", "serve", argv0="ollama")
        self.add("a look-alike in our session", program, "serve", argv0="ollama", session=False)
        self.add("a look-alike of a runner", program, "runner", "--model", "/blobs/sha256-0", argv0="ollama")
        half = {"OLLAMUX_INSTANCE": "cpu0", "OLLAMUX_GENERATION": "1", "OLLAMUX_SUPERVISOR": "/somewhere/else"}
        self.add("one with half a marker", "serve", env=half)
        wrong = half | {"OLLAMUX_SUPERVISOR": str(self._ground.state), "OLLAMUX_SUPERVISOR_ID": "0" * 16}
        self.add("one with the marker of another folder of the same name", "serve", env=wrong)

    def copy_of(self, env: Mapping[str, str]) -> Stranger:
        """Start a person's program with the whole environment of a server, below a session that is not ours."""
        return self.add("a person's program with a copied marker", "serve", env=env, session=False)

    def end(self, stranger: Stranger) -> None:
        """End one of them ourselves."""
        self.all.remove(stranger)
        stranger.process.kill()
        stranger.process.wait()

    def end_all(self) -> None:
        """End all."""
        for stranger in tuple(self.all):
            self.end(stranger)


def session_is_marked() -> bool:
    """Whether the leader of our own session carries a marker: a copied one below it would then be no stranger's."""
    try:
        return b"OLLAMUX_SUPERVISOR=" in Path(f"/proc/{os.getsid(0)}/environ").read_bytes()
    except OSError:
        return True
