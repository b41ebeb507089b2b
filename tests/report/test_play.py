"""What the last cells of the notebooks are made of: pictures out of published figures, choices, and a map of buttons."""

import pytest
import torch

from hw2lib import Problem
from hw2lib.evaluation import codec
from hw2lib.report import ReportError, figures, play, show
from hw2lib.vqvae import VQVAE, VQVAEConfig

# What a front end must know: JupyterLab, Notebook and VS Code all do. Output, which is in another module, is not needed.
STANDARD = {"@jupyter-widgets/base", "@jupyter-widgets/controls"}


def modules(widget):
    """The modules of the front end that a widget and those in it come from."""
    return {widget._model_module}.union(*map(modules, getattr(widget, "children", ())))


@pytest.mark.parametrize(("rows", "size"), [(6, 32), (2, 128), (1, 64)])
def test_a_figure_gives_its_pictures_back(tmp_path, rows, size):
    """Pictures that were drawn into a figure, with labels or without, come out of its file as they were."""
    pictures = torch.randint(0, 256, (8 * rows, 3, size, size), dtype=torch.uint8)
    labelled = {f"row {number}": row for number, row in enumerate(pictures.split(8))}
    for name, figure in (("plain", figures.pictures(pictures)), ("labelled", figures.labelled_rows(labelled))):
        (tmp_path / f"{name}.png").write_bytes(show.png(figure))
        assert torch.equal(play.in_figure(name, rows, size, tmp_path), pictures)
    with pytest.raises(ReportError, match=r"plain\.png does not hold 40 rows of pictures"):
        play.in_figure("plain", 40, size, tmp_path)


def test_a_function_is_called_at_each_choice():
    """At once with its own defaults, then at each choice; the widgets are standard ones, with labels in words."""

    @play.choose(of_class=["a", "b"], share=(0.0, 1.0))
    def shown(of_class, share=0.5):
        return f"{of_class} {share}", figures.pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))

    menu, _, seen = shown.panel.children
    words, picture = seen.children
    assert (menu.description, words.value, picture.value[1:4]) == ("of class", "a 0.5", b"PNG")
    menu.value = "b"
    assert seen.children == (words, picture)  # the same widgets, so that nothing flickers
    assert words.value == "b 0.5"
    assert modules(shown.panel) <= STANDARD


def test_a_button_starts_what_takes_long():
    """With a button nothing is done until it is pressed; then each result is shown in turn, and what is raised, in one line."""
    seen_so_far = []

    @play.choose("Go", count=(1, 3))
    def steps(count=2):
        for step in range(count):
            yield f"step {step}"
            seen_so_far.append(seen.children[0].value)
        raise Problem("the <end>")

    _, button, seen = steps.panel.children
    assert not seen.children
    button.click()
    assert seen_so_far == ["step 0", "step 1"]
    assert seen.children[0].value == "<pre>Problem: the &lt;end&gt;</pre>"


def test_a_code_can_be_changed(pictures):
    """A code that is put at the place of a pressed button stands there and changes what is decoded, and back again."""
    model = VQVAE(VQVAEConfig(num_codes=16, hidden_channels=8, residual_channels=4)).eval()
    codes = codec.encode_pictures(model, pictures)
    map_ = play.CodeMap(model, pictures, 3)

    def labels():
        return torch.tensor([int(button.description) for button in map_.buttons.values()]).view(8, 8)

    assert torch.equal(labels(), codes[3].long())
    map_.buttons[2, 5].click()
    own, before = map_.code.value, map_.made.value
    assert own == codes[3, 2, 5]
    map_.code.value = (own + 1) % 16
    assert (labels() != codes[3]).nonzero().tolist() == [[2, 5]]
    assert map_.made.value != before
    map_.code.value = own
    assert map_.made.value == before
    assert modules(map_) <= STANDARD
