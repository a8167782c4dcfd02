"""utils/cache.py: what is loaded is what the folder holds now, extracted whole."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import decode, full_disk, posix_only, tar_bytes, tree
from hypothesis import given
from mutations import mutate, mutations
from PIL import Image

import dataset
import predict
from dataset import MNIST
from utils import archives, cache
from utils.files import UserError

FOLDER = Path("data/train")


def as_files(folder):
    """Return what a folder holds, decoded file by file: images, labels."""
    names = sorted(path.name for path in folder.glob("*.png"))
    images = [decode((folder / name).read_bytes()) for name in names]
    return torch.from_numpy(np.stack(images)), [int(name[6]) for name in names]


# --- Extraction -------------------------------------------------------------------------------


def test_the_original_bytes_are_extracted_and_decoded_once(fresh, real, monkeypatch):
    images = MNIST(FOLDER).images
    assert tree(FOLDER) == dict(real["train"][:300])
    before = {path: path.stat().st_mtime_ns for path in fresh.rglob("*")}
    for name in ("read_archive", "decode_files"):
        monkeypatch.setattr(cache, name, lambda *args: pytest.fail("read again"))
    assert torch.equal(MNIST(FOLDER).images, images)
    assert before == {path: path.stat().st_mtime_ns for path in fresh.rglob("*")}


def test_a_plain_tar_wins_and_says_so(fresh, capfd):
    Path("data/train.tar.xz").write_bytes(b"not read")
    assert len(MNIST(FOLDER)) == 300
    assert f"using {Path('data/train.tar')}, not train.tar.xz" in capfd.readouterr().out


def test_killed_extraction_is_done_again(fresh, real, monkeypatch):
    def copy_halfway(files, text):
        for index, file in enumerate(files):
            if index == 100:
                shutil.copytree("data", "killed")  # what a kill would leave
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(cache, "progress", copy_halfway)
        MNIST(FOLDER)
    assert len(os.listdir("killed/.train.partial")) >= 99 and not Path("killed/train").exists()
    assert len(MNIST("killed/train")) == 300
    assert tree(Path("killed/train")) == dict(real["train"][:300])
    assert not Path("killed/.train.partial").exists()


@posix_only
@pytest.mark.parametrize("free", [200, 100_000])  # too little for an image, for the cache
def test_a_full_disk_is_one_line_and_leaves_nothing(fresh, free):
    before = tree(fresh)
    with full_disk(free), pytest.raises(UserError) as refusal:
        MNIST(FOLDER)
    assert "make the folder" in str(refusal.value) and str(refusal.value).isprintable()
    assert tree(fresh) == before


@posix_only
def test_without_room_for_a_cache_a_folder_is_read_all_the_same(fresh, capfd):
    MNIST(FOLDER)
    Path("data/train.cache.npz").unlink()
    Path("data/train.tar").unlink()
    with full_disk(100_000):
        assert torch.equal(MNIST(FOLDER).images, as_files(FOLDER)[0])
    line = capfd.readouterr().err
    assert line.startswith("warning: no cache") and line.count("\n") == 1


# --- The folder and its archive do not agree --------------------------------------------------


def test_a_folder_that_tar_x_may_have_left_unfinished_is_warned_of_at_every_start(
    fresh, real, capfd
):
    FOLDER.mkdir()
    for name, content in real["train"][:10]:
        (FOLDER / name).write_bytes(content)
    for _ in range(2):  # decoded, then from the cache
        assert len(MNIST(FOLDER)) == 10
        err = capfd.readouterr().err
        assert err.startswith(f"warning: {FOLDER} may lack images") and err.count("\n") == 1
    shutil.rmtree(FOLDER)  # as it says
    assert len(MNIST(FOLDER)) == 300 and capfd.readouterr().err == ""


def test_another_archive_than_the_extracted_one_is_refused(fresh, real):
    MNIST(FOLDER)
    members = [(f"train/{name}", content) for name, content in real["train"][:60]]
    Path("data/train.tar").write_bytes(tar_bytes(members))
    before = tree(fresh)
    with pytest.raises(UserError, match=f"not the archive .*; remove {FOLDER} to .*data_dir"):
        MNIST(FOLDER)
    assert tree(fresh) == before
    shutil.rmtree(FOLDER)  # as advised
    assert len(MNIST(FOLDER)) == 60


# --- Changes and damage -----------------------------------------------------------------------


def add(name, other):
    (FOLDER / "77777_1.png").write_bytes(other)


def remove(name, other):
    (FOLDER / name).unlink()


def change_nothing_but_the_content(name, other):
    before = (FOLDER / name).stat()
    (FOLDER / name).write_bytes(other)  # of the same size
    os.utime(FOLDER / name, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(name, other):
    (FOLDER / name).rename(FOLDER / "00003_9.png")


@pytest.mark.parametrize("edit", [add, remove, change_nothing_but_the_content, rename])
def test_a_change_of_the_folder_is_seen_by_the_next_load(fresh, real, edit):
    before = MNIST(FOLDER)
    edit(real["train"][3][0], real["train"][4][1])
    for _ in range(2):  # decoded again, then from the cache
        after = MNIST(FOLDER)
        images, labels = as_files(FOLDER)
        assert torch.equal(after.images, images) and after.labels.tolist() == labels
    assert not (torch.equal(after.images, before.images) and after.labels.equal(before.labels))


def test_images_of_other_classes_are_not_taken_from_the_cache(fresh, monkeypatch):
    MNIST(FOLDER)
    for module in (archives, cache):
        monkeypatch.setattr(module, "CLASSES", "01234")
    with pytest.raises(UserError, match=r"the label \d is not 0 to 4"):
        MNIST(FOLDER)


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
    assert tree(folder) == {
        name[6:]: content for name, content in before.items() if name.startswith("train/")
    }


# --- What looks wrong with a folder -----------------------------------------------------------


def test_what_looks_wrong_is_warned_of_at_every_start(tmp_path, monkeypatch, real, capfd):
    for index, (name, content) in enumerate(real["train"][:9]):
        path = (tmp_path / name).with_suffix({0: ".PNG", 1: ".jpg", 2: ".JPEG"}.get(index, ".png"))
        Image.fromarray(255 - decode(content)).save(path, "png")
    for _ in range(2):  # decoded, then from the cache
        assert len(MNIST(tmp_path)) == 6
        ignored, bright = capfd.readouterr().err.splitlines()
        assert bright.startswith(f"warning: {tmp_path} ") and "ink must be white (255)" in bright
        assert "3 files that are ignored, such as 00000_5.PNG" in ignored
    monkeypatch.chdir(tmp_path)
    assert len(MNIST(".")) == 6 and (tmp_path.parent / f"{tmp_path.name}.cache.npz").exists()
    capfd.readouterr()
    files = [(f"train/{path.name}", path.read_bytes()) for path in sorted(tmp_path.glob("*.png"))]
    (tmp_path / "bright.tar").write_bytes(tar_bytes(files))
    predict.load_images(tmp_path / "bright.tar")
    dataset.merge([tmp_path / "bright.tar"], tmp_path / "class")
    bright = capfd.readouterr().err.splitlines()
    assert [line[:8] for line in bright] == ["warning:"] * 2
    assert all("bright.tar is mostly bright" in line for line in bright)


@posix_only
def test_what_a_mac_or_an_editor_leaves_in_a_folder_is_ignored(fresh, real, monkeypatch, capfd):
    images = MNIST(FOLDER).images
    for name in (f"._{real['train'][0][0]}", ".DS_Store", "._photo.jpg"):
        (FOLDER / name).write_bytes(b"\0\5\26\7")
    (FOLDER / ".#notes.txt").symlink_to("user@host.1234")  # as Emacs marks a file being edited
    monkeypatch.setattr(cache, "decode_files", lambda *args: pytest.fail("decoded again"))
    assert torch.equal(MNIST(FOLDER).images, images)
    assert capfd.readouterr().err == ""
