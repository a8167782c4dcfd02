"""MNIST from tar archives of {ID}_{Label}.png images: extracting, reading, batching, packing.

    python dataset.py                          extract data/train.tar* and data/test.tar*
    python dataset.py --data_dir DIR           the same in another folder
    python dataset.py --dataset FashionMNIST   fetch a dataset, pack and extract it in data/NAME

An archive train.tar (or .tar.xz, .tar.gz, .tgz, .tar.bz2) holds train/00000_5.png and so on:
28x28, 8-bit grey. It is checked whole before anything appears in the data folder.
"""

import bz2
import getpass
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from augment import Warp
from files import Parser, UserError, command, write_whole

SPLITS = ("train", "test")
SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")  # the user's own plain .tar first
DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST")
MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to [0, 1]

IMAGE_NAME = re.compile(r"([0-9]{1,18})_([0-9]+)\.png")
MAX_MEMBER_BYTES = 64 * 1024  # a stored 28x28 PNG has 880 bytes; the rest is room for metadata
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
READ_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)
READ_ERRORS += (RecursionError, IndexError)  # what tarfile lets slip for forged headers


# --- One image --------------------------------------------------------------------------------


def parse_name(name: str) -> tuple[int, int]:
    """Return (ID, label) of a file name {ID}_{Label}.png; ValueError says what is wrong with it."""
    match = IMAGE_NAME.fullmatch(name)
    if not match:
        raise ValueError("the name is not {ID}_{Label}.png")
    if int(match[2]) > 9:
        raise ValueError(f"the label {match[2][:20]} is not 0 to 9")
    return int(match[1]), int(match[2])


def decode_png(content: bytes) -> np.ndarray:
    """Return the pixels of a 28x28, 8-bit grey PNG as uint8 [28, 28]; ValueError if it is not."""
    # The header is read first, so that no decoder ever meets an image of another size or kind.
    if not content.startswith(PNG_START) or len(content) < 33:
        raise ValueError("it is not a PNG image")
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    if (width, height) != (28, 28):
        raise ValueError(f"it has {width}x{height} pixels, not 28x28")
    if (depth, colour) != (8, 0):
        raise ValueError("it is not 8-bit grey (save it as greyscale, without transparency)")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()  # the checksums; the image must be opened again after it
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ValueError("the PNG image is damaged") from error


# --- Archives ---------------------------------------------------------------------------------


def find_archive(folder: Path) -> Path | None:
    """Return the archive beside a folder, or None; where there are many, say which is used."""
    paths = [folder.with_name(folder.name + suffix) for suffix in SUFFIXES]
    paths = [path for path in paths if path.is_file()]
    if len(paths) > 1:
        print(f"using {paths[0]}, not {', '.join(path.name for path in paths[1:])}")
    return paths[0] if paths else None


class _BoundedReader:
    """A file whose single reads are bounded, as a forged header can ask tarfile for any size."""

    def __init__(self, file) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read = file.read
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > 2**20:
            raise ValueError(f"a header asks for {size:,} bytes")
        self.last = self._read(size)
        return self.last


@contextmanager
def _open_archive(path: Path) -> Iterator[_BoundedReader]:
    """Open an archive's file, decompressed, with a progress bar over its bytes."""
    openers = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open}
    bar = {"desc": f"reading {path}", "leave": False, "disable": None}
    with (
        open(path, "rb") as file,
        tqdm.wrapattr(file, "read", total=path.stat().st_size, **bar) as watched,
        openers.get(path.suffix, nullcontext)(watched) as content,
    ):
        yield _BoundedReader(content)


def _check_member(member: tarfile.TarInfo, split: str) -> None:
    """Raise ValueError for whatever is neither an image's file nor the folder of the split."""
    parts = member.name.split("/")
    if member.name.startswith("/") or re.match(r"[A-Za-z]:|\\", member.name):
        raise ValueError("an absolute name")
    if ".." in parts:
        raise ValueError("a name that leads out of the folder")
    if member.issym() or member.islnk():
        raise ValueError("a link")
    if not (member.isreg() or member.isdir()):
        raise ValueError("a device or another special file")
    tarfile.data_filter(member, tempfile.gettempdir())
    parts = [part for part in parts if part not in ("", ".")]
    if parts[:1] not in ([], [split]) or len(parts) != (2 if member.isreg() else len(parts[:1])):
        raise ValueError(f"the name is not {split}/{{ID}}_{{Label}}.png")
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{member.size:,} bytes are too many for a 28x28 image")


def _bad_archive(path: Path, member: str | None, error: Exception) -> UserError:
    where = f"member {member!r}" if member else "not a readable archive of its kind"
    return UserError(
        f"{path}: {where}: {str(error) or type(error).__name__}; nothing was extracted, "
        "repair or replace the archive"
    )


def read_archive(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of every image of an archive, each member checked first.

    Raises:
        UserError: naming archive and member, for whatever is unsafe, not an image's name,
            there twice, or damaged; and at the end if there was no image at all.
    """
    last, seen = None, set()
    try:
        with _open_archive(path) as reader, tarfile.open(fileobj=reader, mode="r:") as tar:
            for member in tar:
                last = member.name
                _check_member(member, split)
                if member.isdir():
                    continue
                name = member.name.rsplit("/", 1)[-1]
                image_id, _ = parse_name(name)
                if image_id in seen:
                    raise ValueError(f"the ID {image_id} is there twice")
                seen.add(image_id)
                yield name, tar.extractfile(member).read()
            # tarfile takes a broken header for the end; the true end is a block of zeros.
            if reader.last != bytes(tarfile.BLOCKSIZE):
                raise ValueError("the archive breaks off or is damaged after this member")
            while reader.read(2**16):  # to the end, where the compressed formats keep checksums
                pass
    except READ_ERRORS as error:
        raise _bad_archive(path, last, error) from error
    if not seen:
        raise _bad_archive(path, None, ValueError(f"no images {split}/{{ID}}_{{Label}}.png in it"))


def _stage(archive: Path, folder: Path, staging: Path) -> np.ndarray | None:
    """Write and decode in one pass what the folder lacks; returns the images if it lacks all."""
    present = {parse_name(name)[0] for name in _image_names(folder)}
    images = {}
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    for name, content in read_archive(archive, folder.name):
        image_id, _ = parse_name(name)
        if image_id in present:
            continue
        try:
            images[image_id] = decode_png(content)
        except ValueError as error:
            raise _bad_archive(archive, f"{folder.name}/{name}", error) from error
        staging.mkdir(exist_ok=True)
        (staging / name).write_bytes(content)
    if present or not images:
        return None
    return np.stack([images[image_id] for image_id in sorted(images)])


def _publish(staging: Path, folder: Path) -> None:
    """Move the staged images into place: at once if there is no folder, else one by one."""
    if not folder.exists():
        staging.rename(folder)
        return
    for path in staging.iterdir():
        path.rename(folder / path.name)


def extract(folders: list[Path]) -> list[Path]:
    """Extract the archive of each folder into it, all of them or, at the first error, none.

    Every image is checked, decoded and written to a folder aside before the first appears in
    place; what is there already, by its ID, is left alone. One process at a time extracts, the
    others wait for it. A killed extraction is completed by the next.

    Returns:
        The folders to which images were added.

    Raises:
        UserError: for a missing or a bad archive, or a place that can't be written.
    """
    archives = {folder: find_archive(folder) for folder in folders}
    for folder, archive in archives.items():
        if archive is None and not _image_names(folder):
            raise UserError(
                f"{folder}: no images there, and no {folder.name}{{{','.join(SUFFIXES)}}} beside "
                "it to extract; take train.tar.xz and test.tar.xz from this project's data folder, "
                "or make them: python dataset.py --dataset MNIST"
            )
    staged = {f: _staging(f) for f, archive in archives.items() if archive}
    try:
        with _lock(folders[0].parent):
            try:
                images = {f: _stage(archives[f], f, staging) for f, staging in staged.items()}
                added = [folder for folder, staging in staged.items() if staging.exists()]
                for folder in added:
                    _publish(staged[folder], folder)
                    names = _image_names(folder)
                    if images[folder] is not None and len(images[folder]) == len(names):
                        _write_cache(folder, images[folder], _fingerprint(folder, names))
            finally:
                for staging in staged.values():
                    shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or folders[0].parent}: cannot be extracted ({error.strerror}): "
            "free some space there or make the folder writable, then run again"
        ) from error
    return added


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _lock(data_dir: Path) -> FileLock:
    """A lock on a data folder; it lies elsewhere, so that a refused archive leaves no trace."""
    key = hashlib.sha256(f"{getpass.getuser()} {data_dir.resolve()}".encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"mnist-{key}.lock")


# --- The extracted folder and its cache -------------------------------------------------------


def _image_names(folder: Path) -> list[str]:
    """Return the file names of a folder's images, sorted by ID; other files are none of ours."""
    if not folder.is_dir():
        return []
    ids = {}
    for name in os.listdir(folder):
        if name.startswith(".") or not name.endswith(".png"):
            continue
        try:
            image_id, _ = parse_name(name)
        except ValueError as error:
            raise UserError(f"{folder / name}: {error}; rename or remove the file") from error
        if image_id in ids:
            raise UserError(f"{folder / name}: {ids[image_id]} has the same ID; remove one of them")
        ids[image_id] = name
    return [ids[image_id] for image_id in sorted(ids)]


def _fingerprint(folder: Path, names: list[str]) -> str:
    """Digest names, sizes and times of the images: it differs once any of them does."""
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.name.endswith(".png")}
    times = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
    lines = [f"{name} {times.get(name, 'gone')}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _cache(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cache.npz")


def _write_cache(folder: Path, images: np.ndarray, fingerprint: str) -> None:
    """Keep the decoded images beside their folder; a folder that can't be written has no cache."""
    content = io.BytesIO()
    np.savez(content, images=images, fingerprint=np.array(fingerprint))
    try:
        write_whole(_cache(folder), content.getbuffer())
    except UserError as error:
        print(f"note: no cache, the next start decodes again: {error}", file=sys.stderr)


def _read_cache(folder: Path, fingerprint: str) -> np.ndarray | None:
    """Return the decoded images uint8 [N, 28, 28], or None where the folder has changed since."""
    try:
        with np.load(_cache(folder)) as cache:
            return cache["images"] if str(cache["fingerprint"]) == fingerprint else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # none there, or not one of ours: it is written anew


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
        self.names = _image_names(self.folder)
        if not self.names or _staging(self.folder).exists():
            extract([self.folder])
            self.names = _image_names(self.folder)
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

    @cached_property
    def images(self) -> torch.Tensor:
        """All images, uint8 [N, 28, 28]: from the cache, or decoded once and put there."""
        fingerprint = _fingerprint(self.folder, self.names)  # taken before the files are read
        images = _read_cache(self.folder, fingerprint)
        if images is None:
            bar = tqdm(range(len(self)), f"decoding {self.folder}", leave=False, disable=None)
            images = np.stack([self._decode(index) for index in bar])
            _write_cache(self.folder, images, fingerprint)
        return torch.from_numpy(images)


# --- Batches in memory ------------------------------------------------------------------------


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Map pixels uint8 [N, 28, 28] to float32 [N, 1, 28, 28]: (pixel / 255 - 0.1307) / 0.3081."""
    return images.unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


class Batches:
    """The batches of one split, gathered from tensors that stay on the device.

    Args:
        images: float32 [N, 1, 28, 28] on the device.
        labels: int64 [N] on the device.
        batch_size: images a batch; the last batch holds what is left.
        generator: of the order, a new one each time through; None keeps the order.
        warp: changes every image at random, anew each time through; needs a generator.
        rank, world_size: of many processes, which share out every batch.

    Iterating yields (images [B, 1, 28, 28], labels [B], size), this process's share and the size
    of the whole batch. B is size where there is one process, and may be 0 where there are many.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        generator: torch.Generator | None = None,
        warp: Warp | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.labels = images, labels
        self.batch_size, self.generator, self.warp = batch_size, generator, warp
        self.share = slice(rank, None, world_size)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        if self.generator is None:
            order = torch.arange(len(self.labels))
        else:
            # Drawn on the CPU, so that a seed means the same order on every device.
            order = torch.randperm(len(self.labels), generator=self.generator)
        device = self.labels.device
        batches = order.to(device).split(self.batch_size)
        warps = repeat(None)
        if self.warp:
            # Of the whole epoch, so that they are the same however many processes share them out.
            warps = self.warp.draw(len(order), self.generator).to(device).split(self.batch_size)
        for batch, coefficients in zip(batches, warps, strict=False):
            mine = batch[self.share]
            images = self.images[mine]
            if self.warp and len(mine):
                images = self.warp(images, coefficients[self.share])
            yield images, self.labels[mine], len(batch)


# --- Packing ----------------------------------------------------------------------------------


def write_archive(path: Path, split: str, images: np.ndarray, labels: list[int]) -> None:
    """Pack images uint8 [N, 28, 28] as {split}/{ID}_{Label}.png; the same input, the same bytes.

    The PNGs are stored, not compressed, so that xz can compress across the images.
    """
    content = io.BytesIO()
    with (
        lzma.open(content, "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        pairs = zip(images, labels, strict=True)
        bar = tqdm(pairs, f"packing {path}", total=len(labels), leave=False, disable=None)
        for image_id, (pixels, label) in enumerate(bar):
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "png", compress_level=0)
            # A new TarInfo has time 0, owner 0 and mode 644.
            member = tarfile.TarInfo(f"{split}/{image_id:05d}_{label}.png")
            member.size = png.tell()
            png.seek(0)
            tar.addfile(member, png)
    write_whole(path, content.getbuffer())


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
        archive = find_archive(folder / split)
        if archive:
            print(f"{archive} is there already, not packed again")
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
    """Pack if asked to, extract what is missing, tell the lengths and draw samples."""
    from figures import plot_samples

    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", default="data", help="folder of the archives")
    parser.add_argument("--dataset", choices=DATASETS, help="dataset to fetch and pack first")
    flags = parser.parse_args()
    data_dir = Path(flags.data_dir)
    if flags.dataset:
        data_dir = pack(flags.dataset, data_dir)
    folders = [data_dir / split for split in SPLITS]
    added = extract(folders)
    for folder in folders:
        print(f"{folder}: {'extracted' if folder in added else 'all in place, nothing to do'}")
    splits = {folder.name: MNIST(folder) for folder in folders}
    for name, split in splits.items():
        print(f"{name} dataset length: {len(split)}")
    print(plot_samples(splits["train"].images.numpy(), splits["train"].labels.tolist()))


if __name__ == "__main__":
    command(main)
