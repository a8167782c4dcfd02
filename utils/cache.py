"""Folders of images: extracted once from the archive beside them, decoded once into a cache.

data/train.cache.npz holds the decoded images of data/train and says which archive they are from.
"""

import hashlib
import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.archives import (
    decode_files,
    find_archives,
    no_images,
    parse_name,
    progress,
    read_archive,
    read_folder,
)
from utils.classes import CLASSES
from utils.files import UserError, acquire_lock, atomic_write

# A picture that is not read, as its name does not end in .png.
OTHER_IMAGE = re.compile(r"[^.].*\.(?!png$)(?i:png|jpe?g|bmp|gif|tiff?|webp)")


class Cache(NamedTuple):
    """The decoded images of a folder, sorted by ID, and what they were decoded from."""

    names: np.ndarray  # str [N]
    labels: np.ndarray  # int64 [N]
    images: np.ndarray  # uint8 [N, 28, 28]
    state: np.ndarray  # str: the folder's fingerprint
    archive: np.ndarray  # str: digest of the archive beside the folder, "" if there was none
    warnings: np.ndarray  # str: what looks wrong with the images


def load_images(folder: Path) -> Cache:
    """Return the images of a folder, from its cache unless the folder has changed since.

    Where there is no folder, the archive beside it is extracted first.

    Raises:
        UserError: if there is nothing to read, a file or the archive is not as it should be, or
            the archive is another than the one that was extracted.
        OSError: if a file can't be read or written.
    """
    archives = find_archives(folder)
    extracted = None
    if archives and not folder.exists():
        extracted = _extract(archives, folder)
    if not folder.is_dir():
        raise no_images(folder)
    state = fingerprint(folder)  # before any file is read: a change meanwhile will be seen
    archive = _digest(archives[0]) if archives else ""
    cache = extracted or _read_cache(folder)
    if cache and archive and cache.archive not in ("", archive):
        raise UserError(
            f"{archives[0]}: not the archive that {folder} was extracted from; remove {folder} to "
            "extract this one, or put it into another folder and pass that as --data_dir"
        )
    if cache is None or cache.state != state or archive not in ("", cache.archive):
        files = read_folder(folder)
        images = decode_files(folder, files)
        archived = read_archive(archives[0], folder.name)[1] if archives else {}
        cache = _write_cache(folder, list(files), images, state, archive, len(archived))
    for warning in cache.warnings:
        print(f"warning: {folder} {warning}", file=sys.stderr)
    return cache


# --- Extraction -------------------------------------------------------------------------------


def _extract(archives: list[Path], folder: Path) -> Cache | None:
    """Extract the first archive into a folder that is not there yet: all of it or nothing.

    The files are written to a folder aside, which is renamed at the end. One process at a time
    extracts, the others wait for it. Returns the folder's cache, None to those that waited.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    lock = acquire_lock(folder.parent, timeout=-1)
    try:
        if folder.exists():  # another process has extracted it meanwhile
            return None
        if len(archives) > 1:
            print(f"using {archives[0]}, not {', '.join(path.name for path in archives[1:])}")
        _, files = read_archive(archives[0], folder.name)
        images = decode_files(archives[0], files)
        shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
        aside.mkdir()
        for name, content in progress(files.items(), f"writing {folder}"):
            with open(aside / name, "wb") as file:
                file.write(content)
        aside.rename(folder)
        state, archive = fingerprint(folder), _digest(archives[0])
        return _write_cache(folder, list(files), images, state, archive, len(files))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if lock:
            lock.release()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- The cache --------------------------------------------------------------------------------


def fingerprint(folder: Path) -> str:
    """Digest names, sizes and times of a folder's files: it differs once any of them does.

    The time of the last change counts too, which can't be set: archives may set all others alike.
    """
    lines = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):  # .DS_Store changes when someone looks
                stat = entry.stat()
                lines.append(f"{entry.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _cache_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cache.npz")


def _read_cache(folder: Path) -> Cache | None:
    """Return a folder's cache, None if there is none that is whole."""
    try:
        with np.load(_cache_path(folder)) as file:
            cache = Cache(**file)
        whole = all(isinstance(value, np.ndarray) for value in cache)
        whole = whole and cache.names.shape == cache.labels.shape == cache.images.shape[:1]
        # There can be fewer classes now than when the folder was read.
        return cache if whole and cache.labels.max() < len(CLASSES) else None
    except Exception:  # whatever numpy and zipfile raise for a damaged file
        return None


def _write_cache(
    folder: Path, names: list[str], images: np.ndarray, state: str, archive: str, archived: int
) -> Cache:
    """Keep decoded images, what they are from and what looks wrong with them; return that."""
    warnings = []
    if len(names) < archived:
        warnings.append(
            f"has {len(names):,} of the {archived:,} images of the archive beside it; remove the "
            "folder to extract all of them"
        )
    if images.mean() > 127:
        warnings.append("is mostly bright, but ink must be white (255) on black (0)")
    others = [name for name in os.listdir(folder) if OTHER_IMAGE.fullmatch(name)]
    if others:
        warnings.append(f"has {len(others)} images that are ignored, such as {min(others)}")
    labels = [parse_name(name)[1] for name in names]
    cache = Cache(*map(np.array, (names, labels, images, state, archive, warnings)))
    content = io.BytesIO()
    np.savez(content, **cache._asdict())
    try:
        atomic_write(_cache_path(folder), content.getbuffer())
    except UserError as error:
        print(f"note: no cache, the next start decodes again: {error}", file=sys.stderr)
    return cache
