"""`translate` of the command line. What is wrong with any of the pictures is said before the first is translated."""

import glob
import io
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hw2lib import ROOT, Problem, files, printable

PUBLISHED = ROOT / "weights/cyclegan.safetensors"
NAMES = {"a": "horse", "b": "zebra"}  # of the published domains: a file of weights does not say what its own show
PIPE = "-"  # standard input, or standard output
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")


def translate_files(
    words: list[str], to: str, out: Path | None, weights: Path, size: int | None, full_size: bool, beside: bool
) -> None:
    """Translate the pictures that the words mean into the domain `to`, and print where they are. Raises Problem."""
    published = weights.resolve() == PUBLISHED.resolve()
    if to not in NAMES and not published:
        raise Problem(f"what the domains of {weights} show is not known, so none is called {to}: give a or b")
    domain = next(domain for domain, name in NAMES.items() if to in (domain, name))
    sources = list(meant(words))
    targets = places(sources, NAMES[domain] if published else domain, out)

    import torch
    from PIL import Image
    from tqdm import tqdm

    from hw2lib.cyclegan import CycleGAN
    from hw2lib.data import read_picture
    from hw2lib.evaluation import translations
    from hw2lib.training.progress import somebody_watches

    model = CycleGAN.load(weights)
    generator = model.generators(averaged=bool(model.config.ema_decay))[domain == "a"]
    if (full_size or size) and model.config.generator == "unet":
        raise Problem(f"{weights} holds U-Nets, for squares of one size only: give no --size and no --full-size")

    def read(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture as it is to be shown, and as the network takes it."""
        picture = read_picture(source.file)
        try:
            fitted = translations.fit_for(model, picture, size)
        except translations.ShapeError as problem:
            raise Problem(f"{source.file}: {problem}") from None
        return translations.as_tensor(picture) if full_size else fitted, fitted

    bar = partial(tqdm, disable=len(sources) == 1 or not somebody_watches(), unit=" pictures")
    for source in bar(sources, "reading"):
        read(source)  # not kept: there may be thousands
    for source, target in bar(list(zip(sources, targets, strict=True)), "translating"):
        picture, fitted = read(source)
        made = translations.translate(generator, fitted)
        made = translations.at_full_size(picture, fitted, made) if full_size else made
        made = torch.cat([picture, made], -1) if beside else made
        if target is None:
            with files.writing("to standard output"):
                Image.fromarray(made[0].permute(1, 2, 0).numpy()).save(sys.stdout.buffer, "PNG")
        else:
            translations.save_picture(target, made[0])
            tqdm.write(printable(str(target)))


# ---- from which files, into which


class Pipe(io.BytesIO):
    """What came through a pipe, under a name for messages."""

    def __str__(self) -> str:
        return "standard input"


class Source(NamedTuple):
    """A picture, its path in the folder that was named, and the name of that, if one was."""

    file: Path | Pipe
    inside: Path
    folder: str = ""


def meant(words: list[str]) -> Iterator[Source]:
    """The pictures that are meant by paths of files and folders, patterns such as *.jpg, and "-". Raises Problem."""
    for word in words:
        if word == PIPE:
            try:
                yield Source(Pipe(sys.stdin.buffer.read()), Path("picture"))
            except (AttributeError, OSError, ValueError):  # there is none
                raise Problem("standard input cannot be read: give the path of a picture") from None
            continue
        path = files.user_path(word)
        # A shell that knows no patterns, or was told to leave them, leaves them to us.
        matches = [path] if path.exists() else sorted(map(Path, glob.glob(os.path.expanduser(word), recursive=True)))
        if not word or not matches:
            raise Problem(f"no such file: {path if word else repr(word)}: give one that is there (-o names the output)")
        for path in matches:
            if path.is_dir():
                yield from _below(path)
            elif path.is_file():
                yield Source(path, Path(path.name))
            else:
                raise Problem(f"{path} is no plain file: give the path of one")


def _below(folder: Path) -> Iterator[Source]:
    from hw2lib.data import folders

    pictures, passed_over = folders.picture_files(folder)
    folders.told(folder, passed_over)
    if not pictures:
        raise Problem(f"{folder} has no pictures: give a folder of .jpg, .png or .webp files")
    for picture in pictures:
        yield Source(picture, picture.relative_to(folder), folder.resolve().name)


def places(sources: list[Source], ending: str, out: Path | None) -> list[Path | None]:
    """Where each translation goes, None for standard output; with no `out`, for "zebra": ./photo-zebra.png for photo.jpg,
    and ./photos-zebra/... for the pictures of a folder. Raises Problem, also where something could not be written."""
    if out and out.name == PIPE:
        targets = [None]
    elif out and out.suffix.lower() in WRITTEN and not out.is_dir():
        targets = [out]
    else:
        folders = (out or files.user_path(its.folder and f"{its.folder}-{ending}") for its in sources)
        names = (its.inside.with_name(f"{its.inside.stem}-{ending}.png") for its in sources)
        targets = list(map(Path.joinpath, folders, names))
    if len(targets) < len(sources):
        raise Problem(f"{len(sources)} pictures cannot be written into {out}: give a folder")
    taken = {source.file.resolve() for source in sources if isinstance(source.file, Path)}
    for target in filter(None, targets):
        if target.resolve() in taken:
            raise Problem(f"{target} would be written over, or twice: give another place with -o, or fewer pictures")
        taken.add(target.resolve())
        files.require_writable(target)
    return targets
