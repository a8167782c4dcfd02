"""reading/: digits are found in pictures of any kind, and look as MNIST's do."""

import io
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from photographs import light, photograph, write_row
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage

from predict import WEIGHTS, load_classifier
from reading import classifier, photos
from reading.crops import area_weights, set_stroke, to_mnist
from reading.groups import contains, in_lines
from reading.ink import are_teeth, find_outline, find_sheet, otsu, remove_lines
from reading.pictures import MAX_PIXELS, is_mnist, open_picture
from utils.files import UserError


@pytest.fixture(scope="module")
def digits(digits):
    """The first 100 test images, uint8 [100, 28, 28]."""
    return digits[0][:100]


probabilities = partial(classifier.probabilities, load_classifier(WEIGHTS / "LeNet5.pt"))


def read_whole(picture):
    """Return the Reading of a picture of any mode, by LeNet-5."""
    return photos.find_digits(picture.convert("RGB"), probabilities)


def find_digits(picture):
    return read_whole(picture).digits


def text_of(reading):
    return "".join(map(str, reading.shares.argmax(axis=1)))


def read(picture):
    """Return what LeNet-5 reads in a picture."""
    return text_of(read_whole(picture))


def similarity(image, other):
    """Return the correlation of two images' pixels."""
    return np.corrcoef(image.ravel(), other.ravel())[0, 1]


def grey_picture(values):
    """Return a picture of grey values [H, W], cut off at 0 and 255."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def on_paper(ink, paper=245, colour=40):
    """Return a grey picture of ink float [H, W]."""
    return grey_picture(paper + (colour - paper) * ink)


def written(images, seed=0, margin=40):
    """Return the ink of digits in a row on an otherwise empty sheet, float [H, W]."""
    return np.pad(write_row(images, np.random.default_rng(seed), 4, 8), margin)


def enlarge(image, size):
    """Return an image uint8 [28, 28] as uint8 [size, size]."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def write_small(grey, images, columns, corner, size, depth=120):
    """Return grey values [H, W] with digits on them: in rows, so many pixels tall and apart."""
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = corner[0] + size * column, corner[1] + 2 * size * row
        grey[top : top + size, left : left + size] -= depth * (enlarge(image, size) / 255)
    return grey


def grainy(grey, grain=2):
    """Return grey values [H, W] as a picture, a little blurred, with noise."""
    noise = np.random.default_rng(0).normal(0, grain, grey.shape)
    return grey_picture(ndimage.gaussian_filter(grey, 1) + noise)


def stack(rows):
    """Return rows of ink float [h, w] below each other, float [H, W], as wide as the widest."""
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])


# --- One digit --------------------------------------------------------------------------------


def test_area_weights_average():
    ramp = np.arange(12.0)
    assert np.allclose(area_weights(12, 3) @ ramp, [1.5, 5.5, 9.5])
    assert np.allclose(area_weights(3, 2) @ [3, 6, 9], [4, 8])  # 3 and half of 6, half of 6 and 9
    assert np.allclose(area_weights(50, 20).sum(axis=1), 1)
    assert np.allclose(area_weights(7, 20).sum(axis=1), 1)


def test_mnist_images_keep_their_form(digits):
    # They were made in this way, so that enlarged ones must come back as they were.
    for image in digits:
        large = np.kron(image, np.ones((10, 10))) / 255
        found = to_mnist(np.pad(large, ((70, 0), (0, 150)))).astype(float)
        assert np.abs(found - image).mean() < 0.5


def test_centre_of_mass_is_in_the_middle_and_the_longer_side_has_20_pixels():
    ink = np.zeros((300, 300))
    ink[100:180, 50:60] = 1  # a tall bar with a foot, as an L
    ink[170:180, 50:90] = 1
    image = to_mnist(ink).astype(float)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert (len(rows), len(columns)) == (20, 10)
    y, x = ndimage.center_of_mass(image)
    assert abs(y - 14) <= 0.5 and abs(x - 14) <= 0.5
    assert image.dtype == float and image.max() == 255


def test_thin_and_thick_strokes_become_alike(digits):
    ink = np.kron(digits[0], np.ones((6, 6))) > 127
    thin = ndimage.binary_erosion(ink, iterations=4)
    thick = ndimage.binary_dilation(ink, iterations=14)
    shares = [to_mnist(mask.astype(float)).mean() for mask in (thin, ink, thick)]
    evened = [to_mnist(set_stroke(mask).astype(float)).mean() for mask in (thin, ink, thick)]
    assert shares[0] < 0.8 * evened[0] and evened[2] < 0.9 * shares[2]
    assert evened[1] == shares[1] and evened == sorted(evened)


def test_otsu_lies_between_two_classes():
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(10, 1, 900), generator.normal(30, 2, 100)])
    assert 14 < otsu(values) < 24


# --- Pictures ---------------------------------------------------------------------------------


def test_an_image_of_mnist_is_taken_as_it_is(digits):
    for image in digits[:20]:
        picture = Image.fromarray(image).convert("RGB")
        assert is_mnist(picture)
        (found,) = find_digits(picture)
        assert np.array_equal(found.image, image) and found.box == (0, 0, 28, 28)
    assert not is_mnist(Image.fromarray(255 - digits[0]).convert("RGB"))


def test_boxes_are_where_the_digits_are(digits):
    ink = written(digits[[0, 3, 1]])
    rows, columns = np.flatnonzero((ink > 0.5).any(axis=1)), np.flatnonzero((ink > 0.5).any(axis=0))
    found = find_digits(on_paper(ink))
    assert len(found) == 3
    left, top = min(one.box[0] for one in found), min(one.box[1] for one in found)
    right, bottom = max(one.box[2] for one in found), max(one.box[3] for one in found)
    hull = np.array([left, top, right, bottom])
    assert np.abs(hull - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).max() <= 3
    assert [one.box[0] for one in found] == sorted(one.box[0] for one in found)


def test_lines_are_read_from_the_top_and_from_the_left(digits):
    reading = read_whole(on_paper(stack([written(digits[:5]), written(digits[5:9])])))
    assert text_of(reading) == "721041495"
    assert [digit.line for digit in reading.digits] == [1] * 5 + [2] * 4


VARIANTS = {
    "darker light": lambda grey: grey * 0.5,
    "light from one side": lambda grey: grey * np.linspace(1, 0.5, grey.shape[1]),
    "a shadow": lambda grey: grey * np.where(np.arange(grey.shape[1]) > grey.shape[1] / 2, 1, 0.6),
    "noise": lambda grey: grey + np.random.default_rng(0).normal(0, 8, grey.shape),
    "chalk on a board": lambda grey: 255 - grey,
    "pencil": lambda grey: 245 - (245 - grey) * 0.4,
    "ruled paper": lambda grey: np.where(
        np.arange(len(grey))[:, None] % 50 < 2, np.minimum(grey, 190), grey
    ),
    "squared paper": lambda grey: np.where(
        (np.arange(len(grey))[:, None] % 50 < 2) | (np.arange(grey.shape[1]) % 50 < 2),
        np.minimum(grey, 190),
        grey,
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_digits_are_found_whatever_the_paper_and_the_light(digits, variant):
    grey = np.asarray(on_paper(written(digits[:4])), float)
    plain = find_digits(grey_picture(grey))
    found = find_digits(grey_picture(VARIANTS[variant](grey)))
    assert len(found) == len(plain) == 4
    for one, other in zip(found, plain, strict=True):
        assert np.abs(np.subtract(one.box, other.box)).max() <= 4
        assert similarity(one.image, other.image) > 0.9


def test_lines_are_removed_where_they_are_askew():
    ink = np.zeros((400, 600))
    y, x = np.mgrid[:400, :600]
    ink[np.abs((y + np.tan(np.radians(2)) * x) % 60 - 30) < 1] = 0.3
    ink[150:250, 280:300] = 0.9
    ink = ndimage.gaussian_filter(ink, 1)  # as photographs are
    cleaned = remove_lines(ink)
    assert ink[40:140].max() > 0.15 and cleaned[40:140].max() < 0.05
    assert cleaned[155:245, 285:295].min() > 0.5


def test_pieces_of_a_digit_are_put_together():
    page = Image.new("L", (300, 300), 250)
    drawn = ImageDraw.Draw(page)
    drawn.line([(130, 80), (120, 140), (170, 150), (170, 200), (120, 210)], 20, 14)  # a 5
    drawn.line([(140, 62), (196, 58)], 20, 14)  # its bar, which does not touch it
    (digit,) = find_digits(page)
    assert digit.box == pytest.approx((113, 51, 196, 217), abs=4)


def test_a_one_as_tall_as_the_picture_is_no_line():
    page = Image.new("L", (120, 200), 250)
    ImageDraw.Draw(page).line([(60, 8), (60, 192)], 20, 14)
    (digit,) = find_digits(page)
    assert digit.box == pytest.approx((53, 8, 68, 193), abs=3)


def test_a_stroke_from_side_to_side_is_no_line():
    page = Image.new("L", (15, 15), 250)
    pen = ImageDraw.Draw(page)
    pen.line([(9, 0), (9, 14)], 20, 2)
    pen.line([(8, 1), (3, 7), (12, 7)], 20, 2)
    assert read(page) == "4"


@pytest.mark.parametrize("drop", [8, 34])  # pixels from digit to digit
def test_lines_that_are_askew_are_read_one_after_the_other(drop):
    boxes = [
        (60 * column, 100 * row + drop * column, 60 * column + 40, 100 * row + drop * column + 60)
        for row in range(3)
        for column in range(9)
    ]
    shuffled = np.random.default_rng(0).permutation(len(boxes))
    lines = in_lines([boxes[i] for i in shuffled])
    assert [shuffled[i] for line in lines for i in line] == list(range(len(boxes)))


def test_an_uneven_row_is_one_line():
    row = [(0, 0, 30, 45), (50, 30, 95, 108), (140, 40, 185, 85), (235, 8, 270, 68),
           (305, 30, 335, 78)]  # fmt: skip
    below = [(left, top + 130, right, bottom + 130) for left, top, right, bottom in row]
    assert in_lines(row + below) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_a_pen_beside_digits_is_no_1(digits):
    page = np.pad(written(digits[:4]), ((100, 100), (160, 0)))
    page[60:-60, 60:110] = 0.8
    reading = read_whole(on_paper(page))
    assert text_of(reading) == "7210"
    assert any("left out" in warning for warning in reading.warnings)


def test_a_fold_is_no_edge_of_the_sheet(digits):
    ink = np.pad(written(digits[8:12], margin=60), ((80, 80), (40, 40)))
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    in_shade = x > ink.shape[1] / 2 - 30 + 60 * y / len(ink)
    paper = ndimage.gaussian_filter(np.where(in_shade, 135, 225) * (1 - 0.85 * ink), 1)
    paper += np.random.default_rng(0).normal(0, 1, ink.shape)
    assert read(grey_picture(paper)) == "5906"


def test_a_digit_in_the_shade_of_the_border_is_read(digits):
    ink = np.pad(written(digits[5:9], margin=0), ((90, 60), (10, 60)))
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    from_border = np.minimum.reduce([x, y, x.max() - x, y.max() - y])
    paper = 200 * (1 - 0.6 * np.exp(-from_border / 20)) * (1 - 0.5 * ink)
    paper = ndimage.gaussian_filter(paper, 1) + np.random.default_rng(0).normal(0, 1, ink.shape)
    assert read(grey_picture(paper)) == "1495"


@pytest.mark.parametrize("reach, depth, left", [(40, 0.6, 120), (60, 0.75, 70), (90, 0.75, 30)])
def test_dark_borders_are_no_0_and_no_box(digits, reach, depth, left):
    y, x = np.mgrid[:1000, :750]
    from_border = np.minimum.reduce([x, y, x.max() - x, y.max() - y])
    paper = 190 * (1 - depth * np.exp(-from_border / reach))
    size = (750 - 2 * left) // 10
    ink = write_small(np.zeros(paper.shape), digits[:10], 10, (left, 150), size, depth=-0.6)
    assert read(grainy(paper * (1 - ink), 1)) == "7210414959"


def test_dirt_and_edges_are_no_digits(digits):
    ink = written(digits[:2], margin=60)
    ink[5:9, 5:9] = ink[-9:-6, 100:103] = 1  # dirt
    ink[:, -3:] = 1  # the table beside the paper
    assert len(find_digits(on_paper(ink))) == 2


@pytest.mark.parametrize("grey", [
    np.full((300, 400), 255.0), np.zeros((300, 400)), np.linspace(60, 250, 400) * np.ones((300, 1)),
    200 + np.random.default_rng(0).normal(0, 10, (300, 400)), np.full((1, 1), 255.0),
    np.full((1, 500), 255.0), np.full((28, 28), 255.0),
    200 * light((300, 400), np.random.default_rng(1)),
])  # fmt: skip
def test_empty_pictures_have_no_ink(grey):
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match="no ink found"):
        find_digits(grey_picture(grey))


def test_a_page_of_text_is_too_much():
    page = Image.new("L", (420, 560), 245)
    for row in range(18):
        ImageDraw.Draw(page).text((20, 20 + 28 * row), "7 " * 20, 30)
    with pytest.raises(ValueError, match="more than 300 digits"):
        find_digits(page)


# --- Files ------------------------------------------------------------------------------------


def save(picture, path, **options):
    picture.save(path, **options)
    return open_picture(path)


def test_every_kind_of_file_shows_the_same(digits, tmp_path):
    picture = on_paper(written(digits[:2]))
    expected = np.asarray(picture, float)

    def close(opened, worst=12):
        assert opened.mode == "RGB" and opened.size == picture.size
        assert np.abs(np.asarray(opened.convert("L"), float) - expected).mean() < worst

    close(save(picture, tmp_path / "grey.png"), 0.01)
    close(save(picture.convert("CMYK"), tmp_path / "cmyk.jpg"))
    close(save(picture, tmp_path / "grey.pgm"), 0.01)
    close(save(picture.convert("RGB"), tmp_path / "colour.jp2"))
    close(save(picture.convert("P"), tmp_path / "palette.gif"))
    close(save(picture.convert("RGB"), tmp_path / "colour.webp"))
    deep = np.asarray(picture).astype(np.uint16) * 256
    close(save(Image.fromarray(deep), tmp_path / "16bit.png"), 20)
    exif = Image.Exif()
    for exif[0x0112] in range(1, 9):  # however the camera was held
        turned = save(picture, tmp_path / "turned.jpg", exif=exif)
        with Image.open(tmp_path / "turned.jpg") as image:
            assert np.array_equal(turned.convert("L"), ImageOps.exif_transpose(image))


@pytest.mark.parametrize("ink", [(0, 0, 0, 255), (255, 255, 255, 255)])
def test_transparent_parts_are_paper(tmp_path, ink):
    picture = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    ImageDraw.Draw(picture).line([(100, 40), (180, 40), (130, 160)], ink, 14)
    (digit,) = find_digits(save(picture, tmp_path / "alpha.png"))
    opaque = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(opaque).line([(100, 40), (180, 40), (130, 160)], "black", 14)
    (expected,) = find_digits(opaque)
    assert similarity(digit.image, expected.image) > 0.99
    assert digit.box == pytest.approx((100, 33, 180, 160), abs=8)


def test_what_is_no_picture_is_named(tmp_path):
    cases = {
        "none.png": (None, "No such file"),
        "empty.png": (b"", "not a picture"),
        "text.jpg": (b"seven", "not a picture"),
        "cut.jpg": (None, "damaged"),
        "large.png": (None, f"more than {MAX_PIXELS:,}"),
        "page.pdf": (b"%PDF-1.4", "save its page as PNG"),
        "drawing.svg": (b"<svg/>", "export it"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        "texture.dds": (b"DDS " + bytes(200), "not a picture"),
        "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "not a picture"),
    }
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8)).save(
        content, "jpeg"
    )
    for name, (written_bytes, _) in cases.items():
        if written_bytes is not None:
            (tmp_path / name).write_bytes(written_bytes)
    (tmp_path / "cut.jpg").write_bytes(content.getvalue()[:2000])
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    for name, (_, tells) in cases.items():
        with pytest.raises(UserError, match=tells) as error:
            open_picture(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="is a folder"):
        open_picture(tmp_path)


# --- What real pictures taught: each a kind, drawn ----------------------------------------------

DRAWN = {  # strokes of digits in a box of 1 by 1
    "2": [[(0.1, 0.25), (0.3, 0), (0.75, 0), (0.85, 0.3), (0.1, 1), (0.95, 1)]],
    "4": [[(0.45, 0), (0.1, 0.65), (0.9, 0.65)], [(0.65, 0.3), (0.65, 1)]],
    "7": [[(0.1, 0), (0.9, 0), (0.4, 1)]],
}


def draw(page, digits, box, stroke, ink="black", step=0):
    """Draw digits on a picture, the first into a box (left, top, width, height)."""
    left, top, width, height = box
    for number, digit in enumerate(digits):
        for points in DRAWN[digit]:
            line = [(left + step * number + width * x, top + height * y) for x, y in points]
            ImageDraw.Draw(page).line(line, ink, stroke, "curve")


@pytest.mark.parametrize("ink, paper", [
    ("#d8d8d8", "white"), ("#ead6ff", "white"), ("#5ad0ff", "#ffc800"), ("white", "black"),
])  # fmt: skip
@pytest.mark.parametrize("side", [28, 64])
def test_small_pictures_are_read_in_any_colour(ink, paper, side):
    for digit in DRAWN:
        page = Image.new("RGB", (side, side), paper)
        draw(page, digit, (side // 4, side // 6, side // 2, 2 * side // 3), side // 16, ink)
        assert read(page) == digit


def test_a_digit_may_fill_its_picture():
    page = Image.new("RGB", (120, 120), "#a5a3a0")
    draw(page, "2", (6, 8, 108, 104), 18, "#23194b")
    assert read(page) == "2"


@pytest.mark.parametrize("table", [False, True])
def test_boxes_and_tables_are_no_digits(table):
    page = Image.new("RGB", (424, 224), "white")
    for number, digit in enumerate("27427472"):
        left, top = 12 + 100 * (number % 4), 12 + 100 * (number // 4)
        edge = 100 if table else 84
        ImageDraw.Draw(page).rectangle((left, top, left + edge, top + edge), None, "#141414", 4)
        draw(page, digit, (left + 30, top + 24, 34, 50), 5, "#5a5a5a")
    assert read(page) == "27427472"


def test_a_table_in_a_frame_is_no_digit():
    page = Image.new("RGB", (330, 330), "white")
    pen = ImageDraw.Draw(page)
    pen.rectangle((2, 2, 327, 327), None, "black", 2)
    for number, digit in enumerate("274742427"):
        left, top = 15 + 100 * (number % 3), 15 + 100 * (number // 3)
        pen.rectangle((left, top, left + 100, top + 100), None, "black", 4)
        draw(page, digit, (left + 30, top + 24, 34, 50), 5, "black")
    assert read(page) == "274742427"


@pytest.mark.parametrize("angle", [12, -20])
def test_a_table_askew_is_no_digit(angle):
    page = Image.new("RGB", (340, 340), "white")
    for number, digit in enumerate("274742427"):
        left, top = 20 + 100 * (number % 3), 20 + 100 * (number // 3)
        ImageDraw.Draw(page).rectangle((left, top, left + 100, top + 100), None, "black", 4)
        draw(page, digit, (left + 35, top + 28, 30, 44), 5, "black")
    turned = page.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    assert sorted(read(turned)) == sorted("274742427")


def test_empty_boxes_beside_others_are_no_zeros():
    page = Image.new("RGB", (700, 140), "white")
    for left in range(20, 700, 75):
        box = (left, 30, left + 62, 108)
        ImageDraw.Draw(page).rounded_rectangle(box, 14, None, "#303030", 3)
    for left, digit in zip((20, 95, 245, 320, 545), "72472", strict=True):
        draw(page, digit, (left + 16, 44, 30, 48), 5, "#303030")
    assert read(page) == "72472"


@pytest.mark.parametrize("angle", [-2, 0])
def test_boxes_to_tick_are_no_zeros(digits, angle):
    page = row_of_four(digits, 0).convert("RGB")
    for left in (135, 285, 430):
        ImageDraw.Draw(page).rectangle((left, 90, left + 32, 122), None, "black", 3)
    turned = page.rotate(angle, Image.Resampling.BICUBIC, fillcolor="white")
    assert read(turned) == FIRST_ROWS[0]


def test_a_dotted_0_makes_no_box_of_others():
    page = Image.new("RGB", (330, 130), "white")
    for left in (20, 120, 220):
        ImageDraw.Draw(page).ellipse((left, 20, left + 62, 104), None, "#303030", 6)
    ImageDraw.Draw(page).ellipse((42, 48, 60, 76), "#303030")  # taller than a fourth
    assert read(page).endswith("00")


def test_a_table_with_few_digits_is_no_digit():
    page = Image.new("RGB", (440, 640), "white")
    for left in range(20, 401, 100):
        for top in range(20, 601, 100):
            ImageDraw.Draw(page).rectangle((left, top, left + 100, top + 100), None, "#303030", 3)
    draw(page, "7", (50, 144, 34, 50), 5, "#303030")
    draw(page, "2", (350, 444, 34, 50), 5, "#303030")
    assert read(page.crop((0, 0, 425, 640))) == "72"


def test_pencil_in_a_bold_sudoku_is_read(digits):
    page = Image.new("L", (640, 640), 235)
    pen = ImageDraw.Draw(page)
    for place in range(50, 591, 60):
        pen.line((50, place, 590, place), 30, 7)
        pen.line((place, 50, place, 590), 30, 7)
    chosen = np.sort(np.random.default_rng(20).choice(81, 20, replace=False))
    for cell, image in zip(chosen, digits[20:40], strict=True):
        left, top = 66 + 60 * (cell % 9), 66 + 60 * (cell // 9)
        page.paste(160, (left, top), Image.fromarray(image).resize((28, 28)))
    turned = page.rotate(2, Image.Resampling.BICUBIC, fillcolor=235)
    single = [read(Image.fromarray(image)) for image in digits[20:40]]
    assert read(turned) == "".join(single)


def test_empty_boxes_at_the_border_are_no_digits():
    page = Image.new("RGB", (500, 130), "white")
    for left in range(0, 500, 62):
        ImageDraw.Draw(page).rectangle((left - 62, 30, left, 110), None, "black", 5)
    draw(page, "72", (16, 62, 26, 36), 5, step=62)
    assert read(page) == "72"


def test_a_bar_within_a_digit_does_not_make_it_a_table():
    page = Image.new("RGB", (98, 110), "white")
    pen = ImageDraw.Draw(page)
    points = [(38, 10), (32, 50), (62, 54), (74, 68), (70, 88), (50, 94), (18, 84)]
    pen.line(points, "black", 9, joint="curve")
    pen.line([(47, 28), (74, 28)], "black", 9)
    assert read(page) == "5"


def test_pencil_on_a_sheet_on_a_desk_is_read():
    page = Image.new("RGB", (750, 1000), "#a09a94")
    ImageDraw.Draw(page).polygon([(70, 75), (580, 60), (730, 830), (45, 890)], "#dedcdc")
    draw(page, "2742", (190, 140, 34, 50), 3, "#969494", step=70)
    draw(page, "7", (300, 560, 40, 60), 3, "#969494")
    grain = np.random.default_rng(0).normal(0, 2, (1000, 750, 1))
    assert read(Image.fromarray(np.uint8(np.asarray(page) + grain))) == "27427"


@pytest.mark.parametrize("angle, glare", [(8, 0), (25, 0), (8, 90)])
def test_a_bright_sheet_on_a_desk_is_no_digit(angle, glare):
    page = Image.new("RGBA", (520, 480))
    page.paste("white", (110, 120, 410, 360))
    draw(page, "274", (160, 200, 40, 70), 7, step=80)
    page = page.rotate(angle, Image.Resampling.BICUBIC)
    desk = np.random.default_rng(0).normal(110, 14, (480, 520))
    y, x = np.mgrid[:480, :520]
    desk += glare * np.exp(-((x - 90) ** 2 + (y - 130) ** 2) / 90**2)  # at a corner of the sheet
    picture = Image.fromarray(desk.clip(0, 250).astype(np.uint8)).convert("RGB")
    picture.paste(page, mask=page)
    assert read(picture) == "274"


def test_a_desk_beside_a_sheet_is_no_digit(digits):
    for corners in (
        [(37, 190), (790, 205), (787, 695), (20, 665)],
        [(133, 78), (815, 62), (820, 672), (152, 675)],
    ):
        page = Image.new("L", (900, 700), 30)
        ImageDraw.Draw(page).polygon(corners, 195)
        grey = write_small(np.array(page, float), digits[:10], 5, (corners[0][0] + 45, 220), 38)
        assert read(grainy(grey)) == "7210414959"


def test_the_edge_of_a_sheet_on_leather_is_no_0(digits):
    grain = np.random.default_rng(9).normal(0, 60, (690, 920))
    page = Image.fromarray((60 + ndimage.gaussian_filter(grain, 2)).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(page).polygon([(284, 134), (667, 114), (697, 610), (314, 630)], 220)
    grey = write_small(np.array(page, float), digits[:20], 10, (330, 180), 28)
    assert len(find_digits(grainy(grey))) == 20


def test_what_is_in_a_thick_chalk_0_is_no_digit_on_a_sheet(digits):
    for zero in digits[[13, 55]]:
        thick = ndimage.grey_dilation(enlarge(zero, 560), (25, 25)) / 255
        assert read(grainy(40 + 180 * np.pad(thick, 20))) == "0"


def test_pencil_in_wavy_shade_is_read(digits):
    y, x = np.mgrid[:730, :970]
    shade = 170 + 20 * np.sin(x / 70) * np.sin(y / 110)
    grey = write_small(shade, digits[:10], 5, (150, 200), 52, depth=30)
    assert read(grainy(grey)) == "7210414959"


def test_a_bold_digit_is_not_cut_to_pieces(digits):
    three = np.pad(enlarge(digits[18], 560), 20) / 255
    board = ndimage.gaussian_filter(np.random.default_rng(18).normal(0, 20, (600, 600)), 2)
    assert read(grainy(40 + 180 * three + board)) == "3"


@pytest.mark.parametrize("margin, frame", [(40, None), (12, None), (120, 3), (0, 20)])
def test_a_canvas_in_a_screenshot_is_no_digit(digits, margin, frame):
    for image in digits[:6]:
        canvas = Image.fromarray(image).resize((280, 280), Image.Resampling.BICUBIC)
        page = Image.new("RGB", (280 + 2 * margin, 280 + 2 * margin), "white")
        page.paste(canvas, (margin, margin))
        if frame:
            edge = (margin, margin, margin + 279, margin + 279)
            ImageDraw.Draw(page).rectangle(edge, None, "#3060c0", frame)
        assert read(page) == read(Image.fromarray(image))


def test_a_digit_cut_out_with_its_thick_frame_is_read(digits):
    for image in digits[:6]:
        page = on_paper(np.pad(np.kron(image / 255, np.ones((8, 8))), 10), 230, 60)
        ImageDraw.Draw(page).rectangle((0, 0, page.width - 1, page.height - 1), None, 50, 14)
        assert read(page) == read(Image.fromarray(image))


def test_a_board_that_is_darker_at_its_edges_is_no_sheet(shipped_test_images):
    images, labels = shipped_test_images
    for number in (260, 374, 626, 710):  # of the simulated ones that tests/pictures.py measures
        generator = np.random.default_rng([1, number])
        (index,) = generator.choice(len(labels), 1, replace=False)
        content = photograph(images[[index]].numpy(), generator)
        assert read(Image.open(io.BytesIO(content))) == str(int(labels[index]))


def test_two_strokes_that_nearly_touch_are_one_digit():
    page = Image.new("RGB", (700, 160), "white")
    draw(page, "27", (40, 30, 55, 90), 9, step=110)
    pen = ImageDraw.Draw(page)
    for left in (270, 400, 520):
        strokes = [(left + 18, 32), (left + 28, 30), (left + 4, 84), (left + 40, 82)]
        pen.line(strokes, "black", 9, "curve")
        pen.line([(left + 62, 28), (left + 46, 122)], "black", 9)
    assert read(page) == "27444"


def test_a_pale_joint_does_not_part_a_digit():
    page = Image.new("RGB", (150, 150), "white")
    draw(page, "4", (40, 40, 60, 75), 4, "#b4b4eb")
    ImageDraw.Draw(page).line([(67, 40), (46, 89), (75, 89)], "#5f64cd", 4)
    ImageDraw.Draw(page).line([(79, 62), (79, 115)], "#3c3cbe", 6)
    assert read(page) == "4"


@pytest.mark.parametrize("nine, stretch, pale", [(7, 1.9, 0.25), (9, 1.6, 0.35), (12, 1.3, 0.25)])
def test_a_pale_joint_does_not_part_a_tall_9(digits, nine, stretch, pale):
    tall = Image.fromarray(digits[nine]).resize((80, round(80 * stretch)))
    ink = np.asarray(tall) / 255
    joint = int(np.flatnonzero(ink.max(axis=1) > 0.3).mean())
    ink[joint - 3 : joint + 3] *= pale
    page = np.zeros((len(ink) + 80, 500))
    page[40:-40, 40:120] = ink
    page[60:140, 150:450] = np.hstack(
        [np.asarray(Image.fromarray(image).resize((100, 80))) / 255 for image in digits[[3, 0, 1]]]
    )
    assert read(on_paper(page)) == "9072"


def test_touching_digits_are_parted():
    page = Image.new("RGB", (300, 120), "white")
    draw(page, "742", (20, 30, 50, 64), 6, step=62)
    ImageDraw.Draw(page).line([(126, 72), (150, 91)], "black", 6)  # from the 4 to the 2
    assert read(page) == "742"


FRAMES = {  # boxes, how many digits these are
    "a row": ([(10, 10, 40, 70), (50, 10, 80, 70), (90, 10, 120, 70)], 3),
    "a column": ([(10, 10 + 75 * n, 40, 70 + 75 * n) for n in range(4)], 4),
    "a wide digit": ([(10, 10, 130, 80)], 1),
    "two that touch, beside another": ([(10, 10, 130, 80), (150, 10, 180, 80)], 3),
    "the loops of an eight, beside others as tall": (
        [
            (10, 10, 40, 90),
            (55, 10, 85, 90),
            (100, 10, 130, 90),
            (145, 10, 175, 48),
            (145, 52, 175, 90),
        ],
        4,
    ),
}


def frames(boxes):
    """Return the ink of empty boxes, float [H, W]."""
    ink = np.zeros((330, 300))
    for left, top, right, bottom in boxes:
        ink[top:bottom, left:right] = 1
        ink[top + 4 : bottom - 4, left + 4 : right - 4] = 0
    return ink


def sheet_of(ink, boxes=(), confidence=0.97):
    """Return ink as a network sees it that is as sure of all, looked for in boxes."""
    return photos.Sheet(ink, lambda images: np.full((len(images), 1), confidence), boxes)


@pytest.mark.parametrize("boxes, count", FRAMES.values(), ids=FRAMES.keys())
def test_where_the_network_is_sure_of_all_boxes_decide(boxes, count):
    assert len(sheet_of(frames(boxes), boxes).groups) == count


def test_a_digit_as_wide_as_two_or_one_that_the_network_does_not_know_is_named():
    view = photos.View((300, 330), (0, 0, 300, 330), 1.0)
    (warning,) = sheet_of(frames([(10, 10, 130, 80)])).doubtful(view)
    assert warning == "this may be more than one digit: (10, 10) to (130, 80)"
    row = [*((10 + 40 * n, 10, 40 + 40 * n, 70) for n in range(4)), (180, 10, 240, 70)]
    (warning,) = sheet_of(frames(row)).doubtful(view)  # twice as wide as the others
    assert warning == "this may be more than one digit: (180, 10) to (240, 70)"
    assert not list(sheet_of(frames([*row[:4], (180, 10, 240, 110)])).doubtful(view))  # as slim
    boxes = [(10, 10, 50, 90), (110, 10, 150, 90)]
    (warning,) = sheet_of(frames(boxes[:1]), confidence=0.3).unread(view)
    assert warning == "much ink was not read, or is no digit, at (10, 10) to (50, 90)"
    assert not list(sheet_of(frames(boxes), confidence=0.3).unread(view))  # shown as ?


def test_what_lies_along_the_border_counts_less_and_dropped_lines_hardly():
    alone = frames([(110, 100, 170, 180)])
    share = sheet_of(alone).share()
    ruled = alone.copy()
    ruled[200:202, 20:280] = 1
    assert 0.99 * share < sheet_of(ruled).share() < share
    at_border = frames([(0, 40, 60, 290)])
    assert sheet_of(at_border).share() < 0.8 * sheet_of(np.roll(at_border, 9, 1)).share()


@pytest.mark.parametrize("boxes, confidence, count", [
    ([(10, 30, 48, 90), (52, 30, 90, 90)], 0.85, 4), ([(10, 30, 40, 76), (42, 44, 70, 90)], 0.92, 3)
])  # fmt: skip
def test_small_strokes_are_put_together_sooner_than_digits(boxes, confidence, count):
    boxes = [*boxes, (130, 30, 160, 90), (170, 30, 200, 90)]

    def classify(images):  # surest of the two together, which are wider
        widths = images.any(axis=1).sum(axis=1)
        return np.where(widths > 18, 0.99, confidence)[:, None]

    assert len(photos.Sheet(frames(boxes), classify, boxes).groups) == count


def test_a_finger_at_the_edge_is_no_digit():
    ink = frames([(110, 30, 150, 100), (170, 30, 210, 100), (230, 30, 270, 100)])
    y, x = np.ogrid[:330, :300]
    ink[(x / 86) ** 2 + ((y - 64) / 38) ** 2 < 1] = 1
    assert [group.box[0] for group in sheet_of(ink).groups] == [110, 170, 230]


def test_bold_digits_are_no_surfaces_and_a_1_at_the_edge_no_finger(digits):
    font = ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf"), 110)
    for text, stroke in (("280", 4), ("0808", 9), ("8", 7)):
        page = Image.new("RGB", (500, 220), "white")
        ImageDraw.Draw(page).text((40, 40), text, "black", font, stroke_width=stroke)
        assert read(page) == text
    page = on_paper(np.pad(written(digits[:3]), ((0, 0), (0, 100)))).convert("RGB")
    pen = ImageDraw.Draw(page)
    pen.line([(page.width - 60, 120), (page.width - 60, page.height)], "#282828", 12)
    assert read(page) == "7211"


def test_a_stroke_that_begins_within_a_digit_belongs_to_it():
    ink = frames([(10, 10, 50, 60)])
    ink[52:64, 20:40] = 0  # where the stroke leaves it
    ink[40:110, 27:33] = 1
    assert len(sheet_of(ink, [(10, 10, 50, 60), (27, 40, 33, 110)]).groups) == 1


def test_a_digit_lost_at_second_sight_is_named(digits, monkeypatch):
    look_closer = photos.look_closer

    def lose_one(*arguments):
        view, sheet = look_closer(*arguments)
        sheet.groups = sheet.groups[1:]
        return view, sheet

    picture = on_paper(written(digits[:4]))
    assert not read_whole(picture).warnings
    monkeypatch.setattr(photos, "look_closer", lose_one)
    (warning,) = read_whole(picture).warnings
    assert warning.startswith("left out what may be a digit, at ")


def test_a_digit_that_first_sight_missed_is_found():
    boxes = [(10, 10, 40, 70), (50, 10, 80, 70), (150, 10, 180, 70)]
    sheet = sheet_of(frames(boxes), boxes[:2], 0.995)
    assert [group.box for group in sheet.groups] == boxes


def test_second_sight_looks_at_what_seemed_too_tall():
    tall = (60, 100, 110, 180)
    ink = frames([tall, *((10 + 40 * n, 10, 30 + 40 * n, 35) for n in range(6))])
    sheet, view = sheet_of(ink), photos.View((300, 330), (0, 0, 300, 330), 1.0)
    closer, _ = photos.look_closer(on_paper(ink), view, photos.Sight(ink, sheet, True, False))
    assert [group.box for group in sheet.dropped] == [tall]
    assert contains(closer.region, tall)


@pytest.mark.parametrize("count, is_sheet", [(4, False), (12, True)])
def test_one_thing_like_a_digit_beside_many_on_a_sheet_makes_no_fold(count, is_sheet):
    corners = [(80 + 52 * (n % 4), 50 + 60 * (n // 4)) for n in range(count)]
    ink = frames([(left, top, left + 20, top + 30) for left, top in [*corners, (20, 50)]])
    grey = np.full(ink.shape, 60.0)
    grey[20:310, 70:290] = 195
    best = photos.Sight(grey, sheet_of(ink), True, True)
    best.sheet.dropped = best.sheet.groups[:8]  # so that what is on the sheet is better
    classify = best.sheet.classify
    found = photos.on_sheet(grey, lambda parts, dark: ink, classify, True, best)
    assert (found is not None) == is_sheet


def test_what_lies_beyond_the_paper_stays_out_at_second_sight():
    digit, beyond = (100, 100, 140, 160), (160, 100, 200, 160)
    picture = on_paper(np.zeros((330, 300)))
    for box in (digit, beyond):
        ImageDraw.Draw(picture).ellipse(box, outline=40, width=4)
    paper = np.tile(np.arange(300) < 150, (330, 1))
    grey = np.asarray(picture, float)
    sight = photos.Sight(grey, sheet_of(frames([digit])), True, True, paper)
    view = photos.View(picture.size, (0, 0, *picture.size), 1.0)
    _, sheet = photos.look_closer(picture, view, sight)
    assert len(sheet.groups) == 1 and not sheet.dropped


def test_fragments_do_not_set_the_height_of_digits():
    page = Image.new("RGB", (420, 200), "white")
    draw(page, "742", (30, 20, 70, 90), 8, step=130)
    for number in range(7):  # a broken line below them
        ImageDraw.Draw(page).rectangle((20 + 56 * number, 150, 32 + 56 * number, 180), "black")
    assert read(page) == "742"


def test_specks_do_not_set_the_height_of_digits():
    """Dotted lines, and blots around one large digit."""
    page = Image.new("RGB", (420, 300), "white")
    draw(page, "742", (40, 90, 70, 90), 6, step=130)
    for x in range(5, 420, 8):
        for y in range(0, 300, 50):
            ImageDraw.Draw(page).ellipse((x, y, x + 3, y + 3), "black")
    assert read(page) == "742"
    page = Image.new("RGB", (300, 380), "white")
    draw(page, "2", (60, 40, 170, 290), 8, "black")
    for x in (10, 270):
        for y in range(50, 350, 60):
            ImageDraw.Draw(page).ellipse((x, y, x + 16, y + 13), "black")
    assert read(page) == "2"


def test_what_is_at_the_border_does_not_set_the_height_of_digits():
    strips = [(0, 200, 8, 330), (292, 200, 300, 330)]  # beyond the paper
    sheet = sheet_of(frames([(100, 100, 140, 160), *strips]))
    assert sheet.height == 60
    around = [(0, 0, 300, 330)]
    assert not sheet_of(frames(around), around).groups


def test_a_desk_at_the_border_makes_no_specks_of_digits():
    ink = frames([(20 + 40 * n, 20, 40 + 40 * n, 50) for n in range(5)])
    ink[230:] = 1
    assert len(sheet_of(ink).groups) == 5


def test_a_zero_may_be_small():
    page = Image.new("RGB", (460, 200), "white")
    draw(page, "7", (30, 50, 60, 90), 8)
    ImageDraw.Draw(page).ellipse((130, 80, 156, 112), outline="black", width=7)
    draw(page, "42", (230, 50, 60, 90), 8, step=100)
    assert read(page) == "7042"


def test_a_thin_frame_is_not_the_paper():
    page = Image.new("RGB", (600, 200), "black")
    draw(page, "7427", (40, 40, 60, 90), 3, "white", step=140)
    ImageDraw.Draw(page).rectangle((0, 0, 599, 199), outline="white", width=2)
    assert read(page) == "7427"


def test_a_digit_in_fragments_is_put_together():
    page = Image.new("RGB", (420, 200), "white")
    draw(page, "742", (30, 50, 70, 90), 8, step=130)
    for top in (78, 110):  # across the 4, where a line was removed
        ImageDraw.Draw(page).rectangle((140, top, 260, top + 4), "white")
    assert read(page) == "742"


def test_ink_that_was_not_read_is_named():
    page = Image.new("RGB", (800, 300), "white")
    draw(page, "72", (30, 20, 34, 50), 6, step=50)
    assert not read_whole(page).warnings
    for step in range(9):  # hatching, taller than digits
        ImageDraw.Draw(page).line([(560, 60 + 20 * step), (770, 90 + 20 * step)], "black", 6)
    ImageDraw.Draw(page).line([(665, 40), (665, 270)], "black", 6)
    reading = read_whole(page)
    assert len(reading.digits) == 2
    assert any("much ink was not read" in warning for warning in reading.warnings)


def test_a_digit_at_the_edge_is_named():
    page = Image.new("RGB", (300, 120), "white")
    for left, digit in ((-12, "2"), (110, "7"), (200, "4")):
        draw(page, digit, (left, 30, 44, 64), 7, "black")
    (warning,) = read_whole(page).warnings
    assert "at (0, " in warning


# --- Files that are broken, or of another kind --------------------------------------------------


def test_odd_exif_does_not_matter(tmp_path):
    Image.new("RGB", (40, 30), "white").save(
        tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*" + b"\xff" * 40
    )
    assert open_picture(tmp_path / "odd.jpg").size == (40, 30)


def test_photographs_of_iphones_are_opened(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    for name in ("photo.heic", "photo.jpg", "photo"):  # mail and chats rename them
        heif.from_pillow(Image.new("RGB", (64, 48), "white")).save(tmp_path / "a.heic")
        (tmp_path / "a.heic").rename(tmp_path / name)
        assert open_picture(tmp_path / name).size == (64, 48)


def test_a_sheet_has_a_sharp_edge():
    grey = np.full((300, 400), 90, np.float32)
    grey[40:260, 60:330] = 230
    sheet = find_sheet(grey)
    assert sheet is not None and sheet[50:250, 70:320].all() and not sheet[:35].any()
    fading = 230 * (1 - 0.6 * np.linspace(0, 1, 400, dtype=np.float32) ** 2)
    assert find_sheet(np.tile(fading, (300, 1))) is None


FIRST_ROWS = ("7210", "4149", "5906")  # what the first 12 test images show


def row_of_four(digits, row):
    """Return four of the digits in a row, black on white, 608 pixels wide."""
    ink = np.hstack([np.pad(image, 5) for image in digits[4 * row :][:4]])
    return Image.fromarray(255 - ink).resize((608, 152))


def read_rows(digits, draw_form, rows=(0, 1, 2)):
    """Return what is read in rows of four digits with a form drawn around them."""
    texts = []
    for row in rows:
        page = row_of_four(digits, row)
        top, *_, bottom = np.flatnonzero((np.asarray(page) < 128).any(axis=1))
        page = page.convert("RGB")
        draw_form(ImageDraw.Draw(page), top, bottom)
        texts.append(read(page))
    return tuple(texts)


@pytest.mark.parametrize("first, growth", [(0, 1.4), (8, 1.3), (32, 1.5)])
def test_a_circle_around_a_number_is_no_digit(digits, first, growth):
    ink = written(digits[first : first + 4], margin=140)
    left, top, right, bottom = Image.fromarray(ink > 0.5).getbbox()
    aside, above = ((growth - 1) / 2 * size for size in (right - left, bottom - top))
    page = on_paper(ink)
    box = left - aside, top - above, right + aside, bottom + above
    ImageDraw.Draw(page).ellipse(box, outline=40, width=6)
    assert read(page) == {0: "7210", 8: "5906", 32: "3472"}[first]


def test_a_ring_is_found_without_a_digit_that_touches_it():
    rows, columns = np.ogrid[:100, :200]
    radius = np.hypot((rows - 50) / 50, (columns - 100) / 100)
    ring, stroke = (radius < 1) & (radius > 0.9), np.zeros((100, 200), bool)
    stroke[20:80, 150:155] = True
    assert not (find_outline(ring | stroke) ^ ring)[:, :140].any()
    assert not find_outline(ring | stroke)[35:65, 150:155].any()
    box = np.pad(np.zeros((90, 190), bool), 5, constant_values=True)
    assert (find_outline(box) == box).all()


def test_pieces_of_any_shape_have_an_outline_or_none():
    generator = np.random.default_rng(0)
    for share in np.linspace(0.1, 0.9, 300):  # of what is within a box of 13 by 17 pixels
        piece = np.pad(generator.random((11, 15)) < share, 1, constant_values=True)
        assert not (find_outline(piece) & ~piece).any()


@pytest.mark.parametrize("pens", [
    ((30, 50, 150), (190, 40, 40)),
    ((190, 40, 40), (120, 200, 90)),
])  # fmt: skip
def test_digits_of_two_pens_are_read(digits, pens):
    ink = stack([written(digits[:3]), written(digits[3:6])])[..., None]
    rows = np.arange(len(ink))[:, None, None]
    colours = np.where(rows < len(ink) / 2, *np.array(pens))
    picture = Image.fromarray((255 - (255 - colours) * ink).astype(np.uint8))
    assert read(picture) == "721041"


def test_underlined_digits_are_read(digits):
    def underline(pen, top, bottom):
        for left in range(25, 608, 152):
            pen.line((left, 136, left + 100, 139), "black", 6)

    assert read_rows(digits, underline) == FIRST_ROWS


@pytest.mark.parametrize("slope, row", [(-3, 0), (3, 1)])
def test_digits_that_stand_on_a_line_are_read(digits, slope, row):
    def line(pen, top, bottom):
        pen.line((20, bottom - slope, 588, bottom + slope), "black", 6)

    assert read_rows(digits, line, [row]) == (FIRST_ROWS[row],)


def test_the_bar_of_a_4_may_be_on_a_pale_line(digits):
    page = np.array(row_of_four(digits, 1))
    page[74:77] = np.minimum(page[74:77], 192)  # where both 4s have their bars
    assert read(Image.fromarray(page)) == FIRST_ROWS[1]


def test_a_dashed_line_may_run_through_digits(digits):
    def dash(pen, top, bottom):
        for left in range(15, 593, 18):
            pen.line((left, bottom - 20, left + 11, bottom - 20), "black", 6)

    assert read_rows(digits, dash, [0, 2]) == FIRST_ROWS[::2]


@pytest.mark.parametrize("above, below", [(12, 12), (12, 0), (0, 12)])
def test_boxes_hardly_taller_than_digits_are_no_digits(digits, above, below):
    def boxes(pen, top, bottom):
        for left in range(0, 600, 151):
            pen.rectangle((left, top - above, left + 151, bottom + below), None, "black", 3)

    assert read_rows(digits, boxes) == FIRST_ROWS


def test_the_frame_of_a_table_with_pale_lines_is_no_digit():
    page = Image.new("RGB", (560, 420), "white")
    pen = ImageDraw.Draw(page)
    for y in range(70, 350, 56):
        pen.line((140, y, 490, y), "#c0c0c0", 1)
    for x in (215, 305, 400):
        pen.line((x, 40, x, 350), "#c0c0c0", 1)
    pen.rectangle((140, 40, 490, 350), outline="black", width=2)
    for row in range(5):
        draw(page, "742", (245, 76 + 56 * row, 14, 20), 2, "#4050a0", step=90)
    assert read(page) == "742" * 5


@pytest.mark.parametrize("length", [40, 80])  # 80: as tall as digits
def test_the_teeth_of_combs_are_no_digits(digits, length):
    def comb(pen, top, bottom):
        pen.line((1, bottom + 4, 605, bottom + 4), "black", 3)
        for left in range(1, 608, 151):
            pen.line((left, bottom + 4 - length, left, bottom + 4), "black", 3)

    assert read_rows(digits, comb) == FIRST_ROWS


@pytest.mark.parametrize("lengths, gaps, expected", [
    ([40, 41, 40, 39, 40], [30, 31, 62, 30], True),  # one tooth is hidden
    ([40, 41, 40, 39, 40], [30, 45, 24, 52], False),
    ([40, 80, 40, 80], [30, 30, 30], False),  # none is like their median
    ([40, 40, 40], [30, 30], False),
    ([], [], False),
])  # fmt: skip
def test_teeth_are_alike_and_in_equal_distances(lengths, gaps, expected):
    places = np.cumsum([0, *gaps]).tolist()[: len(lengths)]
    boxes = [(x, 90 - tall, x + 4, 90) for x, tall in zip(places, lengths, strict=True)]
    assert are_teeth(boxes) == expected


@pytest.mark.parametrize("form", ["rectangle", "ellipse"])
def test_a_digit_may_touch_its_box_or_circle(digits, form):
    def frames(pen, top, bottom):
        for left in range(8, 608, 152):
            box = left, (top + bottom - 136) / 2, left + 136, (top + bottom + 136) / 2
            getattr(pen, form)(box, None, "black", 4)
        pen.line((8, 76, 60, 60), "black", 8)  # from its left side to a 7, a 4, a 5

    assert read_rows(digits, frames) == FIRST_ROWS


def test_a_digit_may_touch_the_side_of_its_box():
    page = Image.new("RGB", (640, 180), "white")
    lines = ImageDraw.Draw(page)
    for top in (20, 150):
        lines.line([(20, top), (620, top)], "grey", 5)
    for number, digit in enumerate("274247"):
        lines.line([(20 + 100 * number, 20), (20 + 100 * number, 150)], "grey", 5)
        draw(page, digit, (78 + 100 * number, 65, 32, 45), 6, "navy")
    lines.line([(620, 20), (620, 150)], "grey", 5)
    lines.line([(205, 65), (220, 63)], "navy", 6)  # from a 7 to the right
    lines.line([(405, 110), (420, 111)], "navy", 6)  # from a 2 too
    assert read(page) == "274247"


def test_smudges_are_no_digits_but_pencil_is(digits):
    pen, pencil = written(digits[:4]), 0.4 * written(digits[4:8])
    smudges = 0.6 * ndimage.gaussian_filter(written(digits[8:12]), 14)
    reading = read_whole(on_paper(stack([pen, pencil, smudges])))
    top = len(pen) + len(pencil)
    assert len(reading.digits) == 8 and all(digit.box[3] < top for digit in reading.digits)
    assert any("left out what may be a digit" in warning for warning in reading.warnings)


@pytest.mark.parametrize("first, angle, turned", [(6, 0, 0), (0, -90, 90)])
def test_two_short_rows_are_not_one_digit(digits, first, angle, turned):
    page = stack([written(digits[first:][:3]), written(digits[first:][3:6])])
    reading = read_whole(on_paper(page).reduce(2).rotate(angle, expand=True))
    assert (len(reading.digits), reading.turned) == (6, turned)


def test_few_digits_on_their_side_are_warned_of(digits):
    page = on_paper(written(digits[:4]))
    for angle in (90, 180, 270):
        reading = read_whole(page.rotate(angle, expand=True))
        assert not reading.turned and "turn it if it does" in reading.warnings[-1]
    assert read_whole(page).warnings == []


def test_a_sheet_photographed_sideways_is_turned(digits):
    page = stack([written(digits[:5]), written(digits[5:9])])
    picture = on_paper(page).reduce(2)
    upright = read_whole(picture)
    assert upright.turned == 0
    reading = read_whole(picture.rotate(-90, expand=True))
    assert reading.turned == 90
    assert [digit.box for digit in reading.digits] == [digit.box for digit in upright.digits]


@pytest.mark.parametrize("first", [0, 12])
def test_bright_light_on_a_sheet_on_its_side_is_no_digit(digits, first):
    generator = np.random.default_rng(first)
    rows = [np.pad(write_row(digits[i : i + 4], generator, 2, 2.2), 70)
            for i in range(first, first + 12, 4)]  # fmt: skip
    ink = stack(rows)
    y, x = (np.linspace(-1, 1, size) for size in ink.shape)
    brightness = (235 - 180 * ink) * (1 - 0.45 * np.hypot(y[:, None], x))
    reading = read_whole(grey_picture(brightness).rotate(-90, expand=True))
    assert (len(reading.digits), reading.turned) == (12, 90)


def test_a_long_strip_is_read(digits):
    ink = np.hstack([np.pad(image, 5) for image in digits])
    assert len(find_digits(on_paper(ink / 255).resize((7600, 76)))) == 100


def test_two_digits_in_a_small_picture_are_not_one():
    page = Image.new("RGB", (28, 28), "white")
    pen = ImageDraw.Draw(page)
    pen.line((7, 4, 7, 21), "black")
    pen.ellipse((11, 4, 22, 22), outline="black")
    assert read(page) == "10"


def test_two_narrow_digits_are_not_one(digits):
    for first, second, expected in ((29, 46, "11"), (46, 3, "10"), (0, 40, "71")):
        crops = [digits[number][:, digits[number].any(axis=0)] for number in (first, second)]
        ink = np.hstack([crops[0], np.zeros((28, 2)), crops[1]]) / 255
        assert read(on_paper(np.pad(ink, 2))) == expected


def chain(images):
    """Return a picture of digits uint8 [N, 28, 28] in a row, each of which overlaps the next."""
    row, left = np.zeros((28, 28 * len(images))), 0
    for image in images:
        columns = np.flatnonzero(image.max(axis=0) > 60)
        ink = image[:, columns[0] : columns[-1] + 1] / 255
        place = row[:, left : left + ink.shape[1]]
        np.maximum(place, ink, out=place)
        left += ink.shape[1] - 2
    ink = np.pad(row[:, : left + 2], 12)
    return on_paper(ink).resize((5 * ink.shape[1], 5 * len(ink)))


@pytest.mark.parametrize("first, expected", [
    (15, "597"), (33, "472"), (54, "604"), (45, "51"), (9, "906"),
    pytest.param(30, "31", marks=pytest.mark.xfail(strict=True, reason="a 3 at 99.8 %")),
    pytest.param(90, "36", marks=pytest.mark.xfail(strict=True, reason="a 3, not wide enough")),
])  # fmt: skip
def test_digits_that_all_touch_are_parted(digits, first, expected):
    assert read(chain(digits[first : first + len(expected)])) == expected


@pytest.mark.parametrize("pair, low", [([72, 2], 0.7), ([47, 5], 0.8)])
def test_a_low_pair_that_the_network_is_sure_of_is_parted(digits, pair, low):
    ink = (255 - np.asarray(chain(digits[pair]).convert("L"), float) - 10) / 205
    ink = np.asarray(
        Image.fromarray(ink).resize((ink.shape[1] * 4 // 5, int(0.8 * low * len(ink))))
    )
    page = np.zeros((260, 800))
    page[60 : 60 + len(ink), 20 : 20 + ink.shape[1]] = ink.clip(0, 1)
    for number, left in ((3, 300), (0, 450), (11, 600)):
        page[60:172, left : left + 112] = np.kron(digits[number], np.ones((4, 4))) / 255
    assert read(on_paper(page)) == "21076"


def test_a_wide_digit_is_not_parted():
    page = Image.new("RGB", (400, 150), "white")
    draw(page, "7", (40, 40, 40, 64), 7, "black")
    draw(page, "2", (120, 40, 66, 64), 7, "black")
    ImageDraw.Draw(page).line([(186, 104), (240, 106)], "black", 7)  # its foot
    assert read(page) == "72"


@pytest.mark.parametrize("places, between, expected", [
    ((15, 11), np.zeros((2, 28)), "56"),
    ((4, 5), np.pad(np.full((2, 24), 255), ((5, 5), (2, 2))), "41"),  # a fraction
])  # fmt: skip
def test_two_digits_above_each_other_are_not_one(digits, places, between, expected):
    upper, lower = (digit[digit.max(axis=1) > 60] for digit in digits[list(places)])
    column = np.vstack([upper, between, lower]) / 255
    assert read(on_paper(np.pad(np.kron(column, np.ones((8, 8))), 10))) == expected


def test_a_row_of_much_smaller_digits_is_named(digits):
    large, small = (written(digits[:4], margin=10), written(digits[4:8], margin=10)[::4, ::4])
    reading = read_whole(on_paper(stack([large, small])))
    assert len(reading.digits) == 4 and len(reading.warnings) > 2
    assert all(warning.startswith("left out what may be a digit") for warning in reading.warnings)


def test_of_many_digits_left_out_the_number_is_named(digits):
    large, small = (written(digits[:4], margin=10), written(digits[4:18], margin=10)[::4, ::4])
    *named, last = read_whole(on_paper(stack([large, small]))).warnings
    assert len(named) == 5 and len(set(named)) == 5
    assert last == "left out 5 more that may be digits"


def test_a_stroke_that_the_border_cuts_off_is_named():
    page = Image.new("RGB", (460, 180), "white")
    draw(page, "2", (-36, 50, 60, 90), 8)
    draw(page, "742", (120, 50, 60, 90), 8, step=110)
    (warning,) = read_whole(page).warnings
    assert warning.startswith("left out what may be a digit, at (0, ")


@pytest.mark.parametrize("colours", [(255, 0), (20, 230)])
def test_a_digit_cut_along_its_outline_is_read(digits, colours):
    texts = []
    for digit in digits[:12]:
        ink = ndimage.maximum_filter(np.kron(digit, np.ones((6, 6))) / 255, 5)
        ((rows, columns),) = ndimage.find_objects((ink > 0.5).astype(int))
        texts.append(read(on_paper(ink[rows, columns], *colours)))
    assert texts == list("721041495906")


def test_specks_do_not_set_the_height_of_a_digit_that_touches_the_edge(digits):
    ink = np.kron(digits[15], np.ones((8, 8))) / 255
    ink = ink[:, np.flatnonzero(ink.max(axis=0) > 0.5)[0] :]
    for y, x in ((8, 60), (12, 140), (200, 120), (210, 20)):
        ink[y : y + 6, x : x + 6] = 1
    assert read(on_paper(ink, 215, 70)) == "5"


def test_a_digit_that_touches_the_edge_is_read():
    page = Image.new("RGB", (28, 28), "white")
    pen = ImageDraw.Draw(page)
    pen.line((7, 5, 7, 21), "black", 3)
    pen.ellipse((15, 5, 28, 21), outline="black", width=3)
    assert read(page) == "10"


def test_touching_digits_of_which_each_is_tall_are_parted(digits):
    for pair, expected in ((11, "6971"), (12, "9071")):
        ink = np.zeros((28, 110))
        first, second = (np.flatnonzero(image.max(axis=0) > 60) for image in digits[pair:][:2])
        places = {4: pair, 3 + first[-1] - second[0]: pair + 1, 52: 0, 80: 2}
        for left, number in places.items():
            ink[:, left : left + 28] = np.maximum(ink[:, left : left + 28], digits[number] / 255)
        assert read(on_paper(np.pad(ink, 6)).resize((488, 160))) == expected
