"""The decoded images of an extracted folder, kept in one file beside it: data/train.cache.npz."""

import contextlib
import hashlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from utils.archives import (
    archive_id,
    extract,
    extraction_was_killed,
    find_archives,
    list_images,
    read_archive,
)
from utils.files import UserError, atomic_write


def fingerprint(folder: Path) -> str:
    """Digest names, sizes and times of a folder's files: it differs once any of them does."""
    lines = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a link that leads nowhere
                stat = entry.stat()
                lines.append(f"{entry.name} {stat.st_size} {stat.st_mtime_ns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _cache_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cache.npz")


def write_cache(
    folder: Path, images: np.ndarray, state: str, archive_size: int | None = None
) -> dict[str, Any]:
    """Keep decoded images and what the archive beside them is in the cache; return that.

    Args:
        folder: of the images.
        images: uint8 [N, 28, 28].
        state: fingerprint of the folder, taken before the images were read.
        archive_size: number of images in the archive, if known; else they are counted.
    """
    cache: dict[str, Any] = {
        "images": images,
        "fingerprint": state,
        "archive": "",
        "archive_size": 0,
    }
    for path in find_archives(folder)[:1]:
        size = archive_size or sum(1 for _ in read_archive(path, folder.name))
        cache |= {"archive": archive_id(path), "archive_size": size}
    content = io.BytesIO()
    np.savez(content, **cache)
    try:
        atomic_write(_cache_path(folder), content.getbuffer())
    except UserError as error:
        print(f"note: no cache, the next start decodes again: {error}", file=sys.stderr)
    return cache


def read_cache(folder: Path) -> dict[str, Any]:
    """Return a folder's cache if it is whole and the folder has not changed since, else {}.

    Raises:
        UserError: if the archive beside the folder is not the one that the cache knows.
    """
    try:
        with np.load(_cache_path(folder)) as file:
            cache = dict(file)
            archive, state = str(cache["archive"]), str(cache["fingerprint"])
            images, size = cache["images"], cache["archive_size"]
        if images.shape[1:] != (28, 28) or images.dtype != np.uint8 or size.shape:
            return {}
    except Exception:  # whatever numpy and zipfile raise for a damaged file
        return {}
    beside = find_archives(folder)
    if (beside and not archive) or not folder.is_dir():
        return {}
    if archive and beside and archive != archive_id(beside[0]):
        raise UserError(
            f"{beside[0]}: not the archive that {folder} was extracted from ({archive}); "
            f"remove {folder} and {_cache_path(folder)} to extract this one, or put it into "
            "another folder and pass that as --data_dir"
        )
    return cache if state == fingerprint(folder) else {}


def extract_missing(folders: list[Path]) -> list[Path]:
    """Extract what the folders lack; return those to which images were added.

    Raises:
        UserError: for a missing, a bad or another archive, or a place that can't be written.
    """
    incomplete = []
    for folder in folders:
        cache = {} if extraction_was_killed(folder) else read_cache(folder)
        if not cache or len(cache["images"]) < cache["archive_size"]:
            incomplete.append(folder)
    added = extract(incomplete) if incomplete else {}
    for folder, images in added.items():
        if images is not None and len(images) == len(list_images(folder)):
            write_cache(folder, images, fingerprint(folder), len(images))
    return list(added)
