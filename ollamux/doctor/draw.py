"""The report for a screen. A command is never cut and never wrapped: it is there to be copied."""

from __future__ import annotations

from dataclasses import replace

from ollamux.doctor.findings import Finding, Report, Severity
from ollamux.render.cells import Spans
from ollamux.render.pen import Pen

_SIGNS = {
    Severity.BROKEN: ("✗", "x", "bad"),
    Severity.WARNING: ("!", "!", "wait"),
    Severity.HINT: ("·", ".", "dim"),
}
_INDENT = 10
_WIDEST = 110
_ENDLESS = 1 << 20


def drawn(report: Report, pen: Pen) -> str:
    """Return the whole report."""
    lines = [pen.line(pen.text("SIMULATED", "badge"))] if report.simulated else []
    for finding in report.findings:
        lines += [*_finding(finding, pen), ""]
    lines += [line for one in report.unknown for line in _aside(f"{one.what}: {one.why}", pen)]
    return "\n".join([*lines, *pen.hanging(_summary(report, pen), indent=0, width=pen.width)]) + "\n"


def _finding(finding: Finding, pen: Pen) -> list[str]:
    sign, plain, style = _SIGNS[finding.severity]
    width = min(pen.width, _WIDEST)
    head = f"{sign if pen.unicode else plain} {finding.severity.value}".ljust(_INDENT)
    title = pen.hanging(pen.text(finding.title, "strong"), indent=_INDENT, width=width)
    label = pen.line(pen.text(head.rstrip(), style)) + " " * (_INDENT - len(head.rstrip()))
    lines = [label + title[0][_INDENT:], *title[1:]]
    for part in finding.evidence.splitlines():
        lines += pen.hanging(pen.text(part), indent=_INDENT, width=width) or [""]
    if finding.is_command:
        lines.append(replace(pen, width=_ENDLESS).line(((" " * _INDENT, ""), *pen.text(finding.fix, "key"))))
    else:
        lines += pen.hanging(pen.text(finding.fix, "key"), indent=_INDENT, width=width, lead="→ ")
    lines.append(pen.line(((" " * _INDENT, ""), *pen.text(finding.id, "dim"))))
    return lines


def _aside(text: str, pen: Pen) -> list[str]:
    return pen.hanging(pen.text(f"not looked at: {text}", "dim"), indent=2, width=min(pen.width, _WIDEST))


def _summary(report: Report, pen: Pen) -> Spans:
    if not report.findings:
        return pen.text("Nothing wrong was found.", "good")
    counts = ((count, severity) for severity in Severity if (count := report.count(severity)))
    words = [
        f"{count} {severity.value}{'s' if count > 1 and severity is not Severity.BROKEN else ''}"
        for count, severity in counts
    ]
    return pen.text(", ".join(words), "bad" if report.is_broken else "")
