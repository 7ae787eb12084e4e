"""The picture of the status table for the README: `python -m ollamux.render.picture OUT.svg [STATUS.json]`.

The same input gives the same bytes. Only this module and the tests of it import rich.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from ollamux.domain.snapshot import Status, from_json
from ollamux.render.sample import sample_status
from ollamux.render.table import status_table

WIDTH = 80

DARK = TerminalTheme(
    (22, 24, 29),
    (214, 218, 226),
    [
        (60, 65, 76),
        (240, 113, 120),
        (126, 199, 122),
        (229, 181, 103),
        (107, 162, 232),
        (197, 146, 220),
        (92, 190, 196),
        (214, 218, 226),
    ],
    [
        (110, 117, 131),
        (255, 139, 146),
        (152, 219, 148),
        (244, 204, 134),
        (138, 186, 248),
        (216, 174, 235),
        (124, 214, 219),
        (255, 255, 255),
    ],
)
LIGHT = TerminalTheme(
    (255, 255, 255),
    (36, 41, 47),
    [
        (36, 41, 47),
        (190, 28, 38),
        (22, 120, 56),
        (150, 96, 0),
        (9, 88, 190),
        (130, 60, 170),
        (20, 115, 130),
        (110, 119, 129),
    ],
)

# rich's own template fetches a font from the network, which READMEs do not allow and nobody needs.
_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>The table of ollamux status</title>
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
    font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


def draw_picture(status: Status, *, width: int = WIDTH, theme: TerminalTheme = DARK, wide: bool = False) -> str:
    """Return the status table as an SVG."""
    table = status_table(status, width=width, color=True, unicode=True, wide=wide)
    console = Console(
        record=True,
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(Text.from_ansi(f"$ ollamux status\n{table}"), soft_wrap=True, highlight=False)
    return console.export_svg(title="ollamux", theme=theme, code_format=_FORMAT, unique_id="ollamux")


def main(arguments: list[str]) -> int:
    """Write the picture to the file named first, of the status in the JSON file named second, or of the sample."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m ollamux.render.picture OUT.svg [STATUS.json]\n")
        return 2
    status = sample_status()
    if len(arguments) == 2:
        status = from_json(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    Path(arguments[0]).write_text(draw_picture(status), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
