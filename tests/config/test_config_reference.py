"""The reference in docs/configuration.md says what the schema says.

After a change of the schema: python tests/config/test_config_reference.py writes the tables anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ollamux.config.keys import literal
from ollamux.config.managed import MANAGED
from ollamux.config.schema import json_schema

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
TABLES = (
    ("`[supervisor]`", "SupervisorTable"),
    ("`[instances.NAME]`, and `[defaults]`", "InstanceTable"),
    ("`[instances.NAME.health]`, and `[defaults.health]`", "HealthTable"),
    ("`[instances.NAME.restart]`, and `[defaults.restart]`", "RestartTable"),
    ("`[instances.NAME.on]`, and `[defaults.on]`", "OnTable"),
    ("`[instances.NAME.canary]`, and `[defaults.canary]`", "CanaryTable"),
    ('`[models."NAME"]`', "ModelTable"),
)


def values(schema: dict[str, Any]) -> str:
    """Say what a key may be."""
    if schema.get("type") == "array" and "$comment" not in schema:
        return f"list of {schema['items']['$comment']}s"
    return str(schema["$comment"])


def default(key: str, schema: dict[str, Any], required: list[str]) -> str:
    """Say what holds without the key."""
    if key in required:
        return "required"
    return f"`{literal(schema['default'])}`" if "default" in schema else "ollama's own"


def keys() -> Iterator[str]:
    """Draw the tables of all keys."""
    schema = json_schema()
    yield "At the top stands `version = 1`, the version of this format.\n"
    placement = schema["properties"]["placement"]
    yield "| key | default | values | meaning |\n|---|---|---|---|"
    without = default("placement", placement, [])
    yield f"| `placement` | {without} | {values(placement)} | {placement['description']} |\n"
    for heading, name in TABLES:
        table = schema["$defs"][name]
        yield f"### {heading}\n"
        yield "| key | default | values | meaning |\n|---|---|---|---|"
        for key, each in table["properties"].items():
            if "$ref" not in each:
                without = default(key, each, table.get("required", []))
                yield f"| `{key}` | {without} | {values(each)} | {each['description']} |"
        yield ""


def managed() -> Iterator[str]:
    """Draw the table of the variables."""
    yield "| variable | instead |\n|---|---|"
    for name, instead in MANAGED.items():
        yield f"| `{name}` | {instead} |"


def drawn(page: str) -> str:
    """Return the page with its generated parts as they should be."""
    for part, lines in (("keys", keys()), ("managed", managed())):
        fresh = f"<!-- {part} -->\n" + "\n".join(lines).rstrip() + "\n<!-- end -->"
        page = re.sub(
            rf"<!-- {part} -->\n.*?<!-- end -->", lambda _, fresh=fresh: fresh, page, count=1, flags=re.DOTALL
        )
    return page


def test_reference_is_what_the_schema_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == drawn(page), f"run: python {Path(__file__).name}"


def test_every_key_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in json_schema()["$defs"].values():
        for key, each in table["properties"].items():
            assert "$ref" in each or f"| `{key}` |" in page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
