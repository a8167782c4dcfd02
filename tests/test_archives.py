"""dataset.py: every hostile, broken or mistaken archive is refused and leaves no trace."""

import gzip
import io
import lzma
import random
import struct
import tarfile
from pathlib import Path

import pytest
from conftest import special, tar_bytes
from utils.files import UserError
from PIL import Image

import dataset


def tree(folder):
    """Return every path below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def png(mode="L", size=(28, 28), kind="png", **options):
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind, **options)
    return content.getvalue()


def bomb():
    """A PNG whose header tells of 50,000 x 50,000 pixels."""
    content = bytearray(png())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    return bytes(content)


def damaged_pixels():
    content = bytearray(png(compress_level=0))
    content[100] ^= 255
    return bytes(content)


HOSTILE = {  # what: (members before which and after which good ones stand, what the line tells)
    "path traversal": ([("train/../../evil_1.png", png())], "leads out"),
    "path traversal within": ([("../train/00100_1.png", png())], "leads out"),
    "absolute name": ([("/train/00100_1.png", png())], "absolute"),
    "drive letter": ([("C:/train/00100_1.png", png())], "absolute"),
    "symbolic link": ([(special("train/00100_1.png", tarfile.SYMTYPE, "/etc"), b"")], "link"),
    "hard link": ([(special("train/00100_1.png", tarfile.LNKTYPE, "train/x"), b"")], "link"),
    "device": ([(special("train/00100_1.png", tarfile.CHRTYPE), b"")], "device"),
    "pipe": ([(special("train/00100_1.png", tarfile.FIFOTYPE), b"")], "special"),
    "duplicate ID": ([("train/00000_3.png", png())], "twice"),
    "same ID, other digits": ([("train/0_3.png", png())], "twice"),
    "other name": ([("train/readme.txt", b"hello")], "{ID}_{Label}.png"),
    "line break in a name": ([("train/0\n1_1.png", png())], "{ID}_{Label}.png"),
    "no folder": ([("00100_1.png", png())], "train/{ID}_{Label}.png"),
    "deeper folder": ([("train/more/00100_1.png", png())], "train/{ID}_{Label}.png"),
    "label 10": ([("train/00100_10.png", png())], "label 10"),
    "label -1": ([("train/00100_-1.png", png())], "{ID}_{Label}.png"),
    "not a PNG": ([("train/00100_1.png", b"\xff\xd8\xff" + bytes(99))], "not a PNG"),
    "a JPEG": ([("train/00100_1.png", png(kind="jpeg"))], "not a PNG"),
    "empty member": ([("train/00100_1.png", b"")], "not a PNG"),
    "cut PNG": ([("train/00100_1.png", png()[:60])], "damaged"),
    "damaged pixels": ([("train/00100_1.png", damaged_pixels())], "damaged"),
    "larger image": ([("train/00100_1.png", png(size=(32, 32)))], "32x32"),
    "oversized image": ([("train/00100_1.png", bomb())], "50000x50000"),
    "colour image": ([("train/00100_1.png", png("RGB"))], "8-bit grey"),
    "oversized member": ([("train/00100_1.png", png() + bytes(2**20))], "too many"),
    "other split": ([("test/00100_1.png", png())], "train/{ID}_{Label}.png"),
}


def assert_refused(cli, workplace, archive, *tells):
    before = tree(workplace / "data")
    code, _, err = cli(dataset)
    assert code == 2
    assert err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err
    for text in (str(Path("data") / archive), *tells):
        assert text in err
    assert tree(workplace / "data") == before
    assert not (workplace / "evil_1.png").exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archive_is_refused_and_leaves_no_trace(workplace, real, cli, kind):
    members, tells = HOSTILE[kind]
    good = [(f"train/{name}", content) for name, content in real["train"]]
    (workplace / "data/train.tar").write_bytes(tar_bytes(good[:60] + members + good[60:80]))
    first = members[0][0]
    name = first.name if isinstance(first, tarfile.TarInfo) else first
    assert_refused(cli, workplace, "train.tar", repr(name), tells)


def test_bad_test_archive_leaves_train_unextracted_too(workplace, real, cli):
    members = [(f"test/{name}", content) for name, content in real["test"][:9]]
    (workplace / "data/test.tar").write_bytes(tar_bytes([*members, ("test/x.png", b"")]))
    assert_refused(cli, workplace, "test.tar", "'test/x.png'")


def test_archive_without_images_is_refused(workplace, cli):
    (workplace / "data/train.tar").write_bytes(
        tar_bytes([(special("train", tarfile.DIRTYPE), b"")])
    )
    assert_refused(cli, workplace, "train.tar", "no images")


def cut(archive, suffix):
    """The archive breaks off: in a member, between two members, before its end mark."""
    if suffix == ".tar":
        end = archive.rindex(b".png\0")  # the header of the last member begins before
        return [archive[: end // 1024 * 512], archive[: end - end % 512], b"", archive[:300]]
    pack = lzma.compress if suffix == ".tar.xz" else gzip.compress
    whole = pack(archive)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    return [whole[: len(whole) // 2], whole[:-3], bytes(flipped), archive]


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz"])
@pytest.mark.parametrize("way", range(4))
def test_truncated_or_corrupted_archive_is_refused(workplace, archives, cli, suffix, way):
    (workplace / "data/train.tar").unlink()
    archive = workplace / f"data/train{suffix}"
    archive.write_bytes(cut(archives["train"], suffix)[way])
    assert_refused(cli, workplace, archive.name)


def test_corrupted_header_in_the_midst_is_not_taken_for_the_end(workplace, archives, cli):
    content = bytearray(archives["train"])
    position = content.index(b"train/01000_") + 200
    content[position] ^= 255
    (workplace / "data/train.tar").write_bytes(content)
    assert_refused(cli, workplace, "train.tar", "00999_")


def test_header_that_asks_for_gigabytes_is_refused(workplace, real, cli):
    header = special("train/00000_1.png", tarfile.XHDTYPE)
    header.size = 4 * 2**30
    good = tar_bytes([(f"train/{name}", content) for name, content in real["train"][:2]])
    (workplace / "data/train.tar").write_bytes(header.tobuf() + bytes(2**20) + good)
    assert_refused(cli, workplace, "train.tar", "4,294,967,296")


def test_no_damage_gets_past_as_anything_but_a_clear_error(tmp_path, real):
    good = tar_bytes([(f"train/{name}", content) for name, content in real["train"][:4]])
    expected = real["train"][:4]
    chance = random.Random(0)
    refusals = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path = tmp_path / "train.tar"
        path.write_bytes(content)
        try:
            members = list(archives.read_archive(path, "train"))
            [archives.decode_png(png) for _, png in members]
        except (UserError, ValueError):
            refusals += 1
        else:
            assert members == expected
    assert refusals > 200
