"""The look of all figures. It holds while one is drawn or saved; importing this changes nothing."""

import sys
import warnings
from functools import cache

from matplotlib import font_manager, pyplot
from matplotlib.figure import Figure

DOTS_PER_INCH = 150  # of a figure, drawn or saved
STYLE = {
    "figure.dpi": DOTS_PER_INCH,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 7,
}
# Decorates a function that draws.
styled = pyplot.rc_context(STYLE)

# Told apart in grey print by line style and marker as well.
TRAIN, TEST, OTHER = "#3b6fb6", "#d1495b", "#777777"
LINES = (
    (TRAIN, "o-"),
    (TEST, "s--"),
    (OTHER, "^:"),
    ("#2a9d8f", "D-."),
    ("#8a5a9e", "v-"),
    ("#c77d26", "P--"),
)
LEVELS = ("--", ":", "-")  # of lines straight across


def legend_below(figure: Figure) -> None:
    """One legend for all panels of a figure with layout="constrained", below them, where it covers no curve."""
    parts = [axes.get_legend_handles_labels() for axes in figure.axes]
    by_label = {label: handle for handles, labels in parts for handle, label in zip(handles, labels, strict=True)}
    if by_label:
        figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=4)


def letters_of(font: str) -> set[str]:
    """All characters that a font file has."""
    return {chr(code) for code in font_manager.get_font(font).get_charmap()}


@cache
def fonts_for(text: str) -> tuple[str, ...]:
    """Font families for text of any script: matplotlib's own, and of those on this machine the one that has most of the
    characters that it lacks. Says so where some are lacking still: boxes then stand for them."""
    own = "DejaVu Sans"
    lacking, families = {char for char in text if not char.isspace()} - letters_of(font_manager.findfont(own)), [own]
    if lacking:
        fonts = font_manager.findSystemFonts()
        best = max(fonts, key=lambda font: len(lacking & letters_of(font)), default=None)
        if best and lacking & letters_of(best):
            font_manager.fontManager.addfont(best)
            families.append(font_manager.get_font(best).family_name)
            lacking -= letters_of(best)
    if lacking:
        told = f"no font on this machine has {''.join(sorted(lacking))}: boxes stand for them in figures and report.pdf"
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # told here, once
        print(f"{told}; install one that does, such as Noto Sans CJK (apt-get install fonts-noto-cjk)", file=sys.stderr)
    return tuple(families)
