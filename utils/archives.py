"""28x28 PNG images named {ID}_{Label}.png, in tar archives and in folders."""

import bz2
import gzip
import io
import lzma
import os
import re
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.classes import CLASSES
from utils.files import UserError, atomic_write

SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")  # the user's own plain .tar first
OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open}

IMAGE_NAME = re.compile(r"([0-9]{1,18})_([0-9]{1,9})\.png")
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
MAX_ARCHIVE_BYTES = 2**31  # unpacked: 1.4 million images; a few bytes can unpack to any size


def progress(items: Iterable, text: str) -> Iterable:
    """Return the items, with a progress bar while a terminal watches."""
    return tqdm(items, text, unit=" images", leave=False, disable=None)


# --- One image --------------------------------------------------------------------------------


def parse_name(name: str) -> tuple[int, int]:
    """Return (ID, label) of a file name {ID}_{Label}.png; ValueError says what is wrong with it."""
    match = IMAGE_NAME.fullmatch(name)
    if not match:
        raise ValueError("the name is not {ID}_{Label}.png")
    if int(match[2]) >= len(CLASSES):
        raise ValueError(f"the label {match[2]} is not 0 to {len(CLASSES) - 1}")
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
        _check_sums(content)  # as Pillow would skip those of the pixels
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return np.frombuffer(image.tobytes(), np.uint8).reshape(28, 28)
    except Exception as error:  # whatever Pillow raises for a broken file
        raise ValueError("the PNG image is damaged") from error


def _check_sums(content: bytes) -> None:
    """Raise ValueError or struct.error unless every chunk of a PNG has the checksum it states."""
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if struct.unpack_from(">I", content, end)[0] != zlib.crc32(content[position + 4 : end]):
            raise ValueError("a checksum is wrong")
        position = end + 4


def encode_png(pixels: np.ndarray) -> bytes:
    """Return an image uint8 [28, 28] as a PNG, stored so that xz can compress across images."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", compress_level=0)
    return content.getvalue()


def decode_files(source: Path, files: dict[str, bytes]) -> np.ndarray:
    """Return the pixels uint8 [N, 28, 28] of the PNG files that were read from a source.

    Raises:
        UserError: naming the first file that is not such an image.
    """
    images = np.empty((len(files), 28, 28), np.uint8)
    for index, (name, content) in enumerate(progress(files.items(), f"decoding {source}")):
        try:
            images[index] = decode_png(content)
        except ValueError as error:
            raise UserError(f"{source}: {name}: {error}; repair or remove the image") from error
    return images


# --- Archives ---------------------------------------------------------------------------------


def find_archives(folder: Path) -> list[Path]:
    """Return the archives beside a folder; the first is the one that is used."""
    paths = [folder.with_name(folder.name + suffix) for suffix in SUFFIXES]
    return [path for path in paths if path.is_file()]


def read_archive(path: Path, folder: str = "") -> tuple[str, dict[str, bytes]]:
    """Return the folder that an archive's members are in, and its files by name, sorted by ID.

    It is all of them or an error. No name in the archive is used as a path.

    Args:
        path: of the archive; its ending says how it is compressed.
        folder: that all members must be in; by default any, but the same for all.

    Raises:
        UserError: naming archive and member, for whatever is not named as an image, is there twice
            or is damaged, and for an archive without images.
    """
    where = "not a readable archive of its kind"
    files: dict[int, tuple[str, bytes]] = {}  # by ID
    try:
        unpacked = _unpack(path)
        content = unpacked.getbuffer()
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            for member in progress(tar, f"reading {path}"):
                where = f"member {member.name!r}"
                if tar.offset <= member.offset:  # tarfile would read the same members for ever
                    raise ValueError("its size is below zero")
                if _is_ignored(member):
                    continue
                folder, name = _split_name(member, folder)
                image_id, _ = parse_name(name)
                if image_id in files:
                    raise ValueError(f"the ID {image_id} is there twice")
                files[image_id] = name, bytes(content[member.offset_data :][: member.size])
            _check_end(content[tar.offset :])
    except Exception as error:  # tarfile and the compressions raise many kinds for damaged files
        raise UserError(
            f"{path}: {where}: {str(error) or type(error).__name__}; repair or replace the archive"
        ) from error
    if not files:
        raise UserError(f"{path}: no images {folder or 'train'}/{{ID}}_{{Label}}.png in it")
    return folder, dict(files[image_id] for image_id in sorted(files))


def _unpack(path: Path) -> io.BytesIO:
    """Return the tar in an archive: at once, so that a compressed one is checked to its end."""
    unpacked = io.BytesIO()
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        while chunk := file.read(2**20):
            unpacked.write(chunk)
            if unpacked.tell() > MAX_ARCHIVE_BYTES:
                raise ValueError(f"more than {MAX_ARCHIVE_BYTES:,} bytes when unpacked")
    unpacked.seek(0)
    return unpacked


def _is_ignored(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a folder or what macOS adds."""
    parts = member.name.split("/")
    return member.isdir() or parts[0] == "__MACOSX" or parts[-1].startswith(("._", ".DS_Store"))


def _split_name(member: tarfile.TarInfo, folder: str) -> tuple[str, str]:
    """Return folder and file name of an image's member; ValueError if it is none."""
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ValueError("a link, a device or another special file")
    match = re.fullmatch(r"(?:\./)*([^/\\]+)/([^/\\]+)", member.name)
    if not match or folder not in ("", match[1]):
        raise ValueError(f"the name is not {folder or 'train'}/{{ID}}_{{Label}}.png")
    return match[1], match[2]


def _check_end(rest: memoryview) -> None:
    """Raise ValueError unless a tar ends as it should after its last member.

    tarfile takes a broken header or a hole for the end. The true one is one or two blocks of
    zeros, and as many as fill up a record.
    """
    longest = tarfile.BLOCKSIZE + tarfile.RECORDSIZE
    if not tarfile.BLOCKSIZE <= len(rest) <= longest or any(rest):
        raise ValueError("the archive breaks off or is damaged after this member")


def write_archive(path: Path, folder: str, images: Iterable[tuple[bytes, int]]) -> None:
    """Pack images as {folder}/{ID}_{Label}.png, ID from 0; the same input, the same bytes.

    Args:
        path: of the archive; xz-compressed if it ends so.
        folder: that its members are in.
        images: (PNG file, label) of each.

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
    if not names:
        raise no_images(folder)
    return {name: (folder / name).read_bytes() for name in progress(names, f"reading {folder}")}


def no_images(folder: Path) -> UserError:
    """Return the error for a folder without images: where it is, what was seen, what to do."""
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    paths = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    folders = [path.name for path in paths if path.is_dir()]
    endings = Counter(path.suffix or path.name for path in paths if not path.is_dir())
    seen = [f"{count} {ending}" for ending, count in endings.items()]
    if folders:
        more = ", ..." if len(folders) > 3 else ""
        seen.append(f"folders: {', '.join(folders[:3])}{more}")
    advice = (
        "put 28x28 grey PNG files such as 00000_5.png (ID and label) right there, or an archive of "
        f"them as {folder.name}.tar beside it; --data_dir is the folder that holds train and test; "
        "for MNIST itself: python dataset.py --dataset MNIST"
    )
    for archive in find_archives(folder)[:1]:
        advice = f"remove the folder to extract {archive.name}"
    return UserError(
        f"{folder.absolute()}: no images {{ID}}_{{Label}}.png there; {place} holds "
        f"{', '.join(seen) or 'nothing'}; {advice}"
    )
