"""reading/page.html in real browsers: it draws, predicts, explains and collects as Python would.

What differs between browsers is tested in all that are installed, the rest in Chromium.
"""

import base64
import io
import json
import re
import shutil
from itertools import pairwise

import conftest
import numpy as np
import pytest
import torch
from browsers import BROWSERS, CONTROL, ENTER, ESCAPE, RIGHT, SPACE, TAB, Chromium
from conftest import ROOT
from drawings import drawings
from PIL import Image

import predict
from comparison.stats import proportion_interval
from dataset import MNIST, normalise
from model import MODELS
from reading.classifier import Classifier, classify, load_classifier
from reading.crops import to_mnist
from reading.page import TEMPLATE, pick_samples, render_page
from utils.augment import deskew
from utils.files import UserError

# Of selenium's own code for WebKitGTK.
pytestmark = pytest.mark.filterwarnings("ignore:setting remote_server_addr")

# Before anything else in the page: what it says and what goes wrong is kept.
LISTENER = """<script>
const messages = [];
for (const kind of ["log", "info", "warn", "error"]) console[kind] = text => messages.push(text);
for (const type of ["error", "unhandledrejection", "securitypolicyviolation"])
  addEventListener(type, event => messages.push(`${type}: ${event.message ?? ""}`), true);
</script><style>"""


# --- The networks, the page, the browsers -------------------------------------------------------


@pytest.fixture(scope="module")
def classifiers():
    """The shipped ones, one of them with a temperature."""
    loaded = {name: load_classifier(ROOT / f"data/weights/{name}.pt") for name in MODELS}
    loaded["CustomMLP"].temperature = 1.5
    return loaded


@pytest.fixture(scope="module")
def images(digits):
    return torch.from_numpy(digits[0])


@pytest.fixture(scope="module")
def labels(digits):
    return torch.from_numpy(digits[1])


def predict_all(classifiers, images):
    """Return the predictions of each network: network -> int [N]."""
    return {name: classify(c, images).argmax(1).numpy() for name, c in classifiers.items()}


@pytest.fixture(scope="module")
def html(classifiers, images, labels):
    return render_page(classifiers, images, labels, "LeNet-5 is run </script>.")


def pytest_generate_tests(metafunc):
    if "browser" in metafunc.fixturenames:
        everywhere = metafunc.definition.get_closest_marker("every_browser")
        kinds = BROWSERS if everywhere else [Chromium]
        names = [kind.__name__ for kind in kinds]
        metafunc.parametrize("browser", kinds, indirect=True, ids=names, scope="module")


@pytest.fixture(scope="module")
def browser(request, tmp_path_factory, html):
    kind = request.param
    if not all(shutil.which(program) for program in kind.needs):
        pytest.skip(f"{' or '.join(kind.needs)} is not installed")
    folder = tmp_path_factory.mktemp("a page")
    browser = kind(folder)
    browser.url = (folder / "index.html").as_uri()
    (folder / "index.html").write_text(html.replace("<style>", LISTENER, 1), encoding="utf-8")
    try:
        browser.resize(1200, 1100)
        yield browser
    finally:
        browser.close()


@pytest.fixture
def page(browser):
    """The page, newly loaded; afterwards, it has said nothing and has asked for nothing."""
    browser.open(browser.url)
    yield browser
    assert browser.js("return messages") == []
    assert browser.js("return performance.getEntriesByType('resource').map(e => e.name)") == []
    browser.js("localStorage.clear()")


def pointer(page, *steps, kind="mouse", name=""):
    """Return the actions of a pointer: "down", "up", or a place in percent of the drawing area."""
    area = page.js("const box = pad.getBoundingClientRect(); return [box.left, box.top, box.width]")
    actions = []
    for step in steps:
        if isinstance(step, str):
            actions.append({"type": f"pointer{step.capitalize()}", "button": 0})
        else:
            x, y = (round(area[i] + step[i] / 100 * area[2]) for i in range(2))
            actions.append({"type": "pointerMove", "x": x, "y": y, "duration": 0})
    parameters = {"pointerType": kind}
    return {"type": "pointer", "id": name or kind, "parameters": parameters, "actions": actions}


def draw(page, strokes, kind="mouse"):
    """Draw strokes of points in percent of the drawing area, with real pointer events."""
    steps = []
    for first, *others in strokes:
        steps += [first, "down", *others, "up"]
    page.act(pointer(page, *steps, kind=kind))


SET_STROKES = """const setPercent = strokes => {
  setStrokes(strokes.map(points => ({erase: false,
    points: points.map(point => point.map(at => at * PAD / 100))})));
  update();
};"""


def set_strokes(page, strokes):
    """Have strokes of points in percent drawn, without a pointer."""
    page.js(f"{SET_STROKES} setPercent(arguments[0]);", strokes)


def click(page, name):
    page.js("document.getElementById(arguments[0]).click()", name)


def texts(page, selector):
    """Return the texts of all elements that match."""
    body = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return page.js(body, selector)


def text(page, selector):
    (only,) = texts(page, selector)
    return only


def image_of(page):
    """Return the image that the networks get, uint8 [28, 28]; None if nothing is drawn."""
    values = page.js("const image = currentImage(); return image && Array.from(image)")
    return None if values is None else np.array(values, np.uint8).reshape(28, 28)


def canvas(page, selector):
    """Return the colours of a canvas, int [height, width, 3]."""
    content = page.js("return document.querySelector(arguments[0]).toDataURL()", selector)
    picture = Image.open(io.BytesIO(base64.b64decode(content.partition(",")[2])))
    return np.asarray(picture.convert("RGB")).astype(int)


def bars(page):
    """Return the heights of the bars as shares of the chart's height, [10 digits, 3 networks]."""
    body = """return [...document.querySelectorAll(".bars")].map(group => [...group.children].map(
      bar => bar.getBoundingClientRect().height / group.getBoundingClientRect().height));"""
    return np.array(page.js(body))


def wait_for(page, condition):
    """Wait until an expression in the page is true."""
    conftest.wait_for(lambda: page.js(f"return {condition}"))


# --- The same numbers as Python's ---------------------------------------------------------------


@pytest.mark.every_browser
def test_logits_are_those_of_pytorch(page, classifiers, images):
    body = """
    const images = fromBase64(arguments[0]);
    return NETWORKS.map(({logits}) => [false, true].map(deskewed =>
      Array.from({length: 30}, (_, i) =>
        Array.from(logits(images.subarray(784 * i, 784 * (i + 1)), deskewed)))));"""
    content = base64.b64encode(images[:30].numpy().tobytes()).decode()
    computed = np.array(page.js(body, content))
    for (name, classifier), both in zip(classifiers.items(), computed, strict=True):
        weights = classifier.network.state_dict()
        for deskewed, logits in zip((False, True), both, strict=True):
            same = Classifier(classifier.settings | {"deskew": deskewed}, weights, name)
            same.temperature = classifier.temperature
            assert np.abs(logits - classify(same, images[:30]).numpy()).max() < 1e-3, name


def test_it_says_if_python_computes_something_else(page):
    assert page.js("return agreesWithPython()")
    assert not page.js("DATA.samples.logits.CustomMLP[2][9] += 0.1; return agreesWithPython()")
    html = (page.downloads / "index.html").read_text(encoding="utf-8")
    changed = html.replace('"temperature":1.5', '"temperature":1.6')
    (page.downloads / "changed.html").write_text(changed, encoding="utf-8")
    page.open((page.downloads / "changed.html").as_uri())
    assert text(page, "#origin").startswith("Their predictions are wrong here")


@pytest.mark.every_browser
def test_thirty_drawings_become_images_and_predictions_as_in_python(page, classifiers):
    body = """return arguments[0].map(strokes => {
      setPercent(strokes);
      return Array.from(currentImage());
    });"""
    images = page.js(SET_STROKES + body, [strokes for *_, strokes in drawings()])
    images = torch.tensor(images, dtype=torch.uint8).view(-1, 28, 28)
    ink = np.array(page.js("return Array.from(ink)")).reshape(280, 280)  # of the last one
    # Where a value lies halfway, the order of a sum decides how it is rounded.
    assert np.abs(to_mnist(ink).astype(int) - images[-1].numpy()).max() <= 1
    predictions = predict_all(classifiers, images)
    assert texts(page, ".digit") == [str(row[-1]) for row in predictions.values()]
    digits = np.array([digit for _, digit, _ in drawings()])
    assert (predictions["LeNet5"] == digits).sum() >= 28


def test_pictures_show_the_deskewed_image_and_the_first_layer(page, classifiers):
    click(page, "next")
    assert np.array_equal(canvas(page, "#small")[..., 0], image_of(page))
    lenet = classifiers["LeNet5"]
    image = deskew(normalise(torch.from_numpy(image_of(page)[None])))
    black, white = normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8)).flatten()
    grey = (255 * (image - black) / (white - black)).squeeze().numpy()
    assert np.abs(canvas(page, "#deskewed")[..., 0] - grey).max() <= 1
    with torch.no_grad():
        maps = lenet.network.conv1(image).relu()[0]
    for number, features in enumerate(maps, start=1):
        shown = canvas(page, f"#maps figure:nth-child({number}) canvas")[..., 0]
        assert np.abs(shown - (255 * features / maps.max()).numpy()).max() <= 1


def occlusion(classifier, image):
    """Return what the ink of an image did to each logit, [10, 28, 28]: see the page."""
    corners = [(top, left) for top in range(0, 25, 3) for left in range(0, 25, 3)]
    covered = np.repeat(image[None], len(corners) + 1, axis=0)
    squares = np.zeros((len(corners), 28, 28))
    for number, (top, left) in enumerate(corners):
        covered[number, top : top + 4, left : left + 4] = 0
        squares[number, top : top + 4, left : left + 4] = 1
    logits = classify(classifier, torch.from_numpy(covered)).numpy()
    return np.einsum("nc,nyx->cyx", logits[-1] - logits[:-1], squares) / squares.sum(0)


def test_it_shows_why_for_the_digit_pointed_at_or_chosen(page, classifiers):
    click(page, "disputed")
    image, label = image_of(page), page.js("return shown.label")
    x, y = page.js(
        "const box = groups[arguments[0]].group.getBoundingClientRect();"
        "return [box.left + box.width / 2, box.top + box.height / 2].map(Math.round)",
        label,
    )
    move = {"type": "pointerMove", "x": x, "y": y, "duration": 0}
    page.act({"type": "pointer", "id": "mouse", "actions": [move]})
    wait_for(page, "effects.length === 3")
    page.js("dispatchEvent(new Event('resize'))")  # as scrolling on a phone does: it keeps them
    assert text(page, "#why-digit") == str(label)
    effects = np.array(page.js("return effects.map(rows => rows.map(row => Array.from(row)))"))
    for number, classifier in enumerate(classifiers.values()):
        expected = occlusion(classifier, image)
        assert np.abs(effects[number].reshape(10, 28, 28) - expected).max() < 1e-3
        shown = canvas(page, f"#why figure:nth-child({number + 1}) canvas")
        blue, effect = shown[..., 2] > shown[..., 0], expected[label]
        clear = (np.abs(effect) > 0.1 * np.abs(effect).max()) & (image > 100)
        assert np.array_equal(blue[clear], effect[clear] > 0)
        assert not shown[image == 0].any()
    page.act(pointer(page, (50, 50)))  # away from the chart
    hidden = "return document.getElementById('why-key').hidden"
    assert page.js(hidden)
    page.js("const {radio} = groups[arguments[0]]; radio.focus(); radio.click();", label)
    assert not page.js(hidden)
    page.press(RIGHT)
    assert text(page, "#why-digit") == str((label + 1) % 10)
    page.press(ESCAPE)
    assert page.js(hidden)


# --- Drawing --------------------------------------------------------------------------------------


def test_bars_and_predictions_follow_every_move(page):
    assert text(page, "#answer") == "Draw a digit."
    assert text(page, "#origin") == "LeNet-5 is run </script>."
    assert not bars(page).any() and not any(texts(page, ".digit"))
    busy = "return document.getElementById('answer').ariaBusy"
    places, seen = [(24, 16), (76, 15), (66, 36), (44, 88)], set()
    for number, place in enumerate(places):
        page.act(pointer(page, place, *(["down"] if number == 0 else [])))
        seen.add(image_of(page).tobytes())
        assert page.js(busy) == "true"
    page.act(pointer(page, "up"))
    assert page.js(busy) == "false" and len(seen) == len(places)
    assert text(page, "#answer") == "All three predict 7."
    shares = bars(page)
    assert (shares.argmax(0) == 7).all()
    assert shares.sum(0) == pytest.approx(1, abs=0.03)
    shown = [float(share.rstrip("%")) for share in texts(page, ".share")]
    assert shares[7] * 100 == pytest.approx(shown, abs=0.5)


@pytest.mark.every_browser
@pytest.mark.parametrize("kind", ["mouse", "touch", "pen"])
def test_pointers_draw_also_when_they_leave_the_area(page, kind):
    if kind not in page.pointers:
        pytest.skip(f"its driver has no {kind}")
    stroke = [(30, 20), (70, 20), (115, 40), (50, 90)]  # it leaves the area, and comes back
    set_strokes(page, [stroke])
    expected = image_of(page)
    click(page, "clear")
    draw(page, [stroke], kind)
    drawn = image_of(page)
    # Points are whole pixels of the screen.
    assert np.abs(drawn.astype(int) - expected).mean() < 4
    draw(page, [[(105, 50), (110, 60)]], kind)  # beside the area
    assert np.array_equal(image_of(page), drawn)


def test_a_second_finger_changes_nothing(page):
    stroke = [(24, 16), (76, 15), (66, 36), (44, 88)]
    draw(page, [stroke], "touch")
    drawn = image_of(page)
    click(page, "clear")
    first = pointer(page, stroke[0], "down", *stroke[1:], "up", kind="touch", name="first")
    second = pointer(page, (5, 80), "down", (20, 90), (9, 80), "up", kind="touch", name="second")
    second["actions"].insert(1, {"type": "pause"})
    page.act(first, second)
    assert np.array_equal(image_of(page), drawn)


def test_keys_and_buttons_undo_erase_and_clear(page):
    draw(page, [[(50, 12), (50, 88)]])
    one = image_of(page)
    draw(page, [[(20, 20), (80, 80)]])
    two = image_of(page)
    click(page, "eraser")
    draw(page, [[(20, 20), (80, 80)]])
    assert not np.array_equal(image_of(page), two)
    page.press(CONTROL, "z")  # the eraser's stroke
    assert np.array_equal(image_of(page), two)
    page.press(CONTROL, "z")
    assert np.array_equal(image_of(page), one)
    page.press(ESCAPE)
    draw(page, [[(50, 12), (50, 88)]])
    click(page, "eraser")
    draw(page, [[(50, 5), (50, 95)]])  # all of it
    assert image_of(page) is None and text(page, "#answer") == "Draw a digit."
    draw(page, [[(50, 12), (50, 88)]])  # with the pen again
    assert np.array_equal(image_of(page), one)
    page.act(pointer(page, (20, 20), "down", (80, 80)))
    page.press(ESCAPE)
    page.act(pointer(page, (80, 20), "up"))  # of a stroke that has ended
    assert image_of(page) is None


def test_every_button_is_reached_by_key_and_everything_has_a_name(page):
    disabled = "return [...document.querySelectorAll('button:disabled')].map(button => button.id)"
    start_collecting(page)
    nothing_kept = {"train", "test", "forget"}
    assert set(page.js(disabled)) == {"undo", "eraser", "clear", "keep", *nothing_kept}
    page.js("location.hash = '#draw'")
    wait_for(page, "!isCollecting()")
    draw(page, [[(50, 12), (50, 88)]])
    assert set(page.js(disabled)) == nothing_kept
    focused = """const element = document.activeElement;
      return [element.id, getComputedStyle(element).outlineStyle];"""
    reached = {}
    for _ in range(8):
        page.press(TAB)
        name, outline = page.js(focused)
        reached[name] = outline
    buttons = ("undo", "eraser", "clear", "next", "disputed")
    assert {reached[name] for name in buttons} == {"solid"}
    page.js("document.getElementById('undo').focus()")
    page.press(SPACE)
    assert image_of(page) is None
    nameless = page.js("""
      return [...document.querySelectorAll("canvas, button, a, section, input")].filter(
        element => !(element.ariaLabel || element.getAttribute("aria-labelledby")
          || element.textContent.trim())).map(element => element.outerHTML);""")
    assert nameless == []


def test_test_images_come_with_their_label_and_disagreements_are_highlighted(page):
    draw(page, [[(50, 12), (50, 88)]])
    drawn = image_of(page)
    click(page, "disputed")
    label = page.js("return shown.label")
    predicted = [int(digit) for digit in texts(page, ".digit")]
    assert len(set(predicted)) > 1
    line = text(page, "#answer")
    assert re.match(rf"Test image \d+, an? {label}\. They disagree: LeNet-5 {predicted[0]}, ", line)
    assert texts(page, "#read.disagree li.other")
    assert texts(page, ".disputed b") == [str(digit) for digit in sorted(set(predicted))]
    verdicts = ["right" if digit == label else "wrong" for digit in predicted]
    assert texts(page, ".verdict") == verdicts
    click(page, "undo")  # the drawing comes back
    assert np.array_equal(image_of(page), drawn)
    assert text(page, "#answer") == "All three predict 1." and not any(texts(page, ".verdict"))
    assert not texts(page, ".disagree, .other, .disputed")
    click(page, "next")
    draw(page, [[(20, 20), (80, 80)]])  # a new drawing, not one more stroke of the old one
    click(page, "undo")
    assert image_of(page) is None


# --- Collecting -----------------------------------------------------------------------------------


def collect(page, count, wrong=()):
    """Draw and keep so many digits that are asked for, some of them as another digit.

    Drawings that are not equally wide give different images.
    """
    body = """const [hands, count, wrong] = arguments;
    for (let number = 0; number < count; number++) {
      const shown = wrong.includes(number) ? (asked + 1) % 10 : asked;
      const strokes = hands[shown + 10 * (number % 3)];
      setPercent(strokes.map(points => points.map(([x, y]) => [(0.9 - number / 200) * x, y])));
      document.getElementById("keep").click();
    }"""
    page.js(SET_STROKES + body, [strokes for *_, strokes in drawings()], count, wrong)


def start_collecting(page):
    page.js("location.hash = '#collect'")
    wait_for(page, "document.body.classList.contains('collecting')")


def kept_digits(page):
    """Return the digits kept, images uint8 [N, 28, 28] and their labels, int [N]."""
    kept = page.js("return kept.map(({label, pixels}) => [label, Array.from(pixels)])")
    images = np.array([pixels for _, pixels in kept], np.uint8).reshape(-1, 28, 28)
    return images, np.array([label for label, _ in kept])


def test_digits_are_collected_counted_and_kept_over_a_reload(page, classifiers):
    start_collecting(page)
    page.press(ENTER)  # nothing to keep
    skips = "document.getElementById('skip').click(); return asked;"
    asked = page.js(f"return Array.from({{length: 50}}, () => {{{skips}}})")
    assert all(first != second for first, second in pairwise(asked))
    draw(page, drawings()[page.js("return asked")][2])
    page.press(ENTER)
    assert page.js("return kept.length") == 1 and image_of(page) is None
    collect(page, 19, wrong=(3, 8))
    images, labels = kept_digits(page)
    assert (np.bincount(labels[:10]) == 1).all() and (np.bincount(labels) == 2).all()
    assert not np.array_equal(labels[:10], labels[10:])  # shuffled
    predictions = predict_all(classifiers, torch.from_numpy(images))
    for row, predicted in zip(texts(page, "tbody tr"), predictions.values(), strict=True):
        hits = int((predicted == labels).sum())
        low, high = proportion_interval(hits, 20)
        assert f"{hits}\xa0of\xa020{hits / 0.2:.1f}\xa0% [{low:.1f},\xa0{high:.1f}]" in row
    mistakes = np.logical_or.reduce([row != labels for row in predictions.values()])
    assert len(texts(page, "#misclassified li")) == mistakes.sum() >= 2
    # The newest comes first; a reload keeps all.
    page.js("document.querySelector('#kept .delete').click()")
    before = [str(label) for label in labels[18::-1]]
    assert texts(page, "#kept span") == before
    page.open(f"{page.url}?again#collect")
    assert texts(page, "#kept span") == before
    assert np.array_equal(kept_digits(page)[0], images[:19])
    # A misclassified one is shown as test images are.
    page.js("document.querySelector('#misclassified button').click()")
    wait_for(page, "!document.body.classList.contains('collecting')")
    assert re.match(r"Your number \d+, an? \d\. ", text(page, "#answer"))
    start_collecting(page)
    for confirmed, left in (("false", 19), ("true", 0)):
        page.js(f"window.confirm = () => {confirmed}")
        click(page, "forget")
        assert len(texts(page, "#kept li")) == left
    assert page.js("return localStorage.length") == 0


def test_digits_that_another_window_deletes_are_gone(page):
    start_collecting(page)
    collect(page, 2)
    page.js("localStorage.clear(); dispatchEvent(new StorageEvent('storage', {key: null}));")
    assert not texts(page, "#kept li")


def test_storage_that_is_full_is_said_and_stops_nothing(page):
    start_collecting(page)
    assert "stored in this browser" in text(page, "#stored")
    page.js("Storage.prototype.setItem = () => { throw new DOMException('full'); };")
    collect(page, 2)
    assert len(texts(page, "#kept li")) == 2
    assert "does not store them" in text(page, "#stored")


@pytest.mark.every_browser
def test_a_download_is_the_tar_that_python_reads(page, tmp_path):
    start_collecting(page)
    collect(page, 6)
    images, labels = kept_digits(page)
    for split in ("train", "test"):
        path = page.downloads / f"{split}.tar"
        page.js("document.getElementById(arguments[0]).focus()", split)
        page.press(ENTER)  # as Chromium lets only people download twice
        conftest.wait_for(lambda path=path: path.exists() and path.stat().st_size)
        conftest.wait_for(lambda: not list(page.downloads.glob("*.part")))
        shutil.copy(path, tmp_path)
        read = MNIST(tmp_path / split)
        assert np.array_equal(read.images, images) and np.array_equal(read.labels, labels)


# --- How it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 360, 800, 1200])
@pytest.mark.parametrize("mode", ["#draw", "#collect"])
def test_it_fits_narrow_and_wide_windows(page, width, mode):
    page.resize(width, 1100)
    page.js("location.hash = arguments[0]", mode)
    wait_for(page, f"isCollecting() === {json.dumps(mode == '#collect')}")
    assert page.js("return document.documentElement.scrollWidth") <= width
    beyond = page.js("""
      const right = element => element.getBoundingClientRect().right;
      return [...document.querySelectorAll("section *")]
        .filter(element => right(element) > right(element.closest("section")))
        .map(element => element.textContent);""")
    assert beyond == []
    beside = page.js("""
      const boxes = [...document.querySelectorAll("section")]
        .map(section => section.getBoundingClientRect()).filter(box => box.width);
      return boxes[1].left >= boxes[0].right;""")
    assert beside == (width >= 800)
    area = page.js("const box = pad.getBoundingClientRect(); return [box.width, box.height]")
    assert area[0] == pytest.approx(area[1]) and area[0] >= min(280, width - 60)


def test_themes_and_print(page):
    def colours(theme, media=""):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.cdp("Emulation.setEmulatedMedia", features=features, media=media)
        body = "const {color, backgroundColor} = getComputedStyle(document.body); return "
        return page.js(body + "[color, backgroundColor]")

    dark, light, printed = colours("dark"), colours("light"), colours("dark", "print")
    assert dark != light
    assert printed == [light[0], "rgb(255, 255, 255)"]


# --- The file -------------------------------------------------------------------------------------


def test_it_is_one_small_file_that_refers_to_no_other(html):
    assert len(html.encode()) < 1_000_000
    template = TEMPLATE.read_text(encoding="utf-8")
    assert not re.search(r"https?:|\bsrc=|@import|url\(|\bfetch\(|XMLHttpRequest", template)
    assert set(re.findall(r'\b(?:href|src)="(.*?)"', html)) == {"data:,", "#draw", "#collect"}
    assert "getImageData" not in html  # some browsers give noise


def test_other_networks_are_refused(classifiers, images, labels, monkeypatch, tmp_path, refused):
    with pytest.raises(UserError, match="MyNet: the page can't compute it"):
        render_page(classifiers | {"MyNet": classifiers["CustomMLP"]}, images, labels, "")
    monkeypatch.setitem(MODELS, "CustomMLP", lambda: torch.nn.Linear(784, 10))  # changed
    err = refused(predict, "--page", tmp_path / "page.html")
    assert "CustomMLP.pt: does not fit" in err and not list(tmp_path.iterdir())


def test_samples_have_every_digit_and_some_that_only_the_mlp_misclassifies(labels):
    labels = labels.numpy()
    mlp = np.where(np.arange(500) % 10 == 0, (labels + 1) % 10, labels)
    lenet = np.where(np.arange(500) % 50 == 0, (labels + 1) % 10, labels)
    chosen = pick_samples(labels, lenet, mlp)
    assert len(set(chosen)) == 50 and np.bincount(labels[chosen], minlength=10).min() >= 3
    assert ((mlp != labels) & (lenet == labels))[chosen].sum() >= 10
    assert (mlp == labels)[chosen].sum() >= 25
