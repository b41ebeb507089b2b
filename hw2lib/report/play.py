"""
What the last cells of both notebooks need, to play with the published networks: the report leaves these cells out.

A cell writes a function from choices to figures; `choose` puts sliders and menus above them, and calls it at each choice.
"""

import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from html import escape
from inspect import Parameter, isgenerator, signature
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hw2lib import ROOT, Problem
from hw2lib.data import DataError, read_picture
from hw2lib.evaluation import codec, new_pictures
from hw2lib.report import ReportError, figures, show
from hw2lib.report.style import DOTS_PER_INCH
from hw2lib.vqvae import VQVAE

AT_LEFT = widgets.Layout(align_items="flex-start")  # else pictures would be stretched


def choose(button: str = "", **choices) -> Callable[[Callable], Callable]:
    """Decorates a function of choices, as ipywidgets.interact takes them: what it returns is shown below them.

    That is a figure, HTML, a widget, or a tuple of these; of a generator each in turn. It is called at once and at each
    choice, or with a `button` when that is pressed. (There is no widgets.Output: papermill may wait for one for ever.)
    """

    def decorate(function: Callable) -> Callable:
        defaults = {name: parameter.default for name, parameter in signature(function).parameters.items()}
        controls = {name: _control(name, choice, defaults.get(name)) for name, choice in choices.items()}
        seen, pressed = widgets.VBox(layout=AT_LEFT), widgets.Button(description=button)

        def draw(_) -> None:
            try:
                found = function(**{name: control.value for name, control in controls.items()})
                for parts in found if isgenerator(found) else [found]:
                    show_in(seen, parts if isinstance(parts, tuple) else (parts,))
            except Exception as error:
                words = f"{type(error).__name__}: {error}" if isinstance(error, Problem) else traceback.format_exc()
                show_in(seen, [f"<pre>{escape(words)}</pre>"])

        if button:
            pressed.on_click(draw)
        else:
            draw(None)
            for control in controls.values():
                control.observe(draw, "value")
        function.panel = widgets.VBox([*controls.values(), *([pressed] if button else []), seen])
        # The text stands in a saved copy, which has no kernel.
        display(function.panel._repr_mimebundle_() | {"text/plain": "Run this section to play with it."}, raw=True)
        return function

    return decorate


def _control(name: str, choice: object, default: object) -> widgets.Widget:
    control = widgets.interactive.widget_from_abbrev(choice, Parameter.empty if default is None else default)
    control.description = control.tooltip = control.description or name.replace("_", " ")
    control.style.description_width, control.layout.width = "9em", "32em"
    return control


def show_in(box: widgets.Box, parts: Sequence[Figure | str | widgets.Widget]) -> None:
    """Show the parts in a box; where there were as many of the same kinds before, nothing flickers."""
    values = [show.png(part) if isinstance(part, Figure) else part for part in parts]
    kinds = [{bytes: widgets.Image, str: widgets.HTML}.get(type(value)) for value in values]
    if None in kinds or kinds != [type(child) for child in box.children]:
        box.children = [kind() if kind else value for kind, value in zip(kinds, values, strict=True)]
    for child, kind, value in zip(box.children, kinds, values, strict=True):
        if kind:
            child.value = value


def in_figure(name: str, rows: int, size: int, folder: Path = ROOT / "figures") -> Tensor:
    """The pictures that a published figure shows in `rows` rows of eight, as they were: uint8 (8 rows, 3, size, size).

    In the file each of their pixels is a square of pixels. Raises ReportError.
    """
    path, frame = folder / f"{name}.png", DOTS_PER_INCH // 10  # matplotlib's
    try:
        file = np.array(read_picture(path))
        by = (len(file) - 2 * frame) // (rows * (size + 1) - 1)
        step = by * (size + 1)  # with the line after it
        sheet = file[: by - frame, : by - frame][-rows * step :, -8 * step :].reshape(rows, step, 8, step, 3)
    except (DataError, ValueError) as error:
        raise ReportError(f"{path} does not hold {rows} rows of pictures: {error}") from None
    pixels = slice(0, by * size, by)
    return torch.from_numpy(sheet[:, pixels, :, pixels]).permute(0, 2, 4, 1, 3).flatten(0, 1)


def uploaded(files: Sequence[Mapping]) -> Image.Image:
    """The picture in the last file that an ipywidgets.FileUpload has, as `read_picture` reads it. Raises DataError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(files[-1]["name"]).name)
        path.write_bytes(files[-1]["content"])
        return read_picture(path)


class CodeMap(widgets.VBox):
    """A picture's code map as buttons: what the pressed one paints, where its code is used, and what another does there."""

    def __init__(self, model: VQVAE, pictures: Tensor, number: int):
        """Of `pictures`, uint8 (N, 3, H, W), that of the one of this number; all of them show where a code is used."""
        self.model, self.pictures, self.codes = model, pictures, codec.encode_pictures(model, pictures).long()
        self.number, self.map, self.place = number, self.codes[number].clone(), (0, 0)
        size = {"width": "40px", "padding": "0"}
        self.buttons = {place: widgets.Button(layout=size) for place in np.ndindex(*self.map.shape)}
        for place, button in self.buttons.items():
            button.on_click(lambda _, place=place: self.press(place))
        self.code = widgets.IntSlider(max=model.config.num_codes - 1, description="code there", continuous_update=False)
        self.code.observe(self.put, "value")
        self.made, self.use, self.words = widgets.Image(), widgets.Image(), widgets.HTML()
        columns = {"grid_template_columns": f"repeat({self.map.shape[1]}, 44px)", "flex": "none", "margin": "0 9px 0 0"}
        grid = widgets.GridBox(list(self.buttons.values()), layout=columns)
        right = widgets.VBox([self.made, self.code, self.words], layout=AT_LEFT)
        super().__init__([widgets.HBox([grid, right]), self.use], layout=AT_LEFT)
        self.press(self.place)

    def press(self, place: tuple[int, int]) -> None:
        """Choose a place of the map, (row, column)."""
        self.place = place
        if self.code.value == self.map[place]:
            self.draw()
        self.code.value = int(self.map[place])  # draws if it is another

    def put(self, change: Mapping) -> None:
        """Put another code at the chosen place."""
        self.map[self.place] = change["new"]
        self.draw()

    def draw(self) -> None:
        """Show the map, what is decoded from it, and the code at the chosen place."""
        colours = figures.code_colours(self.map, len(self.map)).flatten(1).T.tolist()
        for (place, button), colour in zip(self.buttons.items(), colours, strict=True):
            button.description, button.style.button_color = str(int(self.map[place])), "rgb({}, {}, {})".format(*colour)
            button.style.text_color, button.layout.border = "black", "3px solid" if place == self.place else "none"
        own, code = self.codes[self.number], self.map[self.place]
        maps = torch.stack([own, self.map, torch.full_like(own, int(code))])
        decoded, yours, alone = new_pictures.decode_pictures(self.model, maps)
        change = (4 * (yours.int() - decoded.int()).abs()).clamp(max=255).byte()
        made = torch.stack([self.pictures[self.number], decoded, yours, change])
        self.made.value = show.png(figures.pictures(made, 4, ["picture", "decoded", "with yours", "change x 4"]))
        there = (self.codes == code).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        lit = torch.where(there, self.pictures, self.pictures // 4 + 176)  # elsewhere pale
        uses = (self.codes == code).flatten(1).sum(1)
        most = uses.argsort(descending=True, stable=True)[: min(7, int((uses > 0).sum()))]
        titles = ["alone", *(f"{count} times" for count in uses[most].tolist())]
        self.use.value = show.png(figures.pictures(torch.cat([alone[None], lit[most]]), 8, titles))
        self.words.value = (
            f"Code {int(code)} is used by {int((uses > 0).sum())} of {len(uses)} pictures. Below: what a map of nothing else "
            "paints, and where it stands in those that use it most."
        )
