"""Show the rows: as a table that is also Markdown, or as JSON. Measures nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from statistics import median

from benchmarks.rows import Row

_HEAD = ("what", "limit", "ollamux", "ratio (min–max)", "target", "met", "n")


def machine() -> dict[str, str | int]:
    """Return what the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def as_json(rows: Sequence[Row], *, before: dict[str, str | int], quick: bool) -> str:
    """Return the rows with every sample."""
    content = {
        "schema": "ollamux.benchmark/1",
        "machine": before,
        "quick": quick,
        "rows": [row.plain() for row in rows],
    }
    return json.dumps(content, indent=2)


def as_table(rows: Sequence[Row], *, before: dict[str, str | int], quick: bool) -> str:
    """Return the medians as a table."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    drawn = [_line(line, widths) for line in lines]
    drawn.insert(1, "|" + "|".join(("-" * (width + 1) + (":" if n else "-")) for n, width in enumerate(widths)) + "|")
    about = ", ".join(f"{name} {value}" for name, value in before.items()) + (", quick" if quick else "")
    return "\n".join([about, "", *drawn])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "| " + " | ".join(padded) + " |"


def _cells(row: Row) -> tuple[str, ...]:
    ratios = row.ratios()
    met = row.met()
    return (
        row.what,
        _figure(row.limit, row.unit),
        _figure(row.ollamux, row.unit),
        f"×{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–",
        _target(row),
        "–" if met is None else "yes" if met else "NO",
        str(len(row.ollamux)),
    )


def _target(row: Row) -> str:
    if row.target is None:
        return "–"
    return f"≤ ×{row.target.most:g}" if row.target.of == "ratio" else f"≤ {row.target.most:g} {row.unit}"


def _figure(samples: Sequence[float], unit: str) -> str:
    if not samples:
        return "–"
    value = median(samples)
    digits = 4 if unit == "s/min" else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"
