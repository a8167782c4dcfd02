"""MNIST from tar archives of {ID}_{Label}.png images: extraction, dataset, batches.

    python dataset.py                          extract data/train.tar* and data/test.tar*
    python dataset.py --data_dir DIR           the same in another folder
    python dataset.py --dataset FashionMNIST   fetch a dataset, pack and extract it in data/NAME

An archive train.tar (or .tar.xz, .tar.gz, .tgz, .tar.bz2) holds train/00000_5.png and so on:
28x28, 8-bit grey, ink white (255) on black (0). It is checked as a whole before anything appears
in the data folder.
"""

from utils.command import run_command  # isort: split

import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from utils.archives import (
    decode_png,
    extraction_was_killed,
    find_archives,
    list_images,
    parse_name,
    write_archive,
)
from utils.augment import Augmentation, deskew
from utils.cache import extract_missing, fingerprint, read_cache, write_cache
from utils.distributed import rank, world_size
from utils.files import PLOTS, UserError, atomic_write
from utils.settings import Parser

SPLITS = ("train", "test")
DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST")
# Digests of the splits in data/, which are the original MNIST.
SHIPPED = {
    "train": "d18cfd466eb143ac1097fde604dba9eec4116885869d04cc648b510949f9e88c",
    "test": "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891",
}
# A picture that is not read, as its name does not end in .png.
OTHER_IMAGE = re.compile(r"[^.].*\.(?!png$)(?i:png|jpe?g|bmp|gif|tiff?|webp)")
MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to [0, 1]


# --- The extracted folder -------------------------------------------------------------------


class MNIST(Dataset):
    """The images of an extracted folder, sorted by ID, as a map-style dataset.

    Where the folder is not there yet, the archive beside it is extracted first:
    MNIST("data/train") looks for data/train.tar, data/train.tar.xz and so on.

    Args:
        folder: of files {ID}_{Label}.png.
        transform: from a PIL image to what __getitem__ returns in its place; by default to
            float32 [1, 28, 28], normalised: (pixel / 255 - 0.1307) / 0.3081.

    Raises:
        UserError: if there is nothing to read or extract, or a file is not as it should be.
    """

    def __init__(self, folder: str | Path, transform: Callable | None = None) -> None:
        self.folder = Path(folder)
        self.transform = transform
        self.names = list_images(self.folder)
        if not self.names or extraction_was_killed(self.folder):
            extract_missing([self.folder])
            self.names = list_images(self.folder)
        self.labels = torch.tensor([parse_name(name)[1] for name in self.names])  # int64 [N]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Read and decode one file, the textbook way; training reads `images` instead."""
        if self.transform is None:
            from torchvision import transforms  # here, as it takes 1.5 s and training needs none

            self.transform = transforms.Compose(
                [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
            )
        return self.transform(Image.fromarray(self._decode(index))), int(self.labels[index])

    def _decode(self, index: int) -> np.ndarray:
        path = self.folder / self.names[index]
        try:
            return decode_png(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {error}; repair or remove the file") from error

    @functools.cached_property
    def images(self) -> torch.Tensor:
        """All images, uint8 [N, 28, 28]: from the cache, or decoded once and put there.

        What looks wrong with them is said on stderr.
        """
        cache = read_cache(self.folder)
        if len(cache.get("images", ())) != len(self):  # none, or another process has added images
            state = fingerprint(self.folder)  # taken before the files are read
            bar = tqdm(range(len(self)), f"decoding {self.folder}", leave=False, disable=None)
            images = np.stack([self._decode(index) for index in bar])
            cache = write_cache(self.folder, images, state)
        images, whole = cache["images"], cache["archive_size"]
        others = [name for name in os.listdir(self.folder) if OTHER_IMAGE.fullmatch(name)]
        warnings = []
        if len(images) < whole:
            command = f"python dataset.py --data_dir {self.folder.parent}"
            warnings.append(f"has {len(images):,} of its archive's {whole:,} images; see {command}")
        if images.mean() > 127:
            warnings.append("is mostly bright, but ink must be white (255) on black (0)")
        if others:
            warnings.append(f"has {len(others)} images that are ignored, such as {min(others)}")
        for warning in warnings:
            print(f"warning: {self.folder} {warning}", file=sys.stderr)
        return torch.from_numpy(images)


# --- Tensors in memory ------------------------------------------------------------------------


class Split(NamedTuple):
    """Images and their labels, int64 [N].

    The images are uint8 [N, 28, 28] as loaded, float32 [N, 1, 28, 28] once prepared.
    """

    images: torch.Tensor
    labels: torch.Tensor


@functools.cache  # many runs in one process share the data
def _load_split(folder: Path) -> Split:
    dataset = MNIST(folder)
    return Split(dataset.images, dataset.labels)


def load_splits(data_dir: str, val_size: int) -> tuple[Split, Split]:
    """Return the images to train on and those to evaluate on, extracted first if need be.

    These are the train and the test split; with a val_size, the train split's images but for its
    last val_size ones, and those: the test split is not touched.

    Raises:
        UserError: if there is no data or it can't be read, or val_size leaves nothing to train on.
    """
    train = _load_split(Path(data_dir) / "train")
    if not val_size:
        return train, _load_split(Path(data_dir) / "test")
    size = len(train.labels) - val_size
    if size < 1:
        raise UserError(f"--val_size {val_size}: leaves none of {len(train.labels)} to train on")
    images, labels = train
    return Split(images[:size], labels[:size]), Split(images[size:], labels[size:])


def digest(split: Split) -> str:
    """Return a SHA-256 digest of a loaded split's images and labels, in hexadecimal."""
    content = hashlib.sha256(split.images.numpy().tobytes())
    content.update(split.labels.numpy().tobytes())
    return content.hexdigest()


def describe_data(data_dir: str, val_size: int = 0) -> str:
    """Return which images these are: MNIST if they are the shipped ones, else their folder."""
    training, evaluation = load_splits(data_dir, val_size)
    names = SPLITS[:1] if val_size else SPLITS
    splits = {name: _load_split(Path(data_dir) / name) for name in names}
    shipped = all(digest(split) == SHIPPED[name] for name, split in splits.items())
    name, kind = "MNIST" if shipped else f"folder {data_dir}", "validation" if val_size else "test"
    return f"{name}, {len(training.labels):,} training and {len(evaluation.labels):,} {kind} images"


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Map pixels uint8 [N, 28, 28] to float32 [N, 1, 28, 28]: (pixel / 255 - 0.1307) / 0.3081."""
    return images.unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


def prepare(split: Split, deskewed: bool, device: torch.device) -> Split:
    """Return a loaded split on the device, its images normalised and, if asked for, deskewed."""
    images = normalise(split.images).to(device)
    return Split(deskew(images) if deskewed else images, split.labels.to(device))


class Batches:
    """The batches of one split, gathered from tensors that stay on the device.

    Args:
        split: prepared images and labels.
        batch_size: images per batch; the last batch holds what is left.
        generator: of the order, a new one each time through; None keeps the order.
        augmentation: changes every image at random, anew each time through; needs a generator.

    Iterating yields (images [B, 1, 28, 28], labels [B], size): this process's share and the size
    of the whole batch. With one process B is the size; with several it may be 0.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        generator: torch.Generator | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.images, self.labels = split
        self.batch_size, self.generator, self.augmentation = batch_size, generator, augmentation
        self.share = slice(rank(), None, world_size())  # of every batch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        count, device = len(self.labels), self.labels.device
        order = torch.arange(count)
        coefficients: Any = repeat(None)
        if self.generator:
            # Drawn on the CPU, so that a seed means the same order on every device, and for the
            # whole epoch, so that any number of processes divides up the same augmentations.
            order = torch.randperm(count, generator=self.generator)
            if self.augmentation:
                coefficients = self.augmentation.draw(count, self.generator).to(device)
                coefficients = coefficients.split(self.batch_size)
        for batch, rows in zip(order.to(device).split(self.batch_size), coefficients, strict=False):
            mine = batch[self.share]
            images = self.images[mine]
            if self.augmentation and len(mine):
                images = self.augmentation(images, rows[self.share])
            yield images, self.labels[mine], len(batch)


# --- The command ------------------------------------------------------------------------------


def pack(name: str, data_dir: Path) -> Path:
    """Fetch a dataset with torchvision and pack it as train.tar.xz and test.tar.xz.

    torchvision keeps the original files in data_dir/NAME/raw, and uses those that lie there.

    Returns:
        The folder of the archives: data_dir for MNIST, data_dir/NAME for the others.

    Raises:
        UserError: if the original files can't be had.
    """
    from torchvision import datasets

    folder = data_dir if name == "MNIST" else data_dir / name
    for split in SPLITS:
        if archives := find_archives(folder / split):
            print(f"{archives[0]} is there already, not packed again")
            continue
        try:
            source = getattr(datasets, name)(data_dir, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{name}: cannot be fetched ({error}); check the network, or put the original "
                f"files into {data_dir / name / 'raw'}"
            ) from error
        labels = source.targets if source.targets.ndim == 1 else source.targets[:, 0]  # QMNIST
        write_archive(folder / f"{split}.tar.xz", split, source.data.numpy(), labels.tolist())
    return folder


def main() -> None:
    """Pack if asked to, extract what is missing, print the lengths and draw samples."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", default="data", help="folder of the archives")
    parser.add_argument("--dataset", choices=DATASETS, help="dataset to fetch and pack first")
    flags = parser.parse_args()
    data_dir = Path(flags.data_dir)
    if flags.dataset:
        data_dir = pack(flags.dataset, data_dir)
    folders = [data_dir / split for split in SPLITS]
    added = extract_missing(folders)
    for folder in folders:
        print(f"{folder}: {'extracted' if folder in added else 'all in place, nothing to do'}")
    splits = {folder.name: MNIST(folder) for folder in folders}
    for name, split in splits.items():
        print(f"{name} dataset length: {len(split)}")
    path, train = PLOTS / "samples.png", splits["train"]
    if added or not path.exists():
        from utils.plots import plot_samples  # here, as it takes a while and is not always needed

        atomic_write(path, plot_samples(train.images.numpy(), train.labels.tolist()))
    print(path)


if __name__ == "__main__":
    run_command(main)
