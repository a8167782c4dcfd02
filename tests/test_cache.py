"""utils/cache.py: what is read from the cache is what the folder holds."""

import os
import sys

import numpy as np
import pytest
import torch
from conftest import first_members, tar_bytes
from hypothesis import given
from mutations import mutate, mutations
from PIL import Image
from test_archives import tree

import dataset
from dataset import MNIST
from utils import cache
from utils.files import UserError

SIZES = {"train": 200, "test": 50}  # enough for what is tested here


@pytest.fixture(scope="module")
def archives(real):
    """Plain tars of fewer members than other tests need: split -> bytes."""
    return first_members(real, SIZES)


def add(folder, real):
    (folder / "77777_1.png").write_bytes(real["train"][3][1])


def remove(folder, real):
    (folder / real["train"][3][0]).unlink()


def change(folder, real):
    path = folder / real["train"][3][0]
    path.write_bytes(real["train"][4][1])  # of the same size: only its time tells
    os.utime(path, ns=(1, 1))


def rename(folder, real):
    (folder / real["train"][3][0]).rename(folder / "00003_9.png")


def as_files(folder):
    """Return what the folder holds, decoded file by file, without the cache."""
    names = sorted(path.name for path in folder.glob("*.png"))
    images = [np.array(Image.open(folder / name)) for name in names]
    return torch.from_numpy(np.stack(images)), [int(name[6]) for name in names]


@pytest.mark.parametrize("edit", [add, remove, change, rename])
def test_cache_is_rebuilt_when_the_folder_changes(workplace, real, edit):
    folder = workplace / "data/train"
    before = MNIST(folder).images
    edit(folder, real)
    split = MNIST(folder)
    images, labels = as_files(folder)
    assert torch.equal(split.images, images) and split.labels.tolist() == labels
    assert edit is rename or not torch.equal(images, before)


def test_cache_is_what_is_read(workplace, monkeypatch):
    images = MNIST("data/train").images
    monkeypatch.setattr(dataset, "decode_png", lambda content: pytest.fail("decoded again"))
    assert torch.equal(MNIST("data/train").images, images)


def poke(content, where, what):
    """Return the content with what in place of as many bytes, from (text, offset to it)."""
    start = content.index(where[0]) + where[1]
    return content[:start] + what + content[start + len(what) :]


ENTRY = b"PK\1\2"  # of a zip's directory
DAMAGE = {
    "emptied": lambda whole: b"",
    "another file": lambda whole: b"not a cache",
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut in front": lambda whole: whole[whole.index(b"\x93NUMPY") :],
    "fewer images": lambda whole: poke(whole, (b"(200, 28, 28)", 1), b"1"),
    "narrower images": lambda whole: poke(whole, (b"(200, 28, 28)", 10), b"1"),
    "torn header": lambda whole: poke(whole, (b"(200, 28, 28)", 12), b"("),
    "other member": lambda whole: whole.replace(b"archive_size", b"archive_site"),
    "encrypted": lambda whole: poke(whole, (ENTRY, 8), b"\1"),
    "other compression": lambda whole: poke(whole, (ENTRY, 10), b"\1"),
    "pixel": lambda whole: poke(whole, (b"(200, 28, 28)", 9999), b"\1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_is_replaced(workplace, damage):
    images = MNIST("data/train").images
    cache = workplace / "data/train.cache.npz"
    whole = cache.read_bytes()
    cache.write_bytes(DAMAGE[damage](whole))
    assert cache.read_bytes() != whole
    assert torch.equal(MNIST("data/train").images, images)
    assert cache.read_bytes() == whole


@pytest.fixture(scope="module")
def cached(tmp_path_factory, real):
    """An extracted folder of four images, and all that it and its data folder hold."""
    data = tmp_path_factory.mktemp("data")
    members = [(f"train/{name}", content) for name, content in real["train"][:4]]
    (data / "train.tar").write_bytes(tar_bytes(members))
    _ = MNIST(data / "train").images
    return data / "train", tree(data)


@given(operations=mutations())
def test_no_damage_to_the_cache_changes_what_is_loaded(cached, operations):
    folder, before = cached
    cache, (images, labels) = folder.with_name("train.cache.npz"), as_files(folder)
    cache.write_bytes(mutate(before["train.cache.npz"], operations))
    split = MNIST(folder)
    assert torch.equal(split.images, images) and split.labels.tolist() == labels
    cache.write_bytes(before["train.cache.npz"])
    assert tree(folder.parent) == before


def test_folder_that_cannot_be_written_means_no_cache(workplace, monkeypatch, capsys):
    images = MNIST("data/train").images
    (workplace / "data/train.cache.npz").unlink()

    def read_only(path, content):
        raise UserError(f"{path}: cannot be written")

    monkeypatch.setattr(cache, "atomic_write", read_only)
    assert torch.equal(MNIST("data/train").images, images)
    assert "no cache" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_disk_too_full_for_a_cache_is_a_note_only(workplace, capsys, full_disk):
    with full_disk(100_000):  # the cache would have 156,800 bytes and more
        images = MNIST("data/train").images
    assert torch.equal(images, as_files(workplace / "data/train")[0])
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("note: no cache") for line in lines)
    assert set(os.listdir("data")) - {".lock"} == {"train", "train.tar", "test.tar"}
