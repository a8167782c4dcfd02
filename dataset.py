"""MNIST from tar archives of {ID}_{Label}.png images: extraction, dataset, batches.

    python dataset.py                          extract data/train.tar* and data/test.tar*
    python dataset.py --data_dir DIR           the same in another folder
    python dataset.py --dataset FashionMNIST   fetch a dataset, pack and extract it in data/NAME
    python dataset.py --merge a.tar b.tar --data_dir class
                                               join several people's images in class/train.tar

An archive train.tar (or .tar.xz, .tar.gz, .tgz, .tar.bz2) holds train/00000_5.png and so on:
28x28, 8-bit grey, ink white (255) on black (0). It is checked as a whole before anything appears
in the data folder.
"""

from utils.command import run_command  # isort: split

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from utils.archives import (
    decode_files,
    encode_png,
    find_archives,
    read_archive,
    read_folder,
    warn_of_paper,
    write_archive,
)
from utils.augment import Augmentation, deskew
from utils.cache import load_images
from utils.distributed import is_first, rank, warn, world_size
from utils.files import PLOTS, UserError, atomic_write, named
from utils.settings import Parser

SPLITS = ("train", "test")
DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST")
# Digests of the splits in data/, which are the original MNIST.
SHIPPED = {
    "train": "d18cfd466eb143ac1097fde604dba9eec4116885869d04cc648b510949f9e88c",
    "test": "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891",
}
MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to [0, 1]


class MNIST(Dataset):
    """The images of a folder, sorted by ID, as a map-style dataset.

    Where the folder is not there yet, the archive beside it is extracted first:
    MNIST("data/train") looks for data/train.tar, data/train.tar.xz and so on.

    Args:
        folder: of files {ID}_{Label}.png.
        transform: from a PIL image to what __getitem__ returns in its place; by default to
            float32 [1, 28, 28], normalised.

    Its names (list of str), images (uint8 [N, 28, 28]) and labels (int64 [N]) are attributes.
    """

    def __init__(self, folder: str | Path, transform: Callable | None = None) -> None:
        self.folder, self.transform = named(Path(folder)), transform
        try:
            loaded = load_images(self.folder)
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: {error.strerror or error}: free some space there or "
                "make the folder readable and writable, then run again"
            ) from error
        self.names: list[str] = loaded.names.tolist()
        self.images = torch.from_numpy(loaded.images)
        self.labels = torch.from_numpy(loaded.labels)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index], int(self.labels[index])
        if self.transform:
            return self.transform(Image.fromarray(image.numpy())), label
        return normalise(image.unsqueeze(0)).squeeze(0), label


# --- Tensors in memory ------------------------------------------------------------------------


class Split(NamedTuple):
    """Images and their labels, int64 [N].

    The images are uint8 [N, 28, 28] as loaded, float32 [N, 1, 28, 28] once prepared.
    """

    images: torch.Tensor
    labels: torch.Tensor


def load_splits(data_dir: str, val_size: int) -> tuple[Split, Split]:
    """Return the images to train on and those to evaluate on: the train and the test split.

    With a val_size both come from the train split, and the test split is not touched: the shipped
    MNIST is validated on its last val_size images, as is the convention; other data on the last
    images of every class, of each class about the same share.
    """
    folder = MNIST(Path(data_dir) / "train")
    train = Split(folder.images, folder.labels)
    if not val_size:
        test = MNIST(Path(data_dir) / "test")
        if is_first():  # others would compare all images for a warning that they do not print
            warn_of_leak(data_dir, train.images, test.images)
        return train, Split(test.images, test.labels)
    if val_size >= len(folder):
        raise UserError(f"--val_size {val_size}: leaves none of {len(folder)} to train on")
    from_the_end = torch.arange(val_size)
    if digest(train) != SHIPPED["train"]:
        from_the_end = nested_order(train.labels.flip(0))[:val_size]
    chosen = torch.zeros(len(folder), dtype=torch.bool)
    chosen[len(folder) - 1 - from_the_end] = True
    training = Split(train.images[~chosen], train.labels[~chosen])
    return training, Split(train.images[chosen], train.labels[chosen])


def warn_of_leak(data_dir: str, training: torch.Tensor, test: torch.Tensor) -> None:
    """Warn if test images, uint8 [N, 28, 28], are training images, too: they may be remembered."""
    known = {image.tobytes() for image in training.numpy()}
    if count := sum(image.tobytes() in known for image in test.numpy()):
        text = "test images are training images, too; remove them from one of the two"
        warn(f"{data_dir}: {count:,} of {len(test):,} {text}")


def nested_order(labels: torch.Tensor) -> torch.Tensor:
    """Return an order, int64 [N], whose first n images have the class shares of the whole.

    The j-th of a class's m images stands at (j - 1/2) / m, and images are sorted by that. So the
    first n hold the first images of each class, as many as Sainte-Lague's method allots.
    """
    places = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        of_class = labels == label
        count = int(of_class.sum())
        places[of_class] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return places.argsort(stable=True)


def digest(split: Split) -> str:
    """Return a SHA-256 digest of a loaded split's images and labels, in hexadecimal."""
    content = hashlib.sha256(split.images.numpy().tobytes())
    content.update(split.labels.numpy().tobytes())
    return content.hexdigest()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Map pixels uint8 [N, 28, 28] to float32 [N, 1, 28, 28]: (pixel / 255 - 0.1307) / 0.3081."""
    return (images.unsqueeze(1) / 255).sub_(MEAN).div_(STD)


def prepare(split: Split, deskewed: bool, device: torch.device) -> Split:
    """Return a loaded split on the device, its images normalised and, if asked for, deskewed."""
    images = normalise(split.images).to(device)
    if deskewed:  # in parts, as the grids of all at once would take much memory
        images = torch.cat([deskew(part) for part in images.split(1000)])
    return Split(images, split.labels.to(device))


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
        order, coefficients = torch.arange(count), torch.empty(0)
        if self.generator:
            # Drawn on the CPU, so that a seed means the same order on every device, and for the
            # whole epoch, so that any number of processes divides up the same augmentations.
            order = torch.randperm(count, generator=self.generator)
            if self.augmentation:
                coefficients = self.augmentation.draw(count, self.generator).to(device)
        order = order.to(device)
        for start in range(0, count, self.batch_size):
            batch = slice(start, start + self.batch_size)
            mine = order[batch][self.share]
            images = self.images[mine]
            if self.augmentation and len(mine):
                images = self.augmentation(images, coefficients[batch][self.share])
            yield images, self.labels[mine], len(order[batch])


# --- The command ------------------------------------------------------------------------------


def pack(name: str, data_dir: Path) -> Path:
    """Fetch a dataset with torchvision and pack it as archives; returns their folder.

    torchvision keeps the original files in data_dir/NAME/raw, and uses those that lie there.
    """
    from torchvision import datasets

    folder = data_dir if name == "MNIST" else data_dir / name
    for split in SPLITS:
        if archives := find_archives(folder / split):
            print(f"{archives[0]} is there already, not packed again")
            continue
        try:
            source = getattr(datasets, name)(data_dir, train=split == "train", download=True)
        except Exception as error:  # torchvision raises many kinds for files that are damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raw = data_dir / name / "raw"
            raise UserError(
                f"{name}: cannot be fetched ({reason}); check the network, or put the original "
                f"files into {raw}; if they are there, remove those that are damaged"
            ) from error
        labels = source.targets if source.targets.ndim == 1 else source.targets[:, 0]  # QMNIST
        images = zip(map(encode_png, source.data.numpy()), labels.tolist(), strict=True)
        write_archive(folder / f"{split}.tar.xz", split, images)
    return folder


def merge(sources: list[Path], data_dir: Path) -> None:
    """Join archives, or folders named train or test, as data_dir/train.tar or data_dir/test.tar.

    The images keep their order and get new IDs, from 0. The same image again is left out, as
    each download of a person's holds the earlier images too.
    """
    joined, count = "", 0
    images: dict[bytes, int] = {}  # PNG file -> label
    for source in map(Path.absolute, sources):
        if source.is_dir():
            split, files = source.name, read_folder(source)
        else:
            split, files = read_archive(source)
        joined = joined or split
        if split not in SPLITS or split != joined:
            raise UserError(f"{source}: has images of {split!r}; give those of train or of test")
        pixels, labels = decode_files(source, files)  # each must be such an image
        warn_of_paper(source, pixels)
        count += len(files)
        for (name, content), label in zip(files.items(), labels.tolist(), strict=True):
            if images.setdefault(content, label) != label:
                raise UserError(
                    f"{source}: {name} is labelled {label}, but {images[content]} in a file before "
                    "it or earlier in this one; remove the wrong one"
                )
    for path in (data_dir / joined, *find_archives(data_dir / joined)):
        if path.exists():
            raise UserError(f"{path}: is there already; remove it or choose another --data_dir")
    target = data_dir / f"{joined}.tar"
    write_archive(target, joined, images.items())
    print(f"{target}: {len(images):,} images; {count - len(images):,} were there twice")


def main() -> None:
    """Merge archives; or pack if asked to, extract what is missing, and draw samples."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", default="data", help="folder of the archives")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--dataset", choices=DATASETS, help="dataset to fetch and pack first")
    actions.add_argument(
        "--merge", nargs="+", type=Path, metavar="FILE", help="archives or folders to join"
    )
    flags = parser.parse_args()
    data_dir = Path(flags.data_dir)
    if flags.merge:
        merge(flags.merge, data_dir)
        return
    if flags.dataset:
        data_dir = pack(flags.dataset, data_dir)
    splits = {split: MNIST(data_dir / split) for split in SPLITS}
    for name, split in splits.items():
        print(f"{name} dataset length: {len(split)}")
    from utils.plots import plot_samples  # here, as it takes a while to import

    path, train = PLOTS / "samples.png", splits["train"]
    atomic_write(path, plot_samples(train.images.numpy(), train.labels.tolist()))
    print(path)


if __name__ == "__main__":
    run_command(main)
