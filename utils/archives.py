"""Tar archives of 28x28 PNG images named {ID}_{Label}.png: read without trust, written packed."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from utils.files import UserError, atomic_write

SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")  # the user's own plain .tar first

IMAGE_NAME = re.compile(r"([0-9]{1,18})_([0-9]+)\.png")
MAX_MEMBER_BYTES = 64 * 1024  # a stored 28x28 PNG has 880 bytes; the rest is room for metadata
MAX_HEADER_BYTES = 2**20  # of tarfile's single reads; a forged header can ask for any size
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
READ_ERRORS = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError),
    *(RecursionError, IndexError, OverflowError),  # what tarfile lets slip for forged headers
)


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
        _check_sums(content)  # as Pillow would skip those of the pixels
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return np.frombuffer(image.tobytes(), np.uint8).reshape(28, 28)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
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


# --- Archives ---------------------------------------------------------------------------------


def find_archives(folder: Path) -> list[Path]:
    """Return the archives beside a folder; the first is the one that is used."""
    paths = [folder.with_name(folder.name + suffix) for suffix in SUFFIXES]
    return [path for path in paths if path.is_file()]


def archive_id(path: Path) -> str:
    """Return an archive's name, size and digest, which tell it from any other."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.name}, {path.stat().st_size:,} bytes, sha256 {digest}"


class _BoundedReader:
    """A file for tarfile that refuses huge reads and remembers the last block."""

    def __init__(self, file: Any) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"a header asks for {size:,} bytes")
        self.last = self._read(size)
        return self.last


@contextmanager
def _open_archive(path: Path) -> Iterator[_BoundedReader]:
    """Open an archive's file, decompressed, with a progress bar over its bytes."""
    openers: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open}
    openers[".bz2"] = bz2.open
    with (
        open(path, "rb") as file,
        tqdm.wrapattr(
            file, "read", path.stat().st_size, desc=f"reading {path}", leave=False, disable=None
        ) as watched,
        openers.get(path.suffix, nullcontext)(watched) as content,
    ):
        yield _BoundedReader(content)


def _image_name(member: tarfile.TarInfo, split: str | None) -> str | None:
    """Return the file name of an image's member, None for what is skipped; else ValueError."""
    parts = member.name.split("/")
    if member.isdir() or parts[0] == "__MACOSX" or parts[-1].startswith(("._", ".DS_Store")):
        return None
    if not member.isreg():
        raise ValueError("a link, a device or another special file")
    folder = "[^/]+" if split is None else re.escape(split)
    match = re.fullmatch(rf"(?:\./)*{folder}/([^/\\]+)", member.name)
    if not match:
        raise ValueError(f"the name is not {split or 'FOLDER'}/{{ID}}_{{Label}}.png")
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{member.size:,} bytes are too many for a 28x28 image")
    return match[1]


def _bad_archive(path: Path, member: str | None, error: Exception) -> UserError:
    """Return the error for an archive, naming the member at fault where there is one."""
    where = f"member {member!r}" if member else "not a readable archive of its kind"
    return UserError(
        f"{path}: {where}: {str(error) or type(error).__name__}; nothing was extracted, "
        "repair or replace the archive"
    )


def read_archive(path: Path, split: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of every image of an archive, in its order.

    No name in the archive is used as a path: only {ID}_{Label}.png in the split's folder is taken,
    in any folder if split is None.

    Raises:
        UserError: naming archive and member, for whatever is no image's file, is there twice or
            is damaged; at the end if there was no image at all.
    """
    last, seen = None, set()
    try:
        with _open_archive(path) as reader, tarfile.TarFile(fileobj=cast(IO, reader)) as tar:
            for member in iter(tar.next, None):
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all headers
                last = member.name
                if tar.offset <= member.offset:
                    raise ValueError("its size is below zero")
                name = _image_name(member, split)
                if name is None:
                    continue
                image_id, _ = parse_name(name)
                if image_id in seen:
                    raise ValueError(f"the ID {image_id} is there twice")
                seen.add(image_id)
                reader.seek(member.offset_data)
                yield name, reader.read(member.size)
            # tarfile takes a broken header or a hole for the end; the true end is one or two
            # blocks of zeros and as many as fill up a record. Reading on to the end of the file
            # makes the compressed formats check their sums.
            longest = tarfile.BLOCKSIZE + tarfile.RECORDSIZE
            rest = reader.last + reader.read(longest)
            if not reader.last or any(rest) or len(rest) > longest:
                raise ValueError("the archive breaks off or is damaged after this member")
    except READ_ERRORS as error:
        raise _bad_archive(path, last, error) from error
    if not seen:
        folder = split or "FOLDER"
        raise _bad_archive(path, None, ValueError(f"no images {folder}/{{ID}}_{{Label}}.png in it"))


def decode_member(path: Path, member: str, content: bytes) -> np.ndarray:
    """Return the pixels uint8 [28, 28] of an archive's member; UserError if it is no such image."""
    try:
        return decode_png(content)
    except ValueError as error:
        raise _bad_archive(path, member, error) from error


# --- Extraction -------------------------------------------------------------------------------


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
            raise UserError(f"{folder / name}: {ids[image_id]} has the same ID; remove one of them")
        ids[image_id] = name
    return [ids[image_id] for image_id in sorted(ids)]


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def extraction_was_killed(folder: Path) -> bool:
    """Return whether an extraction into the folder was begun and not finished."""
    return _staging(folder).exists()


def _stage(archive: Path, folder: Path) -> np.ndarray | None:
    """Write and decode in one pass what the folder lacks; returns the images if it lacks all."""
    present = {parse_name(name)[0] for name in list_images(folder)}
    images, staging = {}, _staging(folder)
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    staging.mkdir()
    for name, content in read_archive(archive, folder.name):
        image_id, _ = parse_name(name)
        if image_id in present:
            continue
        images[image_id] = decode_member(archive, f"{folder.name}/{name}", content)
        with open(staging / name, "wb") as file:
            file.write(content)
    if present or not images:
        return None
    return np.stack([images[image_id] for image_id in sorted(images)])


def _move(folder: Path) -> bool:
    """Move staged images into place: at once if there is no folder, else one by one."""
    paths = list(_staging(folder).iterdir())
    if not folder.exists():
        _staging(folder).rename(folder)
    else:
        for path in paths:
            path.rename(folder / path.name)
    return bool(paths)


def extract(folders: list[Path]) -> dict[Path, np.ndarray | None]:
    """Extract the archive of each folder into it, all of them or, at the first error, none.

    Every image is checked, decoded and written to a folder aside before the first appears in
    place; what is there already, by its ID, is left alone. One process at a time extracts, the
    others wait for it. A killed extraction is completed by the next.

    Returns:
        The folders to which images were added; with them, where the archive holds all of a folder,
        its decoded images uint8 [N, 28, 28] in the order of their IDs.

    Raises:
        UserError: for a missing or a bad archive, or a place that can't be written.
    """
    found = {}
    for folder in folders:
        beside = find_archives(folder)
        if not beside and not list_images(folder):
            raise UserError(
                f"{folder}: no images there, and no {folder.name}{{{','.join(SUFFIXES)}}} beside "
                "it to extract; take train.tar.xz and test.tar.xz from this project's data folder, "
                "or make them: python dataset.py --dataset MNIST"
            )
        if len(beside) > 1:
            print(f"using {beside[0]}, not {', '.join(path.name for path in beside[1:])}")
        if beside:
            found[folder] = beside[0]
    try:
        with FileLock(folders[0].with_name(".lock")):
            try:
                images = {folder: _stage(archive, folder) for folder, archive in found.items()}
                return {folder: images[folder] for folder in found if _move(folder)}
            finally:
                for folder in found:
                    shutil.rmtree(_staging(folder), ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or folders[0].parent}: cannot be extracted ({error.strerror}): "
            "free some space there or make the folder writable, then run again"
        ) from error


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
    atomic_write(path, content.getbuffer())
