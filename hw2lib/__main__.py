"""The command line: `python -m hw2lib report | train | translate | sample | publish | restore`. Under torchrun, `train` uses all its processes."""

import math
import sys
from pathlib import Path

import click
import torch
import yaml

from hw2lib import ROOT, Problem, parameters, recipes
from hw2lib.cyclegan import CycleGAN
from hw2lib.data.folders import read_picture
from hw2lib.evaluation import new_pictures as samples
from hw2lib.evaluation import translations as translation
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report import figures
from hw2lib.training import loop as training
from hw2lib.vqvae import VQVAE

PRESET = click.option("--preset", default="quick", show_default=True, help="smoke, quick, cpu or full")
DATA = click.option("--data", "data_root", help="folder with the data sets [default: $HW2_DATA, else data/]")


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@PRESET
@DATA
@click.option("--out", default=str(ROOT / "build"), help="folder for the report [default: build/]")
def report(preset: str, data_root: str | None, out: str) -> None:
    """Run the notebooks and write report.md, report.html and report.pdf."""
    from hw2lib.report import build as room  # papermill and pandoc are not needed for training

    click.echo(f"{room.build(preset, data_root, out)}")


@main.command()
@click.option("--out", default=str(ROOT / "build"), help="folder of a built report [default: build/]")
def publish(out: str) -> None:
    """Make a built report the published one: report.md, figures/, results/ and weights/."""
    from hw2lib.report import build as room

    room.publish(out)


@main.command()
def restore() -> None:
    """Make run folders of the published results, so that their report can be built again without training."""
    from hw2lib.report import build as room

    for line in room.restore():
        click.echo(line)


@main.command()
@click.argument("model", type=click.Choice(["cyclegan", "vqvae", "pixelcnn"]))
@PRESET
@DATA
@click.option("-p", "changes", multiple=True, metavar="NAME=VALUE", help="another value for a parameter of the preset")
def train(model: str, preset: str, data_root: str | None, changes: tuple[str, ...]) -> None:
    """Train as the notebook would, into the same run folder, which the notebook then loads.

    pixelcnn is the prior over the codes of the VQ-VAE, which is trained first if it is not yet.
    """
    notebook, kind = ("01_cyclegan", parameters.CycleGANParameters)
    if model != "cyclegan":
        notebook, kind = ("02_vqvae", parameters.VQVAEParameters)
    path = ROOT / "notebooks" / "presets" / preset / f"{notebook}.yaml"
    if not path.is_file():
        raise parameters.ParameterError(f"no preset {preset}: say smoke, quick, cpu or full")
    asked = parameters.given(kind, yaml.safe_load(path.read_text()), changes)
    if data_root:
        asked = asked.model_copy(update={"data_root": str(Path(data_root).resolve())})
    if model == "cyclegan":
        config, domains = recipes.cyclegan_setup(asked)
        run = recipes.train_cyclegan(CycleGAN(config), domains, recipes.judge_for(domains), asked)
    else:
        config, pictures = recipes.vqvae_setup(asked)
        codec = VQVAE(config)
        run = recipes.train_vqvae(codec, pictures, asked)
    if model == "pixelcnn":
        sets = recipes.code_sets(codec, pictures, run)
        run = recipes.train_prior(GatedPixelCNN(recipes.prior_config(codec, pictures, asked)), sets, asked)
    click.echo(run.folder)


@main.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--to", type=click.Choice(["a", "b"]), default="b", show_default=True, help="the domain wanted")
@click.option(
    "--weights",
    default=str(ROOT / "weights" / "cyclegan.safetensors"),
    help="[default: the published ones, b: zebras]",
)
def translate(sources: tuple[Path, ...], folder: Path, to: str, weights: str) -> None:
    """Translate pictures of any kind and size, SOURCES, into PNG files of the same names in FOLDER.

    The shorter side is scaled to the size that the network was trained on.
    """
    targets = [folder / f"{source.stem}.png" for source in sources]
    for target in targets:
        if targets.count(target) > 1 or target.resolve() in [source.resolve() for source in sources]:
            raise parameters.ParameterError(f"{target} would be written over: give another folder, or fewer pictures")
    model = CycleGAN.load(weights)
    g_ab, g_ba = model.generators(averaged=bool(model.config.ema_decay))
    generator = g_ab if to == "b" else g_ba
    pictures = {source: translation.fit_for(model, read_picture(source)) for source in sources}  # all, before any work
    for picture, target in zip(pictures.values(), targets, strict=True):
        translation.save_picture(target, translation.translate(generator, picture)[0])
        click.echo(target)


@main.command()
@click.option("--n", "count", default=64, show_default=True, type=click.IntRange(1), help="pictures")
@click.option("--class", "label", help="one of the prior's classes [default: all of them in turn]")
@click.option("--temperature", default=1.0, show_default=True, help="below 1: likelier and more alike")
@click.option("--top-k", default=0, show_default=True, help="only the likeliest codes; 0: all")
@click.option("--seed", default=0, show_default=True)
@click.option("--weights", default=str(ROOT / "weights" / "pixelcnn.safetensors"), help="of the prior")
@click.option("--codec", default=str(ROOT / "weights" / "vqvae.safetensors"), help="weights of the VQ-VAE")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def sample(count: int, label: str | None, weights: str, codec: str, target: Path, **wishes) -> None:
    """Draw new pictures into one sheet, TARGET, such as out.png."""
    if target.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise parameters.ParameterError(f"{target} must end in .png, .jpg or .webp")
    model, pixelcnn = VQVAE.load(codec), GatedPixelCNN.load(weights)
    recipes.require_match(pixelcnn, model)
    labels = samples.labels_for(pixelcnn, count, label)
    pictures = samples.decode_pictures(model, pixelcnn.sample(count, labels, **wishes))
    sheet = figures.picture_sheet(pictures, columns=math.ceil(math.sqrt(count)))
    translation.save_picture(target, torch.from_numpy(sheet).permute(2, 0, 1))
    click.echo(target)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except training.Stopped as stopped:
        sys.exit(f"Stopped {stopped}")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Problem as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
    except (KeyboardInterrupt, click.Abort):
        sys.exit("Stopped")
