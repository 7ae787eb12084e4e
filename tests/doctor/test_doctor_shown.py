"""How a report looks, what is written about findings, and how looking itself fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest
from cli_rig import Place, Result
from doctor_rig import Box

import ollamux
from ollamux.doctor.draw import drawn
from ollamux.doctor.findings import IDS, Finding, Report, Severity, Unknown, as_json
from ollamux.doctor.looks import Looks
from ollamux.domain.errors import NotFoundError
from ollamux.render.pen import Pen

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "sudo systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target"
REPORT = Report(
    version="0",
    time="2026-01-31T12:00:00.000Z",
    simulated=False,
    findings=(
        Finding(
            id="port-taken",
            severity=Severity.BROKEN,
            title="gpu0: port 11435 is taken",
            evidence="On 127.0.0.1:11435 listens pid 7 (\x1b[31mevil\x1b[0m), which is not ours.\nA second line.",
            fix="kill 7",
        ),
        Finding(id="suspend-idle", severity=Severity.WARNING, title="It sleeps", evidence="So it does.", fix=COMMAND),
        Finding(
            id="exposed-host",
            severity=Severity.WARNING,
            title="gpu0: whoever reaches this machine may use it",
            evidence="“No” password.",
            fix='set host = "127.0.0.1" in /etc/ollamux/config.toml; then: ollamux reload',
            is_command=False,
        ),
        Finding(id="persistence-off", severity=Severity.HINT, title="Off", evidence="Slow.", fix="sudo true"),
    ),
    unknown=(Unknown(what="the store", why="no answer within 8 s"),),
)


@pytest.mark.parametrize("width", [20, 60, 80, 100, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_commands_stay_whole_and_all_else_fits(width: int, unicode: bool) -> None:
    text = drawn(REPORT, Pen(width=width, color=False, unicode=unicode))

    lines = text.splitlines()
    assert "          " + COMMAND in lines and "          kill 7" in lines
    assert all(len(line) <= width for line in lines if COMMAND not in line)
    assert lines[-1] == "1 broken, 2 warnings, 1 hint" or width == 20
    assert "\x1b" not in text and (unicode or text.isascii())
    words = " ".join(text.split())
    assert words.endswith("not looked at: the store: no answer within 8 s 1 broken, 2 warnings, 1 hint")


def test_colour_is_there_only_where_it_is_asked_for_and_no_escape_of_others_ever() -> None:
    text = drawn(REPORT, Pen(width=80, color=True, unicode=True))

    assert f"\x1b[1;36m{COMMAND}\x1b[0m" in text
    assert "\x1b[31mevil" not in text and r"\x1b[31mevil" in text
    assert re.sub(r"\x1b\[[\d;]*m", "", text) == drawn(REPORT, Pen(width=80, color=False, unicode=True))


def test_the_object_holds_everything() -> None:
    plain = json.loads(json.dumps(as_json(REPORT)))

    assert list(plain) == ["schema", "version", "time", "simulated", "findings", "unknown"]
    assert plain["findings"][0]["severity"] == "broken"
    assert [found["is_command"] for found in plain["findings"]] == [True, True, False, True]
    assert plain["unknown"] == [{"what": "the store", "why": "no answer within 8 s"}]


def test_every_finding_is_in_the_document_and_no_other_with_its_worst_severity() -> None:
    from test_doctor_rules import FIRES

    text = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (broken|warning|hint) \|", text, re.MULTILINE))
    order = list(Severity)
    worst = {name: min((s for n, s, _ in FIRES if n == name), key=order.index).value for name in IDS}

    assert set(rows) == set(IDS)
    assert rows == worst


def test_a_look_that_hangs_or_fails_hides_no_other() -> None:
    looks, never = Looks(), threading.Event()

    def fails() -> int:
        raise NotFoundError("there is none")

    def breaks() -> int:
        raise ZeroDivisionError("by\nzero")

    slow = looks.begin("slow", lambda: never.wait() and 1, patience_s=0.05)
    others = [looks.begin(name, ask, patience_s=60) for name, ask in (("none", fails), ("bug", breaks))]
    good = looks.begin("good", lambda: 7, patience_s=60)

    assert (slow.answer(), [other.answer() for other in others], good.answer()) == (None, [None, None], 7)
    assert {one.what: one.why for one in looks.unknown} == {
        "slow": "no answer within 0.05 s",
        "none": "there is none",
        "bug": r"ZeroDivisionError: by\x0azero",
    }
    never.set()


def run_copy(place: Place, *words: str) -> Result:
    """Run a copy of the program in its own folder, with a Python that has its dependencies, but not it."""
    copy = place.root / "copy"
    shutil.copytree(Path(ollamux.__file__).parent, copy / "ollamux")
    python = Path(sys.base_prefix) / "bin/python3"
    shell = ["/bin/sh", "-c", f'cd {copy} && exec {python} -m ollamux "$@"', "sh"]
    return place.run(*words, program=shell, env={"PYTHONPATH": sysconfig.get_path("purelib")})


def test_it_runs_from_a_copy_without_anything_else(box: Box) -> None:
    place = box.place
    (place.work / "ollamux.toml").unlink()
    place.env |= {"PATH": str(box.programs)}

    result = run_copy(place, "doctor", "-o", "json", "--root", str(box.host))

    assert [found["id"] for found in result.json["findings"]] == ["config-missing"], result
    assert result.json["unknown"] == []


def test_its_help_costs_no_more_than_that_of_any_command() -> None:
    code = (
        "import sys; from ollamux import __main__; sys.argv[1:] = ['doctor', '--help']\n"
        "try: __main__.main()\nexcept SystemExit: pass\n"
        "slow = {'pydantic', 'rich', 'psutil', 'pynvml', 'h11', 'tomllib', 'ollamux.doctor'}\n"
        "print('LOADED', sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "--bundle" in done.stdout and "--root" not in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")
