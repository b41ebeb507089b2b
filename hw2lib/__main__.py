"""CycleGAN and VQ-VAE, reproduced small: build the report, train, translate pictures, draw new ones.

Under torchrun, `train` uses all its processes.
"""

# Everything that takes long to import is imported inside the commands, so that help and usage errors come at once.

import math
import os
import sys
import time
from pathlib import Path

import click

from hw2lib import ROOT, Problem, files, in_one_line, torchrun_rank


def path(value: str | Path) -> Path:
    """What a user means by a path: absolute, with `~` for the home folder."""
    if not str(value):
        raise click.BadParameter("it is empty: give a path, or leave it out")
    return files.user_path(value)


def file(value: str | Path) -> Path:
    """The path of a file that is to be read: reading a pipe could wait for ever."""
    found = path(value)
    if not os.path.isfile(found):
        raise Problem(f"{found} is no file: give the path of one")
    return found


PRESET = click.option("--preset", default="quick", show_default=True, help="smoke, quick, cpu or full")
DATA = click.option("--data", "data_root", type=path, help="folder with the data sets [default: $HW2_DATA, else data/]")
OUT = click.option("--out", default=ROOT / "build", type=path, help="folder of the report [default: build/]")


TRAINED = (
    *("cyclegan", "cyclegan-identity"),
    *("vqvae", "vqvae-short", "vqvae-half", "vqvae-double", "vqvae-usual", "vqvae-held-out", "pixelcnn"),
)


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@PRESET
@DATA
@OUT
def report(preset: str, data_root: Path | None, out: Path) -> None:
    """Run the notebooks and write report.md, report.html and report.pdf."""
    from hw2lib.report import build

    click.echo(build.build(preset, data_root, out))


@main.command()
@OUT
def publish(out: Path) -> None:
    """Make a built report the published one: report.md, figures/, results/ and weights/."""
    from hw2lib.report import publish

    publish.publish(out)


@main.command()
@OUT
def site(out: Path) -> None:
    """Make a folder for a static host: the published report, and the notebooks of a built one."""
    from hw2lib.report import publish

    click.echo(publish.site(out))


@main.command()
def restore() -> None:
    """Make run folders of the published results, so that their report can be built again without training."""
    from hw2lib.report import publish

    for line in publish.restore():
        click.echo(line)


@main.command()
def check() -> None:
    """Make the published report again from its results, and say what agrees with it and what does not."""
    from hw2lib.report import check

    for line in check.check():
        click.echo(line)


@main.command()
@click.argument("model", type=click.Choice(TRAINED))
@PRESET
@DATA
@click.option("-p", "changes", multiple=True, metavar="NAME=VALUE", help="another value for a parameter of the preset")
def train(model: str, preset: str, data_root: Path | None, changes: tuple[str, ...]) -> None:
    """Train as the notebook would, into the same run folder, which the notebook then loads.

    pixelcnn is the prior over the codes of the VQ-VAE, which is trained first if it is not yet. With -p devices=4 four
    processes share each batch.
    """
    from hw2lib import parameters

    stem, kind = "01_cyclegan", parameters.CycleGANParameters
    if not model.startswith("cyclegan"):
        stem, kind = "02_vqvae", parameters.VQVAEParameters
    changes = ("experiments=run", *changes)
    if data_root:
        changes = (*changes, f"data_root={data_root}")
    asked = parameters.given(kind, parameters.preset(preset, stem), changes)

    from hw2lib import processes
    from hw2lib.training import devices

    if asked.devices > 1 and not processes.launched():
        words = [word for change in changes for word in ("-p", change)]
        sys.exit(devices.in_processes(asked.devices, asked.device, ["train", model, "--preset", preset, *words]))

    from hw2lib import recipes
    from hw2lib.cyclegan import CycleGAN
    from hw2lib.vqvae import VQVAE

    if model.startswith("cyclegan"):
        config, domains = recipes.cyclegan_setup(asked)
        judge = recipes.judge_for(domains, asked)
        if model == "cyclegan":
            run = recipes.train_cyclegan(CycleGAN(config), domains, judge, asked)
        else:
            run = recipes.cyclegan_with_identity(config, domains, judge, asked)
    elif model == "vqvae-short":
        run = recipes.vqvae_as_others(*recipes.vqvae_setup(asked), asked)
    elif model.startswith("vqvae-"):
        from hw2lib.studies import schedules

        run = schedules.whole_training(model, *recipes.vqvae_setup(asked), asked)
    else:
        config, pictures = recipes.vqvae_setup(asked)
        codec = VQVAE(config)
        run = recipes.train_vqvae(codec, pictures, asked)
    if model == "pixelcnn":
        run = recipes.prior(codec, pictures, run, asked).run
    if run is None:
        raise Problem(
            f"nothing to train for {model}: give identity_epochs, or comparison_updates, above 0, or longer_runs=true"
        )
    if not processes.rank():
        click.echo(run.folder)


@main.command()
@click.argument("sources", nargs=-1, required=True, type=file)
@click.argument("folder", type=path)
@click.option("--to", type=click.Choice(["a", "b"]), default="b", show_default=True, help="the domain wanted")
@click.option(
    "--weights",
    default=ROOT / "weights/cyclegan.safetensors",
    type=file,
    help="[default: the published ones, b: zebras]",
)
def translate(sources: tuple[Path, ...], folder: Path, to: str, weights: Path) -> None:
    """Translate pictures of any kind, SOURCES, into PNG files of the same names in FOLDER.

    The shorter side is scaled to the size that the network was trained on; the longer one is at most 16 times as long.
    """
    targets = [folder / f"{source.stem}.png" for source in sources]
    for target in targets:
        if targets.count(target) > 1 or target.resolve() in [source.resolve() for source in sources]:
            raise Problem(f"{target} would be written over: give another folder, or fewer pictures")
        files.require_writable(target)

    from hw2lib.cyclegan import CycleGAN
    from hw2lib.data import read_picture
    from hw2lib.evaluation import translations

    model = CycleGAN.load(weights)
    generator = model.generators(averaged=bool(model.config.ema_decay))[to == "a"]
    # All are read before any work.
    pictures = []
    for source in sources:
        try:
            pictures.append(translations.fit_for(model, read_picture(source)))
        except translations.ShapeError as problem:
            raise Problem(f"{source}: {problem}") from None
    for picture, target in zip(pictures, targets, strict=True):
        translations.save_picture(target, translations.translate(generator, picture)[0])
        click.echo(target)


@main.command()
@click.option("--n", "count", default=64, show_default=True, type=click.IntRange(1, 4096), help="pictures")
@click.option("--class", "label", help="one of the prior's classes [default: all of them in turn]")
@click.option("--temperature", default=1.0, show_default=True, help="below 1: likelier and more alike")
@click.option("--top-k", default=0, show_default=True, help="only the likeliest codes; 0: all")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--weights", default=ROOT / "weights/pixelcnn.safetensors", type=file, help="of the prior")
@click.option("--codec", default=ROOT / "weights/vqvae.safetensors", type=file, help="weights of the VQ-VAE")
@click.argument("target", type=path)
def sample(count: int, label: str | None, weights: Path, codec: Path, target: Path, **wishes) -> None:
    """Draw new pictures into one sheet, TARGET, such as out.png."""
    if target.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise Problem(f"{target} must end in .png, .jpg or .webp")
    files.require_writable(target)

    import torch

    from hw2lib import recipes
    from hw2lib.evaluation import new_pictures, translations
    from hw2lib.pixelcnn import GatedPixelCNN
    from hw2lib.report import figures
    from hw2lib.vqvae import VQVAE

    model, prior = VQVAE.load(codec), GatedPixelCNN.load(weights)
    recipes.require_match(prior, model)
    labels = new_pictures.labels_for(prior, count, label)
    pictures = new_pictures.decode_pictures(model, prior.sample(count, labels, **wishes))
    sheet = figures.picture_sheet(pictures, columns=math.ceil(math.sqrt(count)))
    translations.save_picture(target, torch.from_numpy(sheet).permute(2, 0, 1))
    click.echo(target)


def run(arguments: list[str] | None = None) -> None:
    """The command line with these arguments, or the process's own; what the user can put right ends in one line.

    The exit code is 2 for words that are no command, 1 for what cannot be done, 130 or 143 for SIGINT or SIGTERM.
    """
    try:
        main(arguments, prog_name="python -m hw2lib", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
            sys.exit(error.exit_code)
        where = error.ctx.command_path if getattr(error, "ctx", None) else "python -m hw2lib"
        _end(f"Usage: {Problem(in_one_line(error.format_message()))} (see {where} --help)", error.exit_code)
    except Problem as problem:
        _end(f"{type(problem).__name__}: {problem}", 1)
    except click.Abort as abort:  # what click makes of every KeyboardInterrupt
        stopped = abort.__cause__
        if hasattr(stopped, "signal_number"):
            _end(f"Stopped {stopped}", 128 + stopped.signal_number)
        _end("Stopped: the same command goes on from the last checkpoint, if it trains", 130)


def _end(line: str, code: int) -> None:
    # Of several processes the first says it and is gone at once, so that torchrun ends the others while they wait; one that
    # is still there then is alone with its problem. A stop is never that of one alone.
    rank = torchrun_rank()
    time.sleep(10 if rank and code == 1 else 0)
    if not rank or code == 1:
        click.echo(line, err=True)
    if rank is not None:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
