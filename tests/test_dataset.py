"""dataset.py: the shipped archives, extraction, the Dataset, the batches."""

import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, first_members, special, tar_bytes
from filelock import FileLock
from PIL import Image
from test_archives import tree
from torch.utils.data import DataLoader

import dataset
from dataset import MNIST, Batches, Split, describe_data, digest, load_splits, normalise
from utils.archives import decode_png, parse_name, read_archive, write_archive
from utils.command import run_command
from utils.files import UserError

SIZES = {"train": 200, "test": 50}  # enough for what is tested here


@pytest.fixture(scope="module")
def archives(real):
    """Plain tars of fewer members than other tests need: split -> bytes."""
    return first_members(real, SIZES)


MD5 = {  # of the original files: images, labels
    "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
}


def idx_files(images, labels):
    """Return images uint8 [N, 28, 28] and labels in the layout of the original files."""
    header = struct.pack(">IIII", 2051, len(images), 28, 28)
    return header + images.tobytes(), struct.pack(">II", 2049, len(labels)) + bytes(labels)


# --- The shipped archives ---------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_shipped_archives_are_the_original_mnist(split):
    images, labels = [], []
    for index, (name, content) in enumerate(read_archive(ROOT / f"data/{split}.tar.xz", split)):
        image_id, label = parse_name(name)
        assert (image_id, name) == (index, f"{index:05d}_{label}.png")
        images.append(decode_png(content))
        labels.append(label)
    pixels = np.stack(images)
    sums = [hashlib.md5(content).hexdigest() for content in idx_files(pixels, labels)]
    assert tuple(sums) == MD5[split]
    loaded = Split(torch.from_numpy(pixels), torch.tensor(labels))
    assert digest(loaded) == dataset.SHIPPED[split]
    loaded.labels[7] += 1
    assert digest(loaded) != dataset.SHIPPED[split]


def test_packing_twice_gives_the_same_bytes_and_the_shipped_members(tmp_path, real):
    members = real["test"][:100]
    images = np.stack([decode_png(content) for _, content in members])
    labels = [parse_name(name)[1] for name, _ in members]
    for folder in ("once", "again"):
        write_archive(tmp_path / folder / "test.tar.xz", "test", images, labels)
    once, again = ((tmp_path / f / "test.tar.xz").read_bytes() for f in ("once", "again"))
    assert once == again
    assert list(read_archive(tmp_path / "once/test.tar.xz", "test")) == members


@pytest.mark.parametrize("name", dataset.DATASETS)
def test_original_files_are_packed_extracted_and_trained_on_offline(workplace, real, cli, name):
    raw = workplace / "new" / name / "raw"
    raw.mkdir(parents=True)
    prefix = {"MNIST": "", "FashionMNIST": "", "KMNIST": "", "QMNIST": "qmnist-"}[name]
    for split, stem in (("train", "train"), ("test", "test" if name == "QMNIST" else "t10k")):
        members = real[split][:150]
        images = np.stack([decode_png(content) for _, content in members])
        labels = [parse_name(name)[1] for name, _ in members]
        image_file, label_file = idx_files(images, labels)
        (raw / f"{prefix}{stem}-images-idx3-ubyte").write_bytes(image_file)
        if name == "QMNIST":  # 8 columns of int32, the first of which is the label
            table = np.zeros((150, 8), ">i4")
            table[:, 0] = labels
            label_file = struct.pack(">III", 0x0C02, 150, 8) + table.tobytes()
            (raw / f"qmnist-{stem}-labels-idx2-int").write_bytes(label_file)
        else:
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(label_file)

    code, out, err = cli(dataset, "--data_dir", "new", "--dataset", name)
    assert code == 0, err
    assert "train dataset length: 150\ntest dataset length: 150\n" in out
    folder = workplace / "new" / ("" if name == "MNIST" else name)
    first_name, first_content = real["test"][0]
    assert (folder / "test" / first_name).read_bytes() == first_content
    code, out, _ = cli(dataset, "--data_dir", "new", "--dataset", name)
    assert code == 0 and "not packed again" in out


def test_only_the_shipped_images_are_called_mnist(workplace, monkeypatch):
    assert describe_data("data") == "folder data, 200 training and 50 test images"
    splits = dict(zip(("train", "test"), load_splits("data", 0), strict=True))
    for name, split in splits.items():
        monkeypatch.setitem(dataset.SHIPPED, name, digest(split))
    assert describe_data("data") == "MNIST, 200 training and 50 test images"
    splits["test"].labels[7] += 1
    assert describe_data("data") == "folder data, 200 training and 50 test images"
    # Validation images come from the train split, so the test split does not matter.
    assert describe_data("data", 30) == "MNIST, 170 training and 30 validation images"
    splits["train"].images[7] += 1
    assert describe_data("data", 30) == "folder data, 170 training and 30 validation images"


# --- Extraction -------------------------------------------------------------------------------


def test_command_extracts_once_and_draws_samples(workplace, real, cli, monkeypatch):
    code, out, err = cli(dataset)
    assert (code, err) == (0, "")
    assert "train dataset length: 200\ntest dataset length: 50\n" in out
    for split in SIZES:
        files = {path.name: path.read_bytes() for path in (workplace / "data" / split).iterdir()}
        assert files == dict(real[split][: SIZES[split]])
    with Image.open("plots/samples.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 800
    before = {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}
    for module in ("utils.cache", "utils.archives"):
        monkeypatch.setattr(f"{module}.read_archive", lambda *args: pytest.fail("read again"))
    code, out, err = cli(dataset)
    assert (code, err) == (0, "") and out.count("all in place, nothing to do") == 2
    assert before == {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}


@pytest.mark.parametrize("mode, suffix", [("w:gz", "tar.gz"), ("w:gz", "tgz"), ("w:bz2", "tar.bz2"),
                                          ("w:xz", "tar.xz"), ("w", "tar")])  # fmt: skip
def test_every_kind_of_archive_is_read(tmp_path, real, mode, suffix):
    members = [(f"test/{name}", content) for name, content in real["test"][:20]]
    members.insert(0, (special("./test", tarfile.DIRTYPE), b""))
    (tmp_path / f"test.{suffix}").write_bytes(tar_bytes(members, mode))
    images = MNIST(tmp_path / "test").images
    assert torch.equal(images[3], torch.tensor(decode_png(real["test"][3][1])))
    assert len(images) == 20


def test_a_plain_tar_wins_and_says_so(workplace, real, cli):
    (workplace / "data/train.tar.xz").write_bytes(b"not read")
    code, out, _ = cli(dataset)
    assert code == 0 and f"using {Path('data/train.tar')}, not train.tar.xz" in out


def test_the_users_own_files_stay_and_what_is_missing_is_added(workplace, real, cli):
    own = workplace / "data/train"
    own.mkdir()
    relabelled = "00007_0.png"  # which the archive has as a 3
    (own / "notes.txt").write_text("mine")
    (own / "99999_4.png").write_bytes(real["train"][0][1])
    (own / relabelled).write_bytes(real["train"][8][1])
    code, out, err = cli(dataset)
    assert code == 0, err
    assert "train dataset length: 201" in out  # 200, one of them relabelled, and 99999_4
    assert (own / "notes.txt").read_text() == "mine"
    assert (own / relabelled).read_bytes() == real["train"][8][1]


KILLED = """
import os, signal
from pathlib import Path
from utils import archives

decoded, decode_png = [], archives.decode_png

def decode_or_die(content):
    decoded.append(content)
    if len(decoded) == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_png(content)

archives.decode_png = decode_or_die
archives.extract([Path("data/train")])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_extraction_is_completed(workplace, real):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, timeout=110)
    staging = workplace / "data/.train.partial"
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(staging)) == 99 and not (workplace / "data/train").exists()
    assert len(MNIST("data/train")) == 200
    assert not staging.exists()


def test_extraction_killed_while_adding_to_a_folder_is_completed(workplace, real):
    (workplace / "data/train").mkdir()
    (workplace / "data/.train.partial").mkdir()
    for name, content in real["train"][:3]:
        (workplace / "data/train" / name).write_bytes(content)
    assert len(MNIST("data/train")) == 200


def test_extraction_waits_for_another(workplace, monkeypatch):
    impatient = functools.partial(FileLock, timeout=0)  # a wait is an error
    monkeypatch.setattr("utils.archives.FileLock", impatient)
    before = tree(workplace)
    with FileLock("data/.lock"), pytest.raises(UserError, match="cannot be extracted"):
        MNIST("data/train")
    assert tree(workplace) == before
    assert len(MNIST("data/train")) == 200


def test_two_extractions_at_once_do_not_disturb_each_other(workplace, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["dataset.py"])
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Process
    both = [start(target=run_command, args=(dataset.main,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=110)
    assert [process.exitcode for process in both] == [0, 0]
    out, err = capfd.readouterr()
    assert (out.count("train dataset length: 200"), err) == (2, "")
    names = {"train", "test", "train.tar", "test.tar", "train.cache.npz", "test.cache.npz"}
    assert set(os.listdir("data")) - {".lock"} == names
    assert [len(os.listdir(f"data/{split}")) for split in SIZES] == list(SIZES.values())


def test_interrupted_tar_x_is_reported_and_completed_by_the_command(workplace, real, cli, capfd):
    (workplace / "data/train").mkdir()
    for name, content in real["train"][:10]:
        (workplace / "data/train" / name).write_bytes(content)
    command = "python dataset.py --data_dir data"
    for _ in range(2):  # decoded, then from the cache
        dataset._load_split.cache_clear()
        training, _ = load_splits("data", 0)
        err = capfd.readouterr().err
        assert len(training.images) == len(training.labels) == 10
        assert err.startswith("warning: ") and err.count("\n") == 1
        assert "10 of its archive's 200 images" in err and command in err
    code, out, err = cli(dataset, *command.split()[2:])
    assert (code, err) == (0, "") and "train dataset length: 200" in out
    assert tree(workplace / "data/train") == dict(real["train"][:200])
    dataset._load_split.cache_clear()
    assert len(load_splits("data", 0)[0].images) == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("own", ["train.tar", "train.tar.xz"])
def test_another_archive_than_the_extracted_one_is_refused(workplace, real, cli, own):
    data, folder = workplace / "data", Path("data/train")
    (data / "train.tar").unlink()
    members = [(f"train/{name}", content) for name, content in real["train"][:60]]
    (data / "train.tar.xz").write_bytes(tar_bytes(members, "w:xz"))
    assert cli(dataset)[0] == 0
    others = [("train/00007_0.png" if "/00007_" in name else name, png) for name, png in members]
    (data / own).write_bytes(tar_bytes(others, "w:xz" if own.endswith("xz") else "w"))
    before = tree(data)
    code, _, err = cli(dataset)
    assert (code, err.count("\n")) == (2, 1)
    advice = f"remove {folder} and {folder}.cache.npz"
    assert str(folder.with_name(own)) in err and advice in err and "--data_dir" in err
    with pytest.raises(UserError) as refusal:
        _ = MNIST("data/train").images
    assert f"{refusal.value}\n" == err and tree(data) == before
    # As advised: the label is the corrected one.
    shutil.rmtree(folder)
    os.remove(f"{folder}.cache.npz")
    code, _, err = cli(dataset)
    assert (code, err) == (0, "") and MNIST("data/train").labels[7] == 0


def test_archive_that_arrives_after_the_images_is_extracted(workplace, real, cli):
    archive, folder = workplace / "data/train.tar", workplace / "data/train"
    archive.rename(workplace / "elsewhere")
    folder.mkdir()
    for name, content in real["train"][:10]:
        (folder / name).write_bytes(content)
    assert len(MNIST("data/train").images) == 10
    (workplace / "elsewhere").rename(archive)
    code, out, err = cli(dataset)
    assert code == 0, err
    assert "train dataset length: 200" in out and len(MNIST("data/train").images) == 200


def test_removed_folder_is_extracted_again(workplace):
    images = MNIST("data/train").images
    shutil.rmtree("data/train")
    assert torch.equal(MNIST("data/train").images, images)


def test_missing_archive_says_what_and_where(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(dataset, "--data_dir", "nowhere")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "train{.tar,.tar.xz" in err and "--dataset MNIST" in err


def test_wrong_flag_is_one_line(cli):
    code, _, err = cli(dataset, "--dataset", "CIFAR10")
    assert code == 2 and err.count("\n") == 1 and "FashionMNIST" in err


# --- What looks wrong with a folder -----------------------------------------------------------


def test_bright_images_are_warned_of(workplace, real, capfd):
    images = 255 - np.stack([decode_png(content) for _, content in real["train"][:20]])
    write_archive(workplace / "data/bright.tar.xz", "bright", images, [0] * 20)
    assert torch.equal(MNIST("data/bright").images, torch.from_numpy(images))
    err = capfd.readouterr().err
    assert err.startswith(f"warning: {Path('data/bright')} ") and err.count("\n") == 1
    assert "ink must be white (255) on black (0)" in err


def test_what_a_mac_leaves_in_a_folder_is_ignored_silently(workplace, real, capfd):
    folder = workplace / "data/train"
    images = MNIST(folder).images
    for name in (f"._{real['train'][0][0]}", ".DS_Store", "._.DS_Store", "._photo.jpg"):
        (folder / name).write_bytes(b"\0\5\26\7")
    split = MNIST(folder)
    assert torch.equal(split.images, images) and len(split) == 200
    assert capfd.readouterr().err == ""


def test_images_under_other_endings_are_counted_in_one_warning(workplace, real, capfd):
    folder = workplace / "data/train"
    folder.mkdir()
    for index, (name, content) in enumerate(real["train"][:9]):
        own = folder / name
        own.with_suffix({0: ".PNG", 1: ".jpg", 2: ".JPEG"}.get(index, ".png")).write_bytes(content)
    (workplace / "data/train.tar").unlink()
    (folder / "notes.txt").write_text("mine")
    assert len(MNIST(folder).images) == 6
    err = capfd.readouterr().err
    assert err.startswith("warning: ") and err.count("\n") == 1
    assert "3 images that are ignored" in err and real["train"][0][0][:-4] + ".PNG" in err


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_link_that_leads_nowhere_is_none_of_ours(workplace):
    folder = workplace / "data/train"
    images = MNIST(folder).images
    (folder / ".#notes.txt").symlink_to("user@host.1234")  # as Emacs marks a file being edited
    assert torch.equal(MNIST(folder).images, images)


# --- The Dataset and the batches --------------------------------------------------------------


def test_dataset_is_normalised_sorted_and_typed(workplace, real):
    split = MNIST("data/test")
    image, label = split[42]
    name, content = real["test"][42]
    pixels = decode_png(content).astype(np.float64)
    assert image.dtype == torch.float32 and image.shape == (1, 28, 28)
    assert np.allclose(image[0].numpy(), (pixels / 255 - 0.1307) / 0.3081, atol=1e-6)
    assert type(label) is int and label == parse_name(name)[1]
    assert (split.labels.dtype, split.images.dtype) == (torch.int64, torch.uint8)
    assert torch.allclose(normalise(split.images)[42], image, atol=1e-6)
    assert split.names == [name for name, _ in real["test"][:50]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_dataset_through_a_data_loader(workplace, num_workers):
    split = MNIST("data/test")
    loader = DataLoader(split, batch_size=16, num_workers=num_workers)
    images, labels = zip(*loader, strict=True)
    assert [len(batch) for batch in labels] == [16] * 3 + [2]
    assert torch.equal(torch.cat(labels), split.labels)
    assert torch.allclose(torch.cat(images), normalise(split.images), atol=1e-6)


def test_transform_replaces_the_normalisation(workplace):
    split = MNIST("data/test", transform=lambda image: image.getpixel((14, 14)))
    assert split[5][0] == split.images[5, 14, 14]


def test_a_file_that_is_no_image_is_named(workplace):
    folder = workplace / "data/train"
    MNIST(folder)
    (folder / "88888_1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"88888_1\.png: it is not a PNG"):
        _ = MNIST(folder).images
    (folder / "cat.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cat\.png: the name"):
        MNIST(folder)


def test_batches_hold_every_image_once_in_a_seeded_order(monkeypatch):
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 28, 28)
    split = Split(images, torch.arange(10))

    def order(seed, rank=0, world_size=1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        batches = Batches(split, 4, torch.Generator().manual_seed(seed))
        assert len(batches) == 3
        return [[labels.tolist() for _, labels, _ in batches] for _ in range(2)]

    first, second = order(seed=1)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert [first, second] == order(seed=1) != order(seed=2)
    shares = [order(1, rank, world_size=3)[0] for rank in range(3)]
    assert [list(map(len, share)) for share in shares] == [[2, 2, 1], [1, 1, 1], [1, 1, 0]]
    for batch, *parts in zip(first, *shares, strict=True):
        assert sorted(chain(*parts)) == sorted(batch)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    for image_batch, label_batch, size in Batches(split, 4):
        assert torch.equal(image_batch[:, 0, 0, 0].long(), label_batch)
        assert size == len(label_batch)
