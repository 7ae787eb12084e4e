"""Few dependencies, and each one known: what the program imports is what it declares, and nothing came in unnoticed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "h11": "h11",
    "nvidia-ml-py": "pynvml",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "rich": "rich",
    "tomli-w": "tomli_w",
    "typer": "typer",
}
"""What is installed with the program, and the module each is imported as. A new one is a decision: write it here."""
OF_A_DEPENDENCY = {"pydantic_core": "pydantic", "click": "typer"}


def imported() -> set[str]:
    """Return the modules from elsewhere that any file of the package imports."""
    found: set[str] = set()
    for path in (ROOT / "ollamux").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"ollamux"}


def test_S20_the_dependencies_are_these_few_each_with_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=!~ ;\[]", text)[0]: text for text in project["dependencies"]}
    assert set(declared) == set(MODULES)
    assert all(">=" in text and "@" not in text and "://" not in text for text in declared.values())


def test_S20_what_is_imported_is_declared_and_nothing_else() -> None:
    # pynvml may be missing and is imported by its name in a string: ollamux.gpu.nvml.
    assert {OF_A_DEPENDENCY.get(name, name) for name in imported()} | {"pynvml"} == set(MODULES.values())


def locked() -> dict[str, tuple[str, int]]:
    """Return the version and the number of hashes of each package in the lock file."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        name, version = re.match(r"([a-z0-9-]+)==(\S+)", line).groups()  # type: ignore[union-attr]
        found[name] = (version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)))
    return found


def needed(name: str, found: set[str]) -> set[str]:
    """Return a package as it is installed here, with all that it needs in turn."""
    if name not in found:
        found.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(canonicalize_name(requirement.name), found)
    return found


def test_S20_the_lock_file_has_every_package_with_a_version_that_fits_and_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock, closure = locked(), set[str]()
    for text in project["dependencies"]:
        requirement = Requirement(text)
        version, _ = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text
        needed(canonicalize_name(requirement.name), closure)
    assert set(lock) >= closure
    assert all(hashes for _, hashes in lock.values())


def test_S20_what_the_lock_file_names_can_be_looked_up_for_known_weaknesses() -> None:
    script = ROOT / ".ci/audit"
    assert script.stat().st_mode & 0o100
    command = script.read_text(encoding="utf-8").splitlines()[-1]
    assert "pip-audit" in command and "--require-hashes" in command and command.endswith("-r requirements.lock")
    assert ".ci/audit" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
