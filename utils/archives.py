"""28x28 PNG images named {ID}_{Label}.png, in tar archives and in folders."""

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.classes import CLASSES
from utils.distributed import warn
from utils.files import UserError, atomic_write

SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")  # the user's own plain .tar first
OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open}
MAX_ARCHIVE_BYTES = 2**31  # unpacked: 1.4 million images; a few bytes can unpack to any size


def progress(items: Iterable, text: str) -> Iterable:
    """Return the items, with a progress bar while a terminal watches."""
    return tqdm(items, text, unit=" images", leave=False, disable=None)


# --- One image --------------------------------------------------------------------------------


def parse_name(name: str) -> tuple[int, int]:
    """Return (ID, label) of a file name {ID}_{Label}.png; ValueError says what is wrong with it."""
    match = re.fullmatch(r"([0-9]{1,18})_([0-9]{1,9})\.png", name)
    if not match:
        raise ValueError("the name is not {ID}_{Label}.png")
    if int(match[2]) >= len(CLASSES):
        known = f"0 to {len(CLASSES) - 1}, the CLASSES of utils/classes.py"
        raise ValueError(f"the label {match[2]} is not {known}")
    return int(match[1]), int(match[2])


def decode_png(content: bytes) -> np.ndarray:
    """Return the pixels of a 28x28, 8-bit grey PNG as uint8 [28, 28]; ValueError if it is not."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()  # the checksums, which are not looked at when pixels are read
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size == (28, 28) and image.mode == "L":
                return np.frombuffer(image.tobytes(), np.uint8).reshape(28, 28)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise ValueError("it is not a PNG image, or damaged") from error
    width, height = image.size
    raise ValueError(f"it has {width}x{height} pixels ({image.mode}), not 28x28 of 8-bit grey (L)")


def encode_png(pixels: np.ndarray) -> bytes:
    """Return an image uint8 [28, 28] as a PNG, stored so that xz can compress across images."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", compress_level=0)
    return content.getvalue()


def decode_files(source: Path, files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels uint8 [N, 28, 28] and labels int64 [N] of files that a source holds.

    Raises:
        UserError: naming the first file that is not such an image.
    """
    images = np.empty((len(files), 28, 28), np.uint8)
    labels = np.array([parse_name(name)[1] for name in files])
    for index, (name, content) in enumerate(progress(files.items(), f"decoding {source}")):
        try:
            images[index] = decode_png(content)
        except ValueError as error:
            raise UserError(f"{source}: {name}: {error}; repair or remove the image") from error
    return images, labels


# --- Archives ---------------------------------------------------------------------------------


def read_archive(path: Path, folder: str = "") -> tuple[str, dict[str, bytes]]:
    """Return the folder that an archive's members are in, and its files by name, sorted by ID.

    It is all of them or an error; no name in the archive is used as a path. The path's ending says
    how it is compressed. All members must be in the same folder, the given one if any is.

    Raises:
        UserError: naming archive and member, for whatever is not named as an image, is there twice
            or is damaged, and for an archive without images.
    """
    place = "not a readable archive of its kind"
    files: dict[int, tuple[str, bytes]] = {}  # by ID
    try:
        content = _unpack(path)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                place = f"member {member.name!r}"
                if tar.offset <= member.offset:  # tarfile would read the same members for ever
                    raise ValueError("its size is below zero")
                if _is_ignored(member):
                    continue
                folder, name = _split_name(member, folder)
                image_id, _ = parse_name(name)
                if image_id in files:
                    raise ValueError(f"the ID {image_id} is there twice")
                end = member.offset_data + member.size
                files[image_id] = name, content[member.offset_data : end]
            # tarfile takes a broken header or a hole for the end. The true one is one or two blocks
            # of zeros, and as many as fill up a record.
            rest = content[tar.offset :]
            longest = tarfile.BLOCKSIZE + tarfile.RECORDSIZE
            if not tarfile.BLOCKSIZE <= len(rest) <= longest or any(rest):
                raise ValueError("the archive breaks off or is damaged after this member")
    except (MemoryError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # tarfile and the compressions raise many kinds for damaged files
        raise UserError(
            f"{path}: {place}: {str(error) or type(error).__name__}; repair or replace the archive"
        ) from error
    if not files:
        raise UserError(f"{path}: no images {folder or 'train'}/{{ID}}_{{Label}}.png in it")
    return folder, dict(files[image_id] for image_id in sorted(files))


def _unpack(path: Path) -> bytes:
    """Return the tar in an archive: at once, so that a compressed one is checked to its end."""
    content = bytearray()
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        while chunk := file.read(2**20):
            content += chunk
            if len(content) > MAX_ARCHIVE_BYTES:
                raise ValueError(f"more than {MAX_ARCHIVE_BYTES:,} bytes when unpacked")
    return bytes(content)


def _is_ignored(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a folder or what macOS and Windows add."""
    parts = member.name.split("/")
    added = ("._", ".DS_Store", "Thumbs.db", "desktop.ini")
    return member.isdir() or parts[0] == "__MACOSX" or parts[-1].startswith(added)


def _split_name(member: tarfile.TarInfo, folder: str) -> tuple[str, str]:
    """Return folder and file name of an image's member; ValueError if it is none."""
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ValueError("a link, a device or another special file")
    match = re.fullmatch(r"(?:\./)*([^/\\]+)/([^/\\]+)", member.name)
    if not match or folder not in ("", match[1]):
        raise ValueError(f"the name is not {folder or 'train'}/{{ID}}_{{Label}}.png")
    return match[1], match[2]


def write_archive(path: Path, folder: str, images: Iterable[tuple[bytes, int]]) -> None:
    """Pack (PNG file, label) pairs as {folder}/{ID}_{Label}.png, ID from 0.

    The same input gives the same bytes; they are xz-compressed if the path ends so.

    Raises:
        UserError: if the disk is full or the place can't be written.
    """
    packed = io.BytesIO()
    mode: Any = "w:xz" if path.suffix == ".xz" else "w"
    with tarfile.open(fileobj=packed, mode=mode, format=tarfile.USTAR_FORMAT) as tar:
        for image_id, (content, label) in enumerate(progress(images, f"packing {path}")):
            # A new TarInfo has time 0, owner 0 and mode 644.
            member = tarfile.TarInfo(f"{folder}/{image_id:05d}_{label}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    atomic_write(path, packed.getbuffer())


# --- Folders ----------------------------------------------------------------------------------


def warn_of_paper(source: Path, images: np.ndarray) -> None:
    """Warn if images uint8 [N, 28, 28] look as if their ink were dark on bright paper."""
    if images.mean() > 127:
        warn(f"{source} is mostly bright, but ink must be white (255) on black (0)")


def find_archives(folder: Path) -> list[Path]:
    """Return the archives beside a folder; the first is the one that is used."""
    paths = [folder.with_name(folder.name + suffix) for suffix in SUFFIXES]
    return [path for path in paths if path.is_file()]


def list_images(folder: Path) -> list[str]:
    """Return the file names of a folder's images, sorted by ID; other files are ignored."""
    ids: dict[int, str] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        if name.startswith(".") or not name.endswith(".png"):
            continue
        try:
            image_id, _ = parse_name(name)
        except ValueError as error:
            raise UserError(f"{folder / name}: {error}; rename or remove the file") from error
        if image_id in ids:
            raise UserError(
                f"{folder / name}: {ids[image_id]} has the same ID; give it another one, or put "
                "each person's images into a folder and join them: python dataset.py --merge"
            )
        ids[image_id] = name
    return [ids[image_id] for image_id in sorted(ids)]


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder's images by name, sorted by ID; UserError if there are none."""
    names = list_images(folder)
    if names:
        return {name: (folder / name).read_bytes() for name in names}
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    there = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
    raise UserError(
        f"{folder.absolute()}: no images such as 00000_5.png (ID and label); put them there, or an "
        f"archive {folder.name}.tar of them in the folder's place; {place} holds "
        f"{', '.join(there[:3]) or 'nothing'}{', ...' if len(there) > 3 else ''}; --data_dir is "
        "the folder that holds train and test; for MNIST itself: python dataset.py --dataset MNIST"
    )
