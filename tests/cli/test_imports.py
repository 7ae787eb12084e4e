"""What the hot commands load: start-up is paid at every call, and a supervisor lives with it for months."""

from __future__ import annotations

import sys

from cli_rig import Place, until

_TELL = """
import os, sys
from ollamux import __main__
def told(*_):
    os.write(2, ("LOADED " + " ".join(sys.modules) + "\\n").encode())
sys.argv[0] = "ollamux"
%s
try:
    __main__.main()
finally:
    told()
"""
PROGRAM = [sys.executable, "-P", "-c"]
SLOW = {"asyncio", "typer", "click", "pydantic", "rich", "psutil", "pynvml", "h11", "tomllib", "tomli_w", "logging"}
LIBRARY = {"json", "re", "typing", "enum", "argparse", "socket", "pathlib", "dataclasses"}


def loaded(text: str) -> set[str]:
    line = next(line for line in text.splitlines() if line.startswith("LOADED "))
    return {name.partition(".")[0] for name in line.split()[1:]}


def test_status_loads_next_to_nothing(simulation: Place) -> None:
    for form in ("table", "wide", "json"):
        words = ("status", "-o", form, "--simulated")
        result = simulation.run(_TELL % "", *words, program=PROGRAM)
        names = loaded(result.err)
        assert "SIMULATED" in result.out or '"simulated": true' in result.out
        assert sorted(names & (SLOW | LIBRARY)) == []


def test_up_from_a_warm_cache_loads_neither_typer_nor_pydantic(place: Place) -> None:
    place.fake_ollama()
    place.config("a")
    place.ok("up", "-d", "-q")
    place.ok("down", "-q")
    process = place.popen(_TELL % "", "up", program=PROGRAM)
    until(lambda: place.run("status").code == 0, "all is ready")
    place.ok("down", "-q")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert sorted(loaded(err) & SLOW - {"h11"}) == []


def test_the_supervisor_behind_a_detached_start_is_as_light(place: Place) -> None:
    """From a cold cache too: whoever validates is not who stays."""
    place.fake_ollama()
    place.config("a")
    place.ok("up", "-d", "-q")
    pid = place.status()["supervisor"]["pid"]
    with open(f"/proc/{pid}/maps") as file:
        maps = file.read()
    assert "pydantic" not in maps and "_psutil" not in maps and "_asyncio" not in maps
