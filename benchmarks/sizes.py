"""What a larger --size does to translations: python benchmarks/sizes.py [data folder]

The test pictures of horse2zebra, 256 pixels a side, by the published averaged weights: the share that the judge calls zebra, and
the kernel distance to real test pictures of the domain wanted, of translations as they are and at full size.
"""

import sys

import torch

from hw2lib import translate
from hw2lib.cyclegan import CycleGAN
from hw2lib.data import read_picture, root_folder
from hw2lib.evaluation import translations
from hw2lib.evaluation.judge import ZEBRA, Judge, kernel_distance, share

SIZES = (128, 160, 192, 256, 320)


def main(root: str | None = None) -> None:
    model, judge = CycleGAN.load(translate.PUBLISHED), Judge()
    folders = [root_folder(root) / "horse2zebra" / name for name in ("testA", "testB")]
    both = [[read_picture(path) for path in sorted(folder.glob("*.jpg"))] for folder in folders]
    real = [torch.cat([translations.as_tensor(picture) for picture in pictures]) for pictures in both]
    features = [judge.features(pictures) for pictures in real]
    print("| to    | size | zebra | distance | zebra, full size | distance, full size |")
    print("|-------|-----:|------:|---------:|-----------------:|--------------------:|")
    for source, generator in enumerate(model.generators(averaged=True)):
        name = list(translate.NAMES.values())[1 - source]
        for size in SIZES:
            fitted = torch.cat([translations.fit_for(model, picture, size) for picture in both[source]])
            made = translations.translate(generator, fitted)
            columns = []
            for pictures in (made, translations.at_full_size(real[source], fitted, made)):
                looks = judge.look(pictures)
                distance = kernel_distance(looks.features, features[1 - source])
                columns.append(f"{share(looks.probabilities, ZEBRA):.1%} | {distance:.3f}")
            print(f"| {name} | {size} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
