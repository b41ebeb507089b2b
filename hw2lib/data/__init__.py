"""Sets and domains of pictures, where they come from (downloads, folders, drawn) and the batches made of them.

Imported by all above; imports nothing of ours but `hw2lib.files` and `hw2lib.training.progress`, and knows no model.
Files -> uint8 (N, 3, H, W), in memory or memory-mapped -> batches on the training device.
"""

from hw2lib.data.batches import Batches, CodeBatches, CodeSets, Pairs, random_stream
from hw2lib.data.download import DataError
from hw2lib.data.folders import read_picture
from hw2lib.data.pictures import CIFAR10_CLASSES, Pictures, cifar10, load, root_folder, toy_pictures
from hw2lib.data.unpaired import Domains, toy_domains
from hw2lib.data.unpaired import load as domains

__all__ = [
    "CIFAR10_CLASSES",
    "Batches",
    "CodeBatches",
    "CodeSets",
    "DataError",
    "Domains",
    "Pairs",
    "Pictures",
    "cifar10",
    "domains",
    "load",
    "random_stream",
    "read_picture",
    "root_folder",
    "toy_domains",
    "toy_pictures",
]
