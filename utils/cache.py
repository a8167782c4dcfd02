"""Folders of images: extracted once from the archive beside them, decoded once into a cache.

data/train.cache.npz holds the decoded images of data/train and says which archive they are from.
"""

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.archives import (
    decode_files,
    find_archives,
    progress,
    read_archive,
    read_folder,
    warn_of_paper,
)
from utils.classes import CLASSES
from utils.distributed import warn
from utils.files import UserError, acquire_lock, atomic_write


class Cache(NamedTuple):
    """The decoded images of a folder, sorted by ID, and what they were decoded from."""

    names: np.ndarray  # str [N]
    images: np.ndarray  # uint8 [N, 28, 28]
    labels: np.ndarray  # int64 [N]
    state: str  # the folder's fingerprint
    archive: str  # digest of the archive that was extracted, "" if none was


def load_images(folder: Path) -> Cache:
    """Return the images of a folder, from its cache unless the folder has changed since.

    Where there is no folder, the archive beside it is extracted first.

    Raises:
        UserError: if there is nothing to read, a file or the archive is not as it should be, or
            the archive is another than the one that was extracted.
    """
    archives = find_archives(folder)
    if archives and not folder.exists():
        lock = acquire_lock(folder.parent, timeout=-1)  # other processes wait
        assert lock is not None  # as it waits without limit
        with lock:
            if not folder.exists():
                _extract(archives, folder)
    state = fingerprint(folder)  # before any file is read: a change meanwhile will be seen
    cache = _read_cache(folder)
    if cache is None or cache.state != state:
        files, archive = read_folder(folder), cache.archive if cache else ""
        cache = Cache(np.array(list(files)), *decode_files(folder, files), state, archive)
        try:
            _write_cache(folder, cache)
        except UserError as error:
            warn(f"no cache, the next start decodes again: {error}")
    if archives and not cache.archive:
        warn(f"{folder} may lack images of {archives[0]}; remove the folder to extract that")
    elif archives and cache.archive != _digest(archives[0]):
        raise UserError(
            f"{archives[0]}: not the archive that {folder} was extracted from; remove {folder} to "
            "extract this one, or put it into another folder and pass that as --data_dir"
        )
    others = [name for name in os.listdir(folder) if not name.endswith(".png") and name[0] != "."]
    if others:
        warn(f"{folder} has {len(others)} files that are ignored, such as {min(others)}")
    warn_of_paper(folder, cache.images)
    return cache


# --- Extraction -------------------------------------------------------------------------------


def _extract(archives: list[Path], folder: Path) -> None:
    """Extract the first archive into a folder that is not there yet: all of it or nothing.

    The files are written to a folder aside, which is renamed at the end.
    """
    if len(archives) > 1:
        print(f"using {archives[0]}, not {', '.join(path.name for path in archives[1:])}")
    _, files = read_archive(archives[0], folder.name)
    images, labels = decode_files(archives[0], files)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
    aside.mkdir()
    try:
        for name, content in progress(files.items(), f"writing {folder}"):
            (aside / name).write_bytes(content)
        names, state, archive = np.array(list(files)), fingerprint(aside), _digest(archives[0])
        _write_cache(folder, Cache(names, images, labels, state, archive))
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- The cache --------------------------------------------------------------------------------


def fingerprint(folder: Path) -> str:
    """Digest the classes and names, sizes and times of a folder's files: any change shows.

    The time of the last change counts too, which can't be set: archives may set all others alike.
    """
    lines = [f"{CLASSES}"]
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if not entry.name.startswith("."):  # .DS_Store changes when someone looks
            stat = entry.stat()
            lines.append(f"{entry.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _cache_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cache.npz")


def _read_cache(folder: Path) -> Cache | None:
    """Return a folder's cache, None if there is none that is whole."""
    try:
        with np.load(_cache_path(folder)) as file:
            names, images, labels, state, archive = (file[field] for field in Cache._fields)
        return Cache(names, images, labels, str(state), str(archive))
    except Exception:  # numpy and zipfile raise many kinds for a damaged file
        return None


def _write_cache(folder: Path, cache: Cache) -> None:
    content = io.BytesIO()
    np.savez(content, **cache._asdict())
    atomic_write(_cache_path(folder), content.getbuffer())
