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

from hw2lib import HOME, IN_REPOSITORY, ROOT, Problem, files, in_one_line, torchrun_rank
from hw2lib import translate as translating


def path(value: str | Path) -> Path:
    """What a user means by a path: absolute, with `~` for the home folder."""
    if not str(value):
        raise click.BadParameter("it is empty: give a path, or leave it out")
    return files.user_path(value)


def file(value: str | Path) -> Path:
    """The path of a file that is to be read: reading a pipe could wait for ever."""
    found = path(value)
    if not os.path.isfile(found):
        what = f"{found} is no plain file" if found.exists() else f"no such file: {found}"
        raise Problem(f"{what}: give the path of one that is there")
    return found


def require_repository() -> None:
    """Raise Problem where pip has installed the package without the results and the report."""
    if not IN_REPOSITORY:
        raise Problem("this needs the repository, of which pip installs a part: clone it, and give the command there")


PRESET = click.option("--preset", default="quick", show_default=True, help="smoke, quick, cpu or full")
DATA = click.option("--data", "data_root", type=path, help="folder with the data sets [default: $HW2_DATA, else data/]")
OUT = click.option("--out", default=HOME / "build", type=path, help="folder of the report [default: build/]")


# What can be trained, and the parameter that says so where that is not always done.
TRAINED = {
    **{"cyclegan": "", "cyclegan-identity": "identity_epochs=1 or more"},
    **{f"cyclegan-{way}": "again=true" for way in ("again", "double")},
    **{"pixelcnn": "", "vqvae": "", "vqvae-short": "comparison_updates=1 or more"},
    **{f"vqvae-{way}": "longer_runs=true" for way in ("half", "double", "usual", "held-out")},
}


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@PRESET
@DATA
@OUT
def report(preset: str, data_root: Path | None, out: Path) -> None:
    """Run the notebooks and write report.md, report.html and report.pdf."""
    require_repository()
    from hw2lib.report import build

    click.echo(build.build(preset, data_root, out))


@main.command()
@OUT
def publish(out: Path) -> None:
    """Make a built report the published one: report.md, figures/, results/ and weights/."""
    require_repository()
    from hw2lib.report import publish

    publish.publish(out)


@main.command()
@OUT
def site(out: Path) -> None:
    """Make a folder for a static host: the published report, and the notebooks of a built one."""
    require_repository()
    from hw2lib.report import publish

    click.echo(publish.site(out))


@main.command()
def restore() -> None:
    """Make run folders of the published results, so that their report can be built again without training."""
    require_repository()
    from hw2lib.report import publish

    for line in publish.restore():
        click.echo(line)


@main.command()
def check() -> None:
    """Make the published report again from its results, and say what agrees with it and what does not."""
    require_repository()
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
    if TRAINED[model] and not getattr(asked, TRAINED[model].partition("=")[0]):
        raise Problem(f"these parameters train no {model}: add -p {TRAINED[model]}")

    from hw2lib import processes
    from hw2lib.training import devices

    if asked.devices > 1 and not processes.launched():
        words = [word for change in changes for word in ("-p", change)]
        sys.exit(devices.in_processes(asked.devices, asked.device, ["train", model, "--preset", preset, *words]))

    from hw2lib import recipes
    from hw2lib.cyclegan import CycleGAN
    from hw2lib.studies import schedules
    from hw2lib.vqvae import VQVAE

    if model.startswith("cyclegan"):
        config, domains = recipes.cyclegan_setup(asked)
        others = {
            "cyclegan-again": recipes.cyclegan_again,
            "cyclegan-double": recipes.cyclegan_longer,
            "cyclegan-identity": recipes.cyclegan_with_identity,
        }
        fit = others.get(model, lambda config, *of: recipes.train_cyclegan(CycleGAN(config), *of))
        run = fit(config, domains, recipes.judge_for(domains, asked), asked)
    else:
        config, pictures = recipes.vqvae_setup(asked)
        if model == "vqvae-short":
            run = recipes.vqvae_as_others(config, pictures, asked)
        elif model in schedules.EPOCHS:
            run = schedules.whole_training(model, config, pictures, asked)
        else:
            codec = VQVAE(config)
            run = recipes.train_vqvae(codec, pictures, asked)
            run = recipes.prior(codec, pictures, run, asked).run if model == "pixelcnn" else run
    if not processes.rank():
        click.echo(run.folder)


@main.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", type=path, help="a file that ends in .png, .jpg or .webp, else a folder; - for a pipe")
@click.option(
    "--to",
    type=click.Choice(["zebra", "horse", "b", "a"]),
    default="b",
    help="the domain wanted; of weights of your own, a or b  [default: b, zebra]",
)
@click.option("--size", type=click.IntRange(32, 512), metavar="PIXELS", help="the shorter side, for the network")
@click.option("--full-size", is_flag=True, help="leave the picture as large as it is")
@click.option("--beside", is_flag=True, help="the picture and its translation in one")
@click.option("--weights", default=translating.PUBLISHED, type=file, help="[default: the published ones]")
def translate(sources: tuple[str, ...], **wishes) -> None:
    """Translate SOURCES: pictures, folders of them, patterns such as '*.jpg', or - for a picture from a pipe.

    photo.jpg becomes photo-zebra.png in the current folder, and a folder photos becomes photos-zebra there, unless -o
    says otherwise. No source is written over.

    The shorter side becomes 128 pixels, on which the network was trained. A larger --size, in steps of 4, keeps more
    of the picture: at 192 the judge of the report calls 64 % of the translated test horses zebras, instead of 52 %, but also
    24 % of the translated zebras, instead of 7 %. --full-size adds the change that the network makes, scaled up,
    to the picture as large as it came; what is finer stays, and so do many stripes of zebras.
    """
    translating.translate_files(sources, **wishes)


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
    """Draw new pictures into one sheet, TARGET, such as out.png: four times as large, each class in rows of its own."""
    if target.suffix.lower() not in translating.WRITTEN:
        raise Problem(f"{target} must end in {', '.join(translating.WRITTEN)}")
    files.require_writable(target)

    from hw2lib import recipes
    from hw2lib.evaluation import new_pictures, translations
    from hw2lib.pixelcnn import GatedPixelCNN
    from hw2lib.report import figures
    from hw2lib.vqvae import VQVAE

    model, prior = VQVAE.load(codec), GatedPixelCNN.load(weights)
    recipes.require_match(prior, model)
    labels = new_pictures.labels_for(prior, count, label)
    pictures = new_pictures.decode_pictures(model, prior.sample(count, labels, **wishes))
    names = prior.config.class_names or range(prior.config.classes)
    present = [] if labels is None else labels.unique().tolist()
    rows = {str(names[number]): pictures[labels == number] for number in present} or {"": pictures}
    columns = min(math.ceil(math.sqrt(count)), max(map(len, rows.values())))
    translations.save_picture(target, figures.pixels(figures.labelled_rows(rows, columns, by=4)))
    click.echo(target)


def run(arguments: list[str] | None = None) -> None:
    """The command line with these arguments, or the process's own; what the user can put right ends in one line.

    The exit code is 2 for words that are no command, 1 for what cannot be done, 130 or 143 for SIGINT or SIGTERM.
    """
    name = "hw2" if Path(sys.argv[0]).stem == "hw2" else "python -m hw2lib"
    try:
        main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
            sys.exit(error.exit_code)
        where = error.ctx.command_path if getattr(error, "ctx", None) else name
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
