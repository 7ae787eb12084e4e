"""Takes one guard at a time out of a copy of the program and runs the tests that should notice. Changes no original.

Each worker has a copy of the whole tree, with a virtual environment of its own that looks for packages in the copy
first. So the `ollamux` command that process tests start is that of the copy as well.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .catalogue import ROOT, Entry, Guard, Test

LIMIT_S = 300.0
_LEFT_OUT = shutil.ignore_patterns(".*cache", ".git", ".venv", "__pycache__", ".hypothesis", "dist", "build")


class Unusable(Exception):
    """The answer of a run would mean nothing; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the tests of an entry."""

    passed: int
    failed: tuple[str, ...]
    hung: bool
    output: str


@cache
def apart() -> tuple[str, ...]:
    """Return what runs a command where it sees its own processes alone, or nothing where that takes more rights."""
    words = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")
    if os.geteuid() != 0 or shutil.which(words[0]) is None:
        return ()
    return words if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0 else ()


class Copy:
    """A copy of the tree that runs its own `ollamux`."""

    def __init__(self) -> None:
        self.ended = False
        self.home = Path(tempfile.mkdtemp(prefix="oxg-", dir="/tmp"))  # short, for the addresses of sockets
        self.tree = self.home / "tree"
        shutil.copytree(ROOT, self.tree, ignore=_LEFT_OUT, symlinks=True)
        venv.create(self.tree / ".venv", symlinks=True)
        self.python = self.tree / ".venv/bin/python"
        packages = Path(self._say("import sysconfig; print(sysconfig.get_path('purelib'))"))
        originals = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        # Folders named in a .pth have their own .pth files not read: the original tree cannot come in that way.
        (packages / "copy.pth").write_text("\n".join([str(self.tree), *originals]) + "\n")
        command = self.tree / ".venv/bin/ollamux"
        command.write_text(f"#!{self.python}\nimport sys\nfrom ollamux.__main__ import main\nsys.exit(main())\n")
        command.chmod(0o755)
        used = self._say("import ollamux; print(ollamux.__file__)")
        if Path(used) != self.tree / "ollamux/__init__.py":
            raise Unusable(f"not the copy would run, but {used}")

    def _say(self, code: str) -> str:
        command = [self.python, "-P", "-c", code]
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout.strip()

    def run(self, tests: Sequence[Test]) -> Outcome:
        """Run tests up to the first that fails."""
        if self.ended:
            raise Unusable("interrupted")
        report, basetemp = self.home / "report.xml", self.home / "t"
        report.unlink(missing_ok=True)
        words = ["-q", "-x", "-n0", "-p", "no:cacheprovider", f"--basetemp={basetemp}", f"--junit-xml={report}"]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
        with (self.home / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: TID251
                [*apart(), self.python, "-m", "pytest", *words, *(test.node for test in tests)],
                cwd=self.tree,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            hung = False
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                hung = True
            finally:
                self.end()
                process.wait()
        text = (self.home / "output").read_text(errors="replace")
        passed, failed = _read(report)
        if self.ended:
            raise Unusable("interrupted")
        if process.returncode in (0, 1) or hung:
            return Outcome(passed=passed, failed=failed, hung=hung, output=text)
        raise Unusable(f"pytest ended with {process.returncode}:\n{text[-2000:]}")

    def end(self) -> None:
        """End by pid whatever has this copy in its command or environment: the run, and what it left."""
        mark = str(self.home).encode()
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
                if mark in words and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue

    def without(self, guard: Guard, tests: Sequence[Test]) -> Outcome:
        """Run tests with one guard taken out; the copy is whole again afterwards."""
        if guard.alone and not apart():
            raise Unusable("it might signal strangers, and cannot be kept from them here (that takes root)")
        path = self.tree / guard.file
        text = path.read_text(encoding="utf-8")
        changed = mutated(text, guard)
        try:
            self._write(path, changed)
            if guard.file.startswith("ollamux/") and guard.file.endswith(".py"):
                self._import(guard.file)
            return self.run(tests)
        finally:
            self._write(path, text)

    def _import(self, file: str) -> None:
        """Refuse what breaks the program as a whole: any test would notice that."""
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        command = [self.python, "-P", "-c", f"import {module}"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unusable(f"without it {file} cannot even be imported: {done.stderr.splitlines()[-1]}")

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Bytecode is told from its source by whole seconds and the size: both may be as before.
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            stale.unlink()

    def close(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self.home, ignore_errors=True)


def mutated(text: str, guard: Guard) -> str:
    """Return the text of a file with the guard taken out."""
    if text.count(guard.old) != 1:
        raise Unusable(f"the text to take out occurs {text.count(guard.old)} times in {guard.file}")
    changed = text.replace(guard.old, guard.new)
    if changed == text:
        raise Unusable(f"nothing would be changed in {guard.file}")
    if guard.file.endswith(".py"):
        try:
            compile(changed, guard.file, "exec")
        except SyntaxError as error:
            raise Unusable(f"without it {guard.file} is no Python: {error}") from error
    return changed


def _read(report: Path) -> tuple[int, tuple[str, ...]]:
    """Return how many tests passed, and which failed."""
    if not report.exists():
        return 0, ()
    passed, failed = 0, []
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(case.get("name", "?"))
        elif "skipped" not in kinds:
            passed += 1
    return passed, tuple(dict.fromkeys(failed))


def judge(copy: Copy, entry: Entry, tests: Sequence[Test]) -> tuple[bool, list[str]]:
    """Return whether every guard of an entry is needed, and the lines that tell."""
    lines, good = [], True
    try:
        whole = copy.run(tests)
        if whole.failed or whole.hung or not whole.passed:
            what = "hang" if whole.hung else f"fail: {', '.join(whole.failed)}" if whole.failed else "were all skipped"
            raise Unusable(f"with every guard in place its tests {what}\n{whole.output[-2000:]}")
    except Unusable as error:
        return False, [f"{entry.id:4} ERROR {error}"]
    for number, guard in enumerate(entry.guards, 1):
        label = f"{entry.id:4} guard {number} of {len(entry.guards)}, {guard.file}:"
        try:
            outcome = copy.without(guard, tests)
        except Unusable as error:
            good = False
            lines.append(f"{label} ERROR {error}")
            continue
        if outcome.failed or outcome.hung:
            lines.append(f"{label} caught by {', '.join(outcome.failed) or 'the time limit'}")
        else:
            good = False
            lines.append(f"{label} SURVIVED {outcome.passed} tests: {', '.join(test.name for test in tests)}")
    return good, lines


def judge_all(work: Sequence[tuple[Entry, Sequence[Test]]], *, jobs: int, tell: Callable[[str], None]) -> bool:
    """Judge entries side by side, tell of each as soon as it is known, and return whether all is well."""
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    made: list[Copy] = []
    pool = ThreadPoolExecutor(jobs)

    def one(task: tuple[Entry, Sequence[Test]]) -> bool:
        copy = copies.get()
        try:
            good, lines = judge(copy, *task)
        finally:
            copies.put(copy)
        tell("\n".join(lines))
        return good

    try:
        for _ in range(min(jobs, len(work))):
            made.append(Copy())
            copies.put(made[-1])
        return all(list(pool.map(one, work)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for copy in made:
            copy.ended = True
            copy.end()
        pool.shutdown(wait=True)
        for copy in made:
            copy.close()


def main_jobs() -> int:
    """Return how many copies to run side by side where nobody says."""
    return max(1, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
