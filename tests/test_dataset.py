"""dataset.py: the shipped archives, the Dataset, validation images, batches, the command."""

import hashlib
import struct
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, decode, images_of, tar_bytes, tree, write_archives
from PIL import Image
from torch.utils.data import DataLoader

import dataset
from dataset import MNIST, Batches, Split, digest, load_splits, normalise
from utils.archives import parse_name, read_archive, write_archive


def idx_files(images, labels):
    """Return images uint8 [N, 28, 28] and labels in the layout of the original files."""
    header = struct.pack(">IIII", 2051, len(images), 28, 28)
    return header + images.tobytes(), struct.pack(">II", 2049, len(labels)) + bytes(labels)


# --- The shipped archives ---------------------------------------------------------------------

MD5 = {  # of the original files: images, labels
    "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_shipped_archives_are_the_original_mnist(split):
    path = ROOT / f"data/{split}.tar.xz"
    _, files = read_archive(path, split)
    labels = [parse_name(name)[1] for name in files]
    assert list(files) == [f"{index:05d}_{label}.png" for index, label in enumerate(labels)]
    images = np.stack([decode(content) for content in files.values()])
    sums = [hashlib.md5(content).hexdigest() for content in idx_files(images, labels)]
    assert tuple(sums) == MD5[split]
    loaded = Split(torch.from_numpy(images), torch.tensor(labels))
    assert digest(loaded) == dataset.SHIPPED[split]
    loaded.labels[7] += 1
    assert digest(loaded) != dataset.SHIPPED[split]


# --- The Dataset and the batches --------------------------------------------------------------


def test_dataset_is_normalised_sorted_and_typed(small, real):
    split = MNIST("data/test")
    image, label = split[42]
    name, content = real["test"][42]
    assert image.dtype == torch.float32 and image.shape == (1, 28, 28)
    assert np.allclose(image[0], (decode(content) / 255 - 0.1307) / 0.3081, atol=1e-6)
    assert type(label) is int and label == parse_name(name)[1]
    assert (split.labels.dtype, split.images.dtype) == (torch.int64, torch.uint8)
    assert split.names == [name for name, _ in real["test"][:100]]
    batches = list(DataLoader(split, batch_size=16, num_workers=2))
    assert torch.equal(torch.cat([labels for _, labels in batches]), split.labels)
    assert torch.equal(torch.cat([images for images, _ in batches]), normalise(split.images))
    split.transform = lambda image: image.getpixel((14, 13))
    assert split[5][0] == split.images[5, 13, 14]


def test_batches_hold_every_image_once_in_a_seeded_order(processes):
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 28, 28)
    split = Split(images, torch.arange(10))
    for image_batch, label_batch, size in Batches(split, 4):
        assert torch.equal(image_batch[:, 0, 0, 0].long(), label_batch)
        assert size == len(label_batch)

    def order(seed, rank=0, world_size=1):
        processes(world_size, rank)
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


# --- Validation images ------------------------------------------------------------------------


def parts(val_size):
    """Return both parts' indices in the folder, by images that differ from each other."""
    images = [image.numpy().tobytes() for image in MNIST("data/train").images]
    splits = load_splits("data", val_size)
    for split in splits:
        rows = [images.index(image.numpy().tobytes()) for image in split.images]
        assert torch.equal(split.labels, MNIST("data/train").labels[rows])
        yield rows


def test_mnist_is_validated_on_its_last_images(small, monkeypatch):
    monkeypatch.setitem(dataset.SHIPPED, "train", digest(load_splits("data", 0)[0]))
    assert list(parts(30)) == [list(range(270)), list(range(270, 300))]


def test_test_images_that_are_training_images_are_counted(small, real, capsys):
    load_splits("data", 0)
    assert capsys.readouterr().err == ""
    members = [(f"test/{name}", content) for name, content in real["train"][290:310]]
    data = write_archives(small / "leak", real, 300, 0)
    (data / "test.tar").write_bytes(tar_bytes(members))
    load_splits("leak", 0)
    assert capsys.readouterr().err == (
        "warning: leak: 10 of 20 test images are training images, too; remove them from one of "
        "the two\n"
    )


@pytest.mark.parametrize("val_size", [10, 20, 60])
def test_other_data_is_validated_on_the_last_images_of_every_class(fresh, real, val_size):
    members = sorted(real["train"][:200], key=lambda member: member[0][6])  # a sheet, 0 to 9
    labels = [int(name[6]) for name, _ in members]
    files = [(content, label) for (_, content), label in zip(members, labels, strict=True)]
    write_archive(Path("data/train.tar"), "train", files)
    training, validation = parts(val_size)
    assert sorted(training + validation) == list(range(200)) and len(validation) == val_size
    assert training == sorted(training) and validation == sorted(validation)
    for label in range(10):
        rows = [index for index in range(200) if labels[index] == label]
        chosen = [index for index in validation if labels[index] == label]
        assert chosen and chosen == rows[-len(chosen) :]
        assert abs(len(chosen) - len(rows) * val_size / 200) <= 1


# --- The command ------------------------------------------------------------------------------


def write(*names):
    """Make files that hold no image."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"something")


NOTHING = {  # what: (files that are there, --data_dir, what the line tells)
    "typo": (["digits/train/0_5.png"], "digit", "digit/train: no images"),
    "one folder too deep": (["my/train/0_5.png"], "my/train", "holds 0_5.png; --data_dir is"),
    "classes": ([f"my/train/{n}/{n}.png" for n in range(10)], "my", "train holds 0, 1, 2, ...;"),
    "empty folder": (["my/train/.DS_Store"], "my", "holds nothing"),
    "photographs": ([f"my/train/{n}.jpg" for n in "ab"], "my", "my/train holds a.jpg, b.jpg"),
    "no image": (["my/train/0_5.png"], "my", "0_5.png: it is not a PNG image"),
    "other name": (["my/train/cat.png"], "my", "cat.png: the name is not {ID}_{Label}.png"),
    "same ID": (["my/train/3_1.png", "my/train/3_7.png"], "my", "python dataset.py --merge"),
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_is_there_instead_of_images_is_said(tmp_path, monkeypatch, refused, what):
    files, data_dir, tells = NOTHING[what]
    monkeypatch.chdir(tmp_path)
    write(*files)
    assert tells in refused(dataset, "--data_dir", data_dir)


@pytest.mark.parametrize("name", ["MNIST", "QMNIST"])
def test_original_files_are_packed_extracted_and_drawn_offline(fresh, real, cli, name):
    raw = fresh / "new" / name / "raw"
    raw.mkdir(parents=True)
    prefix = "qmnist-" if name == "QMNIST" else ""
    for split, stem in (("train", "train"), ("test", "test" if name == "QMNIST" else "t10k")):
        images, labels = images_of(real[split][:150])
        image_file, label_file = idx_files(images, labels.tolist())
        (raw / f"{prefix}{stem}-images-idx3-ubyte").write_bytes(image_file)
        if name == "QMNIST":  # 8 columns of int32, the first of which is the label
            table = np.zeros((150, 8), ">i4")
            table[:, 0] = labels
            label_file = struct.pack(">III", 0x0C02, 150, 8) + table.tobytes()
            (raw / f"qmnist-{stem}-labels-idx2-int").write_bytes(label_file)
        else:
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(label_file)

    flags = ("--data_dir", "new", "--dataset", name)
    code, out, err = cli(dataset, *flags)
    assert code == 0, err
    assert "train dataset length: 150\ntest dataset length: 150\n" in out
    folder = fresh / "new" / ("" if name == "MNIST" else name)
    first_name, first_content = real["test"][0]
    assert (folder / "test" / first_name).read_bytes() == first_content
    assert "not packed again" in cli(dataset, *flags)[1]
    with Image.open("plots/samples.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 800


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", b"\0\0\x08\x03\0\0\0\x09"])
def test_damaged_original_files_are_one_line(tmp_path, monkeypatch, refused, content):
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data/KMNIST/raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{split}-{kind}-ubyte").write_bytes(content)
    err = refused(dataset, "--dataset", "KMNIST")
    assert err.startswith("KMNIST: ") and "remove those that are damaged" in err


@pytest.fixture
def shared(fresh, real):
    """What Anna, Ben and Clara hand in: list of file or folder, 10 images each."""
    for index, person in enumerate(("anna", "ben", "clara")):
        members = real["train"][10 * index :][:10]
        # By their names 10 to 14 would come before 5 to 9.
        files = {f"train/{n}_{name[6]}.png": png for n, (name, png) in enumerate(members, 5)}
        if person == "clara":  # has photographed hers
            Path("clara/train").mkdir(parents=True)
            for name, content in files.items():
                Path("clara", name).write_bytes(content)
        else:
            Path(f"{person}.tar").write_bytes(tar_bytes(files.items()))
    return ["anna.tar", "ben.tar", "clara/train"]


def test_images_of_several_people_are_merged(shared, real, cli):
    code, out, err = cli(dataset, "--merge", *shared, "--data_dir", "class")
    assert (code, err) == (0, "") and "30 images" in out
    with tarfile.open("class/train.tar", "r:") as tar:
        assert tar.getnames() == [f"train/{name}" for name, _ in real["train"][:30]]
    split = MNIST("class/train")
    assert tree(split.folder) == dict(real["train"][:30])


def test_a_later_download_of_the_same_person_adds_its_new_images(shared, real, cli):
    members = [(f"train/{name}", content) for name, content in real["train"][:20]]
    Path("later.tar").write_bytes(tar_bytes(members))
    code, out, _ = cli(dataset, "--merge", "anna.tar", "later.tar", "--data_dir", "class")
    assert code == 0 and "20 images; 10 were there twice" in out


WRONG_MERGES = {  # what: (sources, what the line tells)
    "train and test": (["anna.tar", "data/test.tar"], "has images of 'test'"),
    "no split": (["other.tar"], "has images of 'other'"),
    "hostile": (["anna.tar", "evil.tar"], "evil.tar: member '/etc/0_5.png'"),
    "no image": (["empty.tar"], "empty.tar: 0_5.png: it is not a PNG"),
    "two labels": (["anna.tar", "corrected.tar"], "corrected.tar: 0_9.png is labelled 9, but"),
    "missing": (["dora.tar"], "dora.tar"),
    "folder without images": (["data"], "holds test.tar, train.tar"),
}


@pytest.mark.parametrize("what", WRONG_MERGES)
def test_what_cannot_be_merged_is_refused_in_one_line(shared, real, refused, what):
    sources, tells = WRONG_MERGES[what]
    first = real["train"][0][1]  # a 5, in anna's file too
    made = {"other": "other/0_5.png", "evil": "/etc/0_5.png", "corrected": "train/0_9.png"}
    for name, member in made.items():
        Path(f"{name}.tar").write_bytes(tar_bytes([(member, first)]))
    Path("empty.tar").write_bytes(tar_bytes([("train/0_5.png", b"")]))
    assert tells in refused(dataset, "--merge", *sources, "--data_dir", "class")
    assert not Path("class").exists()


@pytest.mark.parametrize("there", ["train.tar", "train.tar.xz", "train/0_5.png"])
def test_merging_overwrites_nothing(shared, refused, there):
    write(f"class/{there}")
    before = tree(Path("class"))
    assert "is there already" in refused(dataset, "--merge", *shared, "--data_dir", "class")
    assert tree(Path("class")) == before
