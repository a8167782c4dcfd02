"""utils/cache.py: what is loaded is what the folder holds now, extracted whole."""

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, first_members, tar_bytes
from hypothesis import given
from mutations import mutate, mutations
from PIL import Image
from test_archives import tree

from dataset import MNIST, load_splits
from utils import cache
from utils.files import UserError

SIZES = {"train": 200, "test": 50}  # enough for what is tested here
unix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")


@pytest.fixture(scope="module")
def archives(real):
    """Plain tars of fewer members than other tests need: split -> bytes."""
    return first_members(real, SIZES)


def as_files(folder):
    """Return what a folder holds, decoded file by file: images, labels."""
    names = sorted(path.name for path in folder.glob("*.png"))
    images = [np.array(Image.open(folder / name)) for name in names]
    return torch.from_numpy(np.stack(images)), [int(name[6]) for name in names]


# --- Extraction -------------------------------------------------------------------------------


def test_the_original_bytes_are_extracted_once(workplace, real, monkeypatch):
    images = MNIST("data/train").images
    assert tree(workplace / "data/train") == dict(real["train"][:200])
    before = {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}
    for name in ("read_archive", "decode_files"):
        monkeypatch.setattr(cache, name, lambda *args: pytest.fail("read again"))
    assert torch.equal(MNIST("data/train").images, images)
    assert before == {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}


def test_a_plain_tar_wins_and_says_so(workplace, capfd):
    (workplace / "data/train.tar.xz").write_bytes(b"not read")
    assert len(MNIST("data/train")) == 200
    assert f"using {Path('data/train.tar')}, not train.tar.xz" in capfd.readouterr().out


KILLED = """
import os, signal
from pathlib import Path
from utils import cache

def write_some_and_die(files, text):
    yield from list(files)[:100]
    os.kill(os.getpid(), signal.SIGKILL)

cache.progress = write_some_and_die
cache.load_images(Path("data/train"))
"""


@unix_only
def test_killed_extraction_is_done_again(workplace, real):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, timeout=110)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir("data/.train.partial")) == 100 and not Path("data/train").exists()
    assert len(MNIST("data/train")) == 200
    assert tree(workplace / "data/train") == dict(real["train"][:200])
    assert not Path("data/.train.partial").exists()


def test_two_extractions_at_once_do_not_disturb_each_other(workplace):
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Process
    both = [start(target=load_splits, args=("data", 0)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=110)
    assert [process.exitcode for process in both] == [0, 0]
    names = {"train", "test", "train.tar", "test.tar", "train.cache.npz", "test.cache.npz"}
    assert set(os.listdir("data")) - {".lock"} == names
    assert [len(os.listdir(f"data/{split}")) for split in SIZES] == list(SIZES.values())


@unix_only
@pytest.mark.parametrize("problem", ["full disk", "folder", "partial"])
def test_place_that_cannot_be_written_is_one_line_and_leaves_nothing(workplace, full_disk, problem):
    if problem == "folder":
        Path("data/.lock").mkdir()
    elif problem == "partial":
        Path("data/.train.partial").write_bytes(b"")
    before = tree(workplace)
    with full_disk(200 if problem == "full disk" else 10**9), pytest.raises(UserError) as refusal:
        MNIST("data/train")
    assert "make the folder" in str(refusal.value) and str(refusal.value).isprintable()
    assert tree(workplace) == before


@unix_only
def test_disk_too_full_for_a_cache_is_a_note_only(workplace, capsys, full_disk):
    for _ in range(2):  # extracted, then decoded
        with full_disk(100_000):  # the cache would have 156,800 bytes and more
            images = MNIST("data/train").images
        assert torch.equal(images, as_files(workplace / "data/train")[0])
        line = capsys.readouterr().err
        assert line.startswith("note: no cache") and line.count("\n") == 1
    assert set(os.listdir("data")) - {".lock"} == {"train", "train.tar", "test.tar"}


# --- The folder and its archive do not agree --------------------------------------------------


def test_interrupted_tar_x_is_warned_of_at_every_start(workplace, real, capfd):
    archive, folder = Path("data/train.tar"), Path("data/train")
    archive.rename("elsewhere")  # it comes after the images, once they are cached
    folder.mkdir()
    for name, content in real["train"][:10]:
        (folder / name).write_bytes(content)
    assert len(MNIST(folder)) == 10 and capfd.readouterr().err == ""
    Path("elsewhere").rename(archive)
    for _ in range(2):  # decoded, then from the cache
        assert len(load_splits("data", 0)[0].labels) == 10
        err = capfd.readouterr().err
        assert err.startswith(f"warning: {folder} has 10 of the 200") and err.count("\n") == 1
    shutil.rmtree(folder)  # as it says
    assert len(MNIST(folder)) == 200 and capfd.readouterr().err == ""


@pytest.mark.parametrize("new", ["train.tar", "train.tar.xz"])
def test_another_archive_than_the_extracted_one_is_refused(workplace, real, new):
    data, folder = workplace / "data", Path("data/train")
    members = [(f"train/{name}", content) for name, content in real["train"][:60]]
    (data / "train.tar").unlink()
    (data / "train.tar.xz").write_bytes(tar_bytes(members, "w:xz"))
    MNIST(folder)
    members[7] = ("train/00007_0.png", members[7][1])
    (data / new).write_bytes(tar_bytes(members, "w:xz" if new.endswith("xz") else "w"))
    before = tree(data)
    with pytest.raises(
        UserError, match=f"{new}: not the archive .*; remove {folder} to .*data_dir"
    ):
        MNIST(folder)
    assert tree(data) == before
    shutil.rmtree(folder)  # as advised
    assert MNIST(folder).labels[7] == 0


# --- Changes and damage -----------------------------------------------------------------------


def add(folder, real):
    (folder / "77777_1.png").write_bytes(real["train"][3][1])


def remove(folder, real):
    (folder / real["train"][3][0]).unlink()


def change(folder, real):
    path = folder / real["train"][3][0]
    path.write_bytes(real["train"][4][1])  # of the same size: only its time tells
    os.utime(path, ns=(1, 1))


def change_nothing_but_the_content(folder, real):
    path = folder / real["train"][3][0]
    before = path.stat()
    path.write_bytes(real["train"][4][1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(folder, real):
    (folder / real["train"][3][0]).rename(folder / "00003_9.png")


@pytest.mark.parametrize("edit", [add, remove, change, change_nothing_but_the_content, rename])
def test_a_change_of_the_folder_is_seen_by_the_next_load(workplace, real, edit):
    folder = workplace / "data/train"
    before = load_splits("data", 0)[0]
    edit(folder, real)
    for _ in range(2):  # decoded again, then from the cache
        after = load_splits("data", 0)[0]
        images, labels = as_files(folder)
        assert torch.equal(after.images, images) and after.labels.tolist() == labels
    assert not (torch.equal(after.images, before.images) and after.labels.equal(before.labels))


def test_a_file_that_is_no_image_is_named(workplace):
    MNIST("data/train")
    Path("data/train/88888_1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"88888_1\.png: it is not a PNG"):
        MNIST("data/train")


@pytest.fixture(scope="module")
def cached(tmp_path_factory, real):
    """An extracted folder of four images, and all that it and its data folder hold."""
    data = tmp_path_factory.mktemp("data")
    members = [(f"train/{name}", content) for name, content in real["train"][:4]]
    (data / "train.tar").write_bytes(tar_bytes(members))
    MNIST(data / "train")
    return data / "train", tree(data)


@given(operations=mutations())
def test_no_damage_to_the_cache_changes_what_is_loaded(cached, operations):
    folder, before = cached
    path, (images, labels) = folder.with_name("train.cache.npz"), as_files(folder)
    path.write_bytes(mutate(before["train.cache.npz"], operations))
    split = MNIST(folder)
    assert torch.equal(split.images, images) and split.labels.tolist() == labels
    path.write_bytes(before["train.cache.npz"])
    assert tree(folder.parent) == before


# --- What looks wrong with a folder -----------------------------------------------------------


def test_what_looks_wrong_is_warned_of_at_every_start(tmp_path, real, capfd):
    for index, (name, content) in enumerate(real["train"][:9]):
        path = (tmp_path / name).with_suffix({0: ".PNG", 1: ".jpg", 2: ".JPEG"}.get(index, ".png"))
        Image.fromarray(255 - np.array(Image.open(io.BytesIO(content)))).save(path, "png")
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):  # decoded, then from the cache
        assert len(MNIST(tmp_path)) == 6
        bright, ignored = capfd.readouterr().err.splitlines()
        assert bright.startswith(f"warning: {tmp_path} ") and "ink must be white (255)" in bright
        assert "3 images that are ignored, such as 00000_5.PNG" in ignored


@unix_only
def test_what_a_mac_or_an_editor_leaves_in_a_folder_is_ignored(workplace, real, monkeypatch, capfd):
    folder = workplace / "data/train"
    images = MNIST(folder).images
    for name in (f"._{real['train'][0][0]}", ".DS_Store", "._photo.jpg"):
        (folder / name).write_bytes(b"\0\5\26\7")
    (folder / ".#notes.txt").symlink_to("user@host.1234")  # as Emacs marks a file being edited
    monkeypatch.setattr(cache, "decode_files", lambda *args: pytest.fail("decoded again"))
    assert torch.equal(MNIST(folder).images, images)
    assert capfd.readouterr().err == ""
