"""utils/archives.py: every hostile, broken or mistaken archive is refused and leaves no trace."""

import gzip
import io
import itertools
import lzma
import os
import struct
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import first_members, special, tar_bytes
from hypothesis import given
from mutations import mutate, mutations
from PIL import Image

import dataset
from dataset import MNIST
from utils.archives import decode_png, read_archive
from utils.files import UserError

MODES = {".tar": "w", ".tar.xz": "w:xz", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2"}
SIZES = {"train": 200, "test": 50}  # enough for what is tested here


@pytest.fixture(scope="module")
def archives(real):
    """Plain tars of fewer members than other tests need: split -> bytes."""
    return first_members(real, SIZES)


def tree(folder):
    """Return every path below a folder with its content, but for the lock of extractions."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
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
    "path traversal": ([("train/../../evil_1.png", png())], "train/{ID}_{Label}.png"),
    "path traversal within": ([("../train/00100_1.png", png())], "train/{ID}_{Label}.png"),
    "absolute name": ([("/train/00100_1.png", png())], "train/{ID}_{Label}.png"),
    "drive letter": ([("C:/train/00100_1.png", png())], "train/{ID}_{Label}.png"),
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
    position = content.index(b"train/00100_") + 200
    content[position] ^= 255
    (workplace / "data/train.tar").write_bytes(content)
    assert_refused(cli, workplace, "train.tar", "00099_")


def test_header_that_asks_for_gigabytes_is_refused(workplace, real, cli):
    header = special("train/00000_1.png", tarfile.XHDTYPE)
    header.size = 4 * 2**30
    good = tar_bytes([(f"train/{name}", content) for name, content in real["train"][:2]])
    (workplace / "data/train.tar").write_bytes(header.tobuf() + bytes(2**20) + good)
    assert_refused(cli, workplace, "train.tar", "4,294,967,296")


BELOW_ZERO = {  # what: (name, kind and size of the member)
    "image": ("train/00100_1.png", tarfile.REGTYPE, -512),
    "image, the rest of the archive": ("train/00100_1.png", tarfile.REGTYPE, -1),
    "skipped file": ("train/._x", tarfile.REGTYPE, -512),
    "skipped sparse file": ("train/._x", tarfile.GNUTYPE_SPARSE, -512),
    "extended header": ("train/x", tarfile.XHDTYPE, -(2**80)),
}


@pytest.mark.parametrize("what", BELOW_ZERO)
def test_size_below_zero_neither_leads_back_nor_reads_on(tmp_path, real, monkeypatch, what):
    name, kind, size = BELOW_ZERO[what]
    header, path = special(name, kind), tmp_path / "train.tar"
    header.size = size
    first, rest = real["train"][0], [(f"train/{name}", png) for name, png in real["train"][1:9]]
    before = tar_bytes([(f"train/{first[0]}", first[1])]).rstrip(b"\0")
    before += bytes(-len(before) % tarfile.BLOCKSIZE)
    path.write_bytes(before + header.tobuf(tarfile.GNU_FORMAT) + tar_bytes(rest))
    steps, next_member = itertools.count(), tarfile.TarFile.next

    def step(tar):
        assert next(steps) < 100, "the same header again and again"
        return next_member(tar)

    monkeypatch.setattr(tarfile.TarFile, "next", step)
    with pytest.raises(UserError, match=r"train\.tar"):
        list(read_archive(path, "train"))


@pytest.mark.parametrize("count", [6, 200])  # what follows is less than a record, and more
def test_zeroed_header_in_the_midst_is_not_taken_for_the_end(workplace, real, cli, count):
    content = tar_bytes((f"train/{name}", png) for name, png in real["train"][:count])
    middle = content.index(b"train/%05d_" % (count // 2))
    zeros = bytes(tarfile.BLOCKSIZE)
    content = content[:middle] + zeros + content[middle + tarfile.BLOCKSIZE :]
    (workplace / "data/train.tar").write_bytes(content)
    last = f"{count // 2 - 1:05d}_"
    assert_refused(cli, workplace, "train.tar", last, "breaks off or is damaged")


def test_hole_to_the_end_is_not_taken_for_the_end(workplace, archives, cli):
    content = archives["train"]
    position = content.index(b"train/00100_")
    (workplace / "data/train.tar").write_bytes(content[:position].ljust(len(content), b"\0"))
    assert_refused(cli, workplace, "train.tar", "00099_", "breaks off or is damaged")


@pytest.mark.parametrize("head", [[], [(special("train", tarfile.DIRTYPE), b"")]])
def test_every_length_of_padding_is_accepted(tmp_path, real, head):
    paddings, path = set(), tmp_path / "train.tar"
    for count in range(1, 41):
        members = real["train"][:count]
        path.write_bytes(tar_bytes(head + [(f"train/{name}", png) for name, png in members]))
        assert list(read_archive(path, "train")) == members
        content = path.read_bytes()
        paddings.add((len(content) - len(content.rstrip(b"\0"))) // tarfile.BLOCKSIZE)
    assert paddings >= {2, tarfile.RECORDSIZE // tarfile.BLOCKSIZE + 1}  # the least, the most


@pytest.mark.parametrize("suffix, place", [(".tar.gz", -5), (".tar.bz2", -3), (".tar.xz", -40)])
def test_checksum_behind_the_longest_padding_is_checked(tmp_path, real, suffix, place):
    members = [(f"train/{name}", png) for name, png in real["train"][:13]]
    whole = tar_bytes(members)
    assert len(whole) - len(whole.rstrip(b"\0")) > tarfile.RECORDSIZE
    content = bytearray(tar_bytes(members, MODES[suffix]))
    content[place] ^= 1
    path = tmp_path / f"train{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.tar"):
        list(read_archive(path, "train"))


def test_what_a_mac_adds_to_an_archive_is_skipped(workplace, real, cli):
    members = [(f"train/{name}", content) for name, content in real["train"][:9]]
    first, junk = real["train"][0][0], b"\0\5\26\7" + bytes(200)
    names = [f"{folder}._{first}" for folder in ("train/", "__MACOSX/train/", "train/../../")]
    names += ["train/.DS_Store", "._train", "__MACOSX/._train", "__MACOSX/../../evil_1.png"]
    added = [(name, junk) for name in names]
    (workplace / "data/train.tar").write_bytes(tar_bytes(added + members + added))
    code, out, err = cli(dataset)
    assert (code, err) == (0, "") and "train dataset length: 9\n" in out
    assert tree(workplace / "data/train") == dict(real["train"][:9])
    assert not [*workplace.parent.glob("*.png"), *workplace.glob("*.png")]


@pytest.mark.parametrize("blocked", [".lock", ".train.partial"])
def test_data_folder_that_cannot_be_written_is_one_line(workplace, cli, blocked):
    if blocked == ".lock":
        (workplace / "data/.lock").mkdir()
    else:
        (workplace / "data" / blocked).write_bytes(b"")
    assert_refused(cli, workplace, blocked, "cannot be extracted", "make the folder writable")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_full_disk_is_one_line_and_leaves_nothing_behind(workplace, script):
    import resource

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    before = tree(workplace)
    # Without the flag, Python would leave cut-off .pyc files of this project's modules.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = script("dataset.py", preexec_fn=limit_file_size, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot be extracted" in done.stderr and "free some space" in done.stderr
    assert tree(workplace) == before


# --- Random damage ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(real):
    """Six images as (name -> pixels), and their archives by suffix."""
    members = [(f"train/{name}", content) for name, content in real["train"][:6]]
    images = {name: decode_png(content).tobytes() for name, content in real["train"][:6]}
    return images, {suffix: tar_bytes(members, mode) for suffix, mode in MODES.items()}


def extracted(suffix, content):
    """Return name -> pixels of an archive, {} if it is refused: in one line, without a trace."""
    with TemporaryDirectory() as place:
        archive = Path(place) / f"train{suffix}"
        archive.write_bytes(content)
        try:
            split = MNIST(archive.with_name("train"))
        except UserError as error:
            assert str(archive) in str(error) and str(error).isprintable()
            assert tree(archive.parent) == {archive.name: content}
            return {}
        files = tree(split.folder)
        pixels = {name: decode_png(content).tobytes() for name, content in files.items()}
        assert split.names == sorted(pixels)
        assert [image.numpy().tobytes() for image in split.images] == [*pixels.values()]
        return pixels


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".tar.bz2"])
@given(operations=mutations())
def test_no_damage_gets_past_a_compressed_archive(packed, suffix, operations):
    images, contents = packed
    assert extracted(suffix, mutate(contents[suffix], operations)) in (images, {})


@given(operations=mutations(("flip", "cut", "insert")))
def test_no_damage_gets_past_a_plain_archive(packed, operations):
    images, contents = packed
    assert extracted(".tar", mutate(contents[".tar"], operations)) in (images, {})


@given(operations=mutations())
def test_no_damage_to_a_plain_archive_changes_an_image(packed, operations):
    # A tar knows no sum over all of it: without some of its blocks, or with two of them swapped,
    # it can be a whole archive of fewer images or other labels. No pixel changes even so.
    images, contents = packed
    loaded = extracted(".tar", mutate(contents[".tar"], operations))
    assert set(loaded.values()) <= set(images.values())


def test_random_damage_is_found_and_what_is_whole_is_read(packed):
    images, contents = packed
    for suffix, content in contents.items():
        assert extracted(suffix, content) == images
        assert extracted(suffix, content[: len(content) // 2]) == {}
