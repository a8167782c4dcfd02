"""utils/archives.py: a hostile, broken or mistaken archive is refused whole, or read exactly."""

import io
import struct
import tarfile

import pytest
from conftest import tar_bytes, tree
from hypothesis import given
from hypothesis import strategies as st
from mutations import mutate, mutations
from PIL import Image

from dataset import MNIST
from utils import archives
from utils.archives import decode_files, decode_png, read_archive
from utils.files import UserError

MODES = {".tar": "w", ".tar.xz": "w:xz", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2"}


@pytest.fixture
def good(real):
    """Members of the train split: list of (name in the archive, PNG file)."""
    return [(f"train/{name}", content) for name, content in real["train"][:40]]


def assert_refused(path, *tells):
    """Assert that an archive is refused in one line, which tells this, and leaves no trace."""
    before = tree(path.parent)
    with pytest.raises(UserError) as refusal:
        MNIST(path.with_name("train"))
    assert str(refusal.value).isprintable()
    for text in (str(path), *tells):
        assert text in str(refusal.value)
    assert tree(path.parent) == before


# --- Hostile and mistaken members -------------------------------------------------------------


def special(name, kind, target=""):
    """Return a member of another kind than a file: a folder, a link, a device."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def png(mode="L", size=(28, 28), kind="png", **options):
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind, **options)
    return content.getvalue()


def changed(content, position, new):
    return content[:position] + new + content[position + len(new) :]


BOMB = changed(png(), 16, struct.pack(">II", 50_000, 50_000))  # the size its header states
NAME = "train/00100_1.png"
HOSTILE = {  # what: (member's name or header, its content, what the line tells)
    "path traversal": ("train/../../evil_1.png", png(), "train/{ID}_{Label}.png"),
    "absolute name": ("/train/00100_1.png", png(), "train/{ID}_{Label}.png"),
    "drive letter": ("C:/train/00100_1.png", png(), "train/{ID}_{Label}.png"),
    "symbolic link": (special(NAME, tarfile.SYMTYPE, "/etc"), b"", "link"),
    "hard link": (special(NAME, tarfile.LNKTYPE, "train/x"), b"", "link"),
    "duplicate ID": ("train/0_3.png", png(), "twice"),
    "other name": ("train/readme.txt", b"hello", "{ID}_{Label}.png"),
    "line break in a name": ("train/0\n1_1.png", png(), "{ID}_{Label}.png"),
    "deeper folder": ("train/more/00100_1.png", png(), "train/{ID}_{Label}.png"),
    "other split": ("test/00100_1.png", png(), "train/{ID}_{Label}.png"),
    "label 10": (
        "train/00100_10.png",
        png(),
        "label 10 is not 0 to 9, the CLASSES of utils/classes.py",
    ),
    "a JPEG": (NAME, png(kind="jpeg"), "00100_1.png: it is not a PNG"),
    "empty member": (NAME, b"", "00100_1.png: it is not a PNG"),
    "cut PNG": (NAME, png()[:60], "damaged"),
    "damaged pixels": (NAME, changed(png(compress_level=0), 100, b"\xff"), "damaged"),
    "larger image": (NAME, png(size=(32, 32)), "32x32"),
    "image of gigabytes": (NAME, BOMB, "00100_1.png"),
    "colour image": (NAME, png("RGB"), "8-bit grey"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archive_is_refused_and_leaves_no_trace(tmp_path, good, kind):
    member, content, tells = HOSTILE[kind]
    path = tmp_path / "train.tar"
    path.write_bytes(tar_bytes([*good[:30], (member, content), *good[30:]]))
    assert_refused(path, tells)


def test_what_macos_and_windows_add_to_an_archive_is_skipped(tmp_path, good):
    names = [f"{folder}._00000_5.png" for folder in ("train/", "__MACOSX/train/", "train/../../")]
    names += ["train/.DS_Store", "._train", "__MACOSX/._train", "__MACOSX/../../evil_1.png"]
    names += ["train/Thumbs.db", "train/desktop.ini"]
    added = [(name, b"\0\5\26\7" + bytes(200)) for name in names]
    (tmp_path / "train.tar").write_bytes(tar_bytes(added + good + added))
    MNIST(tmp_path / "train")
    assert tree(tmp_path / "train") == {name[6:]: content for name, content in good}
    assert not [*tmp_path.parent.glob("*.png"), *tmp_path.glob("*.png")]


@pytest.mark.parametrize("suffix", MODES)
def test_every_kind_of_archive_is_read_exactly_and_in_the_order_of_ids(tmp_path, good, suffix):
    path = tmp_path / f"dig(1{suffix}"  # a download's name, not the folder's in it
    members = [(special("./train", tarfile.DIRTYPE), b""), *reversed(good)]
    path.write_bytes(tar_bytes(members, MODES[suffix]))
    folder, files = read_archive(path)
    assert folder == "train"
    assert list(files.items()) == [(name[6:], content) for name, content in good]


# --- Broken archives --------------------------------------------------------------------------


DAMAGE = {  # what: content, position of a member -> content
    "empty": lambda tar, start: b"",
    "not a tar": lambda tar, start: b"no archive" * 200,
    "without images": lambda tar, start: tar_bytes([(special("train", tarfile.DIRTYPE), b"")]),
    "cut in the first header": lambda tar, start: tar[:300],
    "cut in a member": lambda tar, start: tar[: start + 700],
    "cut between members": lambda tar, start: tar[:start],
    "flipped bit in a header": lambda tar, start: changed(tar, start + 120, b"\xff"),
    "zeroed header": lambda tar, start: changed(tar, start, bytes(512)),
    "zeros to the end": lambda tar, start: tar[:start].ljust(len(tar), b"\0"),
}


@pytest.mark.parametrize(
    "damage, count",
    [*((damage, 40) for damage in DAMAGE), ("zeroed header", 6)],  # followed by less than a record
)
def test_broken_archive_is_not_taken_for_a_shorter_one(tmp_path, good, damage, count):
    tar = tar_bytes(good[:count])
    path = tmp_path / "train.tar"
    path.write_bytes(DAMAGE[damage](tar, tar.index(b"train/%05d_" % (count // 2))))
    assert_refused(path)


def test_every_length_of_padding_is_accepted(tmp_path, good):
    paddings, path = set(), tmp_path / "train.tar"
    for count in range(1, 41):
        content = tar_bytes(good[:count])
        path.write_bytes(content)
        assert len(read_archive(path)[1]) == count
        paddings.add((len(content) - len(content.rstrip(b"\0"))) // tarfile.BLOCKSIZE)
    assert {2, tarfile.RECORDSIZE // tarfile.BLOCKSIZE + 1} <= paddings  # the least, the most


def test_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, good, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 10_000)
    (tmp_path / "train.tar.xz").write_bytes(tar_bytes(good, "w:xz"))
    assert_refused(tmp_path / "train.tar.xz", "more than 10,000 bytes")


# --- Random damage ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(real, tmp_path_factory):
    """A folder, six images as (name -> pixels), and their archives by suffix."""
    files = dict(real["train"][:6])
    members = [(f"train/{name}", content) for name, content in files.items()]
    contents = {suffix: tar_bytes(members, mode) for suffix, mode in MODES.items()}
    pixels = {name: decode_png(content).tobytes() for name, content in files.items()}
    return tmp_path_factory.mktemp("packed"), pixels, contents


def read(folder, suffix, content):
    """Return an archive's files as name -> pixels, {} if it is refused in one line."""
    path = folder / f"train{suffix}"
    path.write_bytes(content)
    try:
        _, files = read_archive(path, "train")
        images, _ = decode_files(path, files)
    except UserError as error:
        assert str(path) in str(error) and str(error).isprintable()
        return {}
    return {name: image.tobytes() for name, image in zip(files, images, strict=True)}


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", ".tar.bz2"])
@given(data=st.data())
def test_no_damage_gets_past_an_archive(packed, suffix, data):
    folder, pixels, contents = packed
    operations = data.draw(mutations(whole_blocks=suffix != ".tar"))
    assert read(folder, suffix, mutate(contents[suffix], operations)) in (pixels, {})


@given(operations=mutations())
def test_no_damage_to_a_plain_archive_changes_an_image(packed, operations):
    # A tar knows no sum over all of it: without some of its blocks it can be a whole archive of
    # fewer images. No pixel changes even so.
    folder, pixels, contents = packed
    loaded = read(folder, ".tar", mutate(contents[".tar"], operations))
    assert set(loaded.values()) <= set(pixels.values())
