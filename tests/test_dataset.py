"""dataset.py: the shipped archives, extraction, hostile archives, the cache, the Dataset."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SIZES, special, tar_bytes
from utils.files import UserError
from PIL import Image
from torch.utils.data import DataLoader

import dataset
from dataset import MNIST, Batches, normalise

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
    for index, (name, content) in enumerate(
        archives.read_archive(ROOT / f"data/{split}.tar.xz", split)
    ):
        image_id, label = archives.parse_name(name)
        assert (image_id, name) == (index, f"{index:05d}_{label}.png")
        images.append(archives.decode_png(content))
        labels.append(label)
    sums = [hashlib.md5(content).hexdigest() for content in idx_files(np.stack(images), labels)]
    assert tuple(sums) == MD5[split]


def test_packing_twice_gives_the_same_bytes_and_the_shipped_members(tmp_path, real):
    members = real["test"][:100]
    images = np.stack([archives.decode_png(content) for _, content in members])
    labels = [archives.parse_name(name)[1] for name, _ in members]
    for folder in ("once", "again"):
        archives.write_archive(tmp_path / folder / "test.tar.xz", "test", images, labels)
    once, again = ((tmp_path / f / "test.tar.xz").read_bytes() for f in ("once", "again"))
    assert once == again
    assert list(archives.read_archive(tmp_path / "once/test.tar.xz", "test")) == members


@pytest.mark.parametrize("name", dataset.DATASETS)
def test_original_files_are_packed_extracted_and_trained_on_offline(workplace, real, cli, name):
    raw = workplace / "new" / name / "raw"
    raw.mkdir(parents=True)
    prefix = {"MNIST": "", "FashionMNIST": "", "KMNIST": "", "QMNIST": "qmnist-"}[name]
    for split, stem in (("train", "train"), ("test", "test" if name == "QMNIST" else "t10k")):
        members = real[split][:150]
        images = np.stack([archives.decode_png(content) for _, content in members])
        labels = [archives.parse_name(name)[1] for name, _ in members]
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


# --- Extraction -------------------------------------------------------------------------------


def test_command_extracts_once_and_draws_samples(workplace, real, cli):
    code, out, err = cli(dataset)
    assert (code, err) == (0, "")
    assert "train dataset length: 2000\ntest dataset length: 500\n" in out
    for split in SIZES:
        files = {path.name: path.read_bytes() for path in (workplace / "data" / split).iterdir()}
        assert files == dict(real[split])
    with Image.open("plots/samples.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 800
    before = {path: path.stat().st_mtime_ns for path in (workplace / "data").rglob("*")}
    code, out, _ = cli(dataset)
    assert code == 0 and out.count("all in place, nothing to do") == 2
    assert before == {path: path.stat().st_mtime_ns for path in (workplace / "data").rglob("*")}


@pytest.mark.parametrize("mode, suffix", [("w:gz", "tar.gz"), ("w:gz", "tgz"), ("w:bz2", "tar.bz2"),
                                          ("w:xz", "tar.xz"), ("w", "tar")])  # fmt: skip
def test_every_kind_of_archive_is_read(tmp_path, real, mode, suffix):
    members = [(f"test/{name}", content) for name, content in real["test"][:20]]
    members.insert(0, (special("./test", tarfile.DIRTYPE), b""))
    (tmp_path / f"test.{suffix}").write_bytes(tar_bytes(members, mode))
    images = MNIST(tmp_path / "test").images
    assert torch.equal(images[3], torch.from_numpy(archives.decode_png(real["test"][3][1])))
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
    assert "train dataset length: 2001" in out  # 2000, one of them relabelled, and 99999_4
    assert (own / "notes.txt").read_text() == "mine"
    assert (own / relabelled).read_bytes() == real["train"][8][1]


def test_killed_extraction_is_completed(workplace, real):
    flags = [sys.executable, str(ROOT / "dataset.py")]
    process = subprocess.Popen(flags, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    staging = workplace / "data/.train.partial"
    while process.poll() is None and not (staging.exists() and len(os.listdir(staging)) > 50):
        time.sleep(0.001)  # until it is in the midst of its work
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert staging.exists() and not (workplace / "data/train").exists()
    assert len(MNIST("data/train")) == 2000
    assert not staging.exists()


def test_extraction_killed_while_adding_to_a_folder_is_completed(workplace, real):
    (workplace / "data/train").mkdir()
    (workplace / "data/.train.partial").mkdir()
    for name, content in real["train"][:3]:
        (workplace / "data/train" / name).write_bytes(content)
    assert len(MNIST("data/train")) == 2000


def test_two_extractions_at_once_do_not_disturb_each_other(workplace):
    flags = [sys.executable, str(ROOT / "dataset.py")]
    both = [subprocess.Popen(flags, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and "train dataset length: 2000" in out
    names = {"train", "test", "train.tar", "test.tar", "train.cache.npz", "test.cache.npz"}
    assert set(os.listdir("data")) == names


def test_missing_archive_says_what_and_where(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(dataset, "--data_dir", "nowhere")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "train{.tar,.tar.xz" in err and "--dataset MNIST" in err


def test_wrong_flag_is_one_line(cli):
    code, _, err = cli(dataset, "--dataset", "CIFAR10")
    assert code == 2 and err.count("\n") == 1 and "FashionMNIST" in err


# --- The cache --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("content", [b"", b"not a cache", None])
def test_damaged_cache_is_replaced(workplace, content):
    images = MNIST("data/train").images
    cache = workplace / "data/train.cache.npz"
    whole = cache.read_bytes()
    cache.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert torch.equal(MNIST("data/train").images, images)
    assert cache.read_bytes() == whole


def test_folder_that_cannot_be_written_means_no_cache(workplace, monkeypatch, capsys):
    images = MNIST("data/train").images
    (workplace / "data/train.cache.npz").unlink()

    def read_only(path, content):
        raise UserError(f"{path}: cannot be written")

    monkeypatch.setattr(dataset, "write_whole", read_only)
    assert torch.equal(MNIST("data/train").images, images)
    assert "no cache" in capsys.readouterr().err


# --- The Dataset and the batches --------------------------------------------------------------


def test_dataset_is_normalised_sorted_and_typed(workplace, real):
    split = MNIST("data/test")
    image, label = split[42]
    name, content = real["test"][42]
    pixels = archives.decode_png(content).astype(np.float64)
    assert image.dtype == torch.float32 and image.shape == (1, 28, 28)
    assert np.allclose(image[0].numpy(), (pixels / 255 - 0.1307) / 0.3081, atol=1e-6)
    assert type(label) is int and label == archives.parse_name(name)[1]
    assert (split.labels.dtype, split.images.dtype) == (torch.int64, torch.uint8)
    assert torch.allclose(normalise(split.images)[42], image, atol=1e-6)
    assert split.names == [name for name, _ in real["test"]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_dataset_through_a_data_loader(workplace, num_workers):
    split = MNIST("data/test")
    loader = DataLoader(split, batch_size=64, num_workers=num_workers)
    images, labels = zip(*loader, strict=True)
    assert [len(batch) for batch in labels] == [64] * 7 + [52]
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


def test_batches_hold_every_image_once_in_a_seeded_order():
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 28, 28)
    labels = torch.arange(10)

    def order(seed, **share):
        generator = torch.Generator().manual_seed(seed)
        batches = Batches(images, labels, 4, generator, **share)
        assert len(batches) == 3
        return [[labels.tolist() for _, labels, _ in batches] for _ in range(2)]

    first, second = order(seed=1)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert [first, second] == order(seed=1) != order(seed=2)
    shares = [order(seed=1, rank=rank, world_size=3)[0] for rank in range(3)]
    for batch, *parts in zip(first, *shares, strict=True):
        assert sorted(chain(*parts)) == sorted(batch)
    for image_batch, label_batch, size in Batches(images, labels, 4):
        assert torch.equal(image_batch[:, 0, 0, 0].long(), label_batch)
        assert size == len(label_batch)
