"""64 code maps drawn from a prior, ours beside the plain loop, in turn in one run: python benchmarks/pixelcnn_sampling.py

Plain is what the well-known scripts do: for each place of the map a pass of the network over the whole map, and a draw
from its logits there. Ours is `GatedPixelCNN.sample`. Both have the same network, random weights, in float32: the
weights do not change the work. Prints medians and the ratio of the medians.
"""

import click
import torch
from contest import contest

from hw2lib.pixelcnn import GatedPixelCNN, PixelCNNConfig
from hw2lib.training import devices


def plain_maps(model: GatedPixelCNN, count: int, labels: torch.Tensor):
    while True:
        canvas = torch.zeros(count, model.config.height, model.config.width, dtype=torch.long)
        with torch.no_grad():
            for row in range(model.config.height):
                for column in range(model.config.width):
                    logits = model(canvas, labels)[:, :, row, column]
                    canvas[:, row, column] = torch.multinomial(logits.softmax(1), 1)[:, 0]
        yield


def our_maps(model: GatedPixelCNN, count: int, labels: torch.Tensor):
    devices.keep_freed_memory()
    while True:
        model.sample(count, labels)
        yield


def steps_of(name: str, options: dict):
    config = PixelCNNConfig(classes=10, channels=options["channels"], layers=options["layers"])
    model = GatedPixelCNN(config).eval()
    labels = torch.arange(options["maps"]) % config.classes
    return (plain_maps if name == "plain" else our_maps)(model, options["maps"], labels)


@click.command(help=__doc__)
@click.option("--steps", default=5, show_default=True, help="counted sets of maps of each, after 1 that is not")
@click.option("--maps", default=64, show_default=True, help="in a set")
@click.option("--channels", default=PixelCNNConfig().channels, show_default=True)
@click.option("--layers", default=PixelCNNConfig().layers, show_default=True)
def main(**options) -> None:
    contest(steps_of, options, warm_up=1)
    print(f"{options['maps']} maps, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
