"""reading/page.html in a real browser: reads drawings, computes as the Python code does."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from drawings import drawings
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.keys import Keys

from dataset import Split, normalise, prepare
from model import MODELS, TITLES
from reading.page import TEMPLATE, pick_samples, render_page
from reading.photos import to_mnist
from utils.archives import decode_png, parse_name
from utils.checkpoint import load_weights
from utils.files import UserError
from utils.plots import PALETTE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no chromium or no chromedriver here"
)
CPU = torch.device("cpu")


# --- The networks, the page, the browser --------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    """The shipped weights: network -> (title, deskew, state dict)."""
    loaded = {name: load_weights(str(ROOT / f"data/weights/{name}.pt")) for name in MODELS}
    return {
        name: (TITLES[name], settings["deskew"], state)
        for name, (settings, state) in loaded.items()
    }


@pytest.fixture(scope="module")
def split(real):
    """The first 500 test images, uint8 [500, 28, 28], and their labels."""
    images = np.stack([decode_png(content) for _, content in real["test"]])
    labels = torch.tensor([parse_name(name)[1] for name, _ in real["test"]])
    return Split(torch.from_numpy(images), labels)


def logits(weights, name, split, deskew):
    """Return the logits of a network, [N, 10]."""
    model = MODELS[name]()
    model.load_state_dict(weights[name][2])
    with torch.no_grad():
        return model.eval()(prepare(split, deskew, CPU).images).numpy()


@pytest.fixture(scope="module")
def predictions(weights, split):
    return {name: logits(weights, name, split, weights[name][1]).argmax(1) for name in MODELS}


@pytest.fixture(scope="module")
def samples(split, predictions):
    """Fifty test images of the page and their labels; the first one makes the networks disagree."""
    labels = split.labels.numpy()
    chosen = pick_samples(labels, predictions)
    disputed = [i for i in chosen if len({answers[i] for answers in predictions.values()}) > 1]
    order = np.array([disputed[0], *(i for i in chosen if i != disputed[0])])
    return split.images.numpy()[order], labels[order]


@pytest.fixture(scope="module")
def html(weights, samples):
    return render_page(weights, *samples)


@pytest.fixture(scope="module")
def browser(tmp_path_factory, html):
    """Chromium that shows the page from disk; afterwards, no error and no request was logged."""
    path = tmp_path_factory.mktemp("a page") / "index.html"
    path.write_text(html, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars")
    for flag in (*flags, "window-size=1200,1100"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.get(path.as_uri())
        yield driver
        assert driver.get_log("browser") == []
        events = [json.loads(row["message"])["message"] for row in driver.get_log("performance")]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        assert {event["params"]["request"]["url"] for event in sent} == {path.as_uri()}
    finally:
        driver.quit()


@pytest.fixture
def page(browser):
    """The page with an empty drawing area."""
    browser.find_element("tag name", "body").send_keys(Keys.ESCAPE)
    return browser


def draw(page, strokes, kind="mouse"):
    """Draw strokes of points in percent of the drawing area, with real pointer events."""
    area = page.find_element("id", "pad").rect
    actions = ActionBuilder(page, mouse=PointerInput(kind, kind), duration=0)
    pointer = actions.pointer_action
    for stroke in strokes:
        for number, (x, y) in enumerate(stroke):
            pointer.move_to_location(
                round(area["x"] + x / 100 * area["width"]),
                round(area["y"] + y / 100 * area["height"]),
            )
            if number == 0:
                pointer.pointer_down()
        pointer.pointer_up()
    actions.perform()


def texts(page, selector):
    """Return the texts of all elements that match."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return page.execute_script(script, selector)


def text(page, selector):
    (only,) = texts(page, selector)
    return only


def canvas(page, name):
    """Return the grey values of a canvas, uint8 [height, width]."""
    script = "return document.querySelector(arguments[0]).toDataURL().split(',')[1]"
    content = base64.b64decode(page.execute_script(script, name))
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


def bars(page):
    """Return the heights of the bars as shares of the chart's height, [10 digits, 3 networks]."""
    script = """
    return [...document.querySelectorAll(".bars")].map(group => [...group.children].map(
      bar => bar.getBoundingClientRect().height / group.getBoundingClientRect().height));"""
    return np.array(page.execute_script(script))


# --- The same numbers as Python's ---------------------------------------------------------------


@needs_browser
def test_logits_are_those_of_pytorch(page, weights, split):
    first = Split(split.images[:200], split.labels[:200])
    script = """
    const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
    return Object.values(mnist.networks).map(network => {
      const own = network.deskew;
      const both = [own, !own].map(deskew => {
        network.deskew = deskew;
        return Array.from({length: 200}, (_, i) =>
          Array.from(network.logits(bytes.subarray(784 * i, 784 * (i + 1)))));
      });
      network.deskew = own;
      return both;
    });"""
    content = base64.b64encode(first.images.numpy().tobytes()).decode()
    computed = page.execute_script(script, content)
    for name, both in zip(MODELS, computed, strict=True):
        own = weights[name][1]
        for deskew, values in zip((own, not own), both, strict=True):
            difference = np.abs(np.array(values) - logits(weights, name, first, deskew))
            assert difference.max() < 1e-3, (name, deskew)


@needs_browser
def test_it_reads_thirty_drawings_as_python_does(page, weights):
    # The ink as bytes, as 78,400 numbers take long to come over.
    script = """
    const ink = mnist.readInk().data.map(value => 255 * value);
    let text = "";
    for (const value of ink) text += String.fromCharCode(Math.round(value));
    return [btoa(text), Array.from(mnist.toMnist(mnist.readInk()))];"""
    right = dict.fromkeys(MODELS, 0)
    for kind, digit, strokes in drawings():
        page.execute_script("document.getElementById('clear').click()")
        draw(page, strokes, kind)
        content, small = page.execute_script(script)
        ink = np.frombuffer(base64.b64decode(content), np.uint8).reshape(280, 280)
        expected = to_mnist(ink / 255).astype(int)
        # Where a value lies halfway, the order of a sum decides how it is rounded.
        assert np.abs(np.array(small).reshape(28, 28) - expected).max() <= 1, (kind, digit)
        assert np.array_equal(canvas(page, "#small").ravel(), small)
        one = Split(torch.tensor(small, dtype=torch.uint8).view(1, 28, 28), torch.tensor([digit]))
        answers = [logits(weights, name, one, weights[name][1]).argmax() for name in MODELS]
        assert texts(page, ".digit") == [str(answer) for answer in answers]
        for name, answer in zip(MODELS, answers, strict=True):
            right[name] += answer == digit
    assert right["LeNet5"] >= 28, right


@needs_browser
def test_pictures_show_the_deskewed_image_and_the_first_layer(page, weights, samples):
    page.execute_script("document.getElementById('next').click()")
    one = Split(torch.from_numpy(samples[0][:1]), torch.tensor([0]))
    assert np.array_equal(canvas(page, "#small"), samples[0][0])
    image = prepare(one, weights["LeNet5"][1], CPU).images
    black, white = normalise(torch.tensor([[[0, 255]]], dtype=torch.uint8)).flatten()
    grey = (255 * (image - black) / (white - black)).squeeze().numpy()
    assert np.abs(canvas(page, "#deskewed") - grey).max() <= 1
    state = weights["LeNet5"][2]
    maps = torch.conv2d(image, state["conv1.weight"], state["conv1.bias"]).relu()[0]
    for number, features in enumerate(maps, start=1):
        shown = canvas(page, f"#maps figure:nth-child({number}) canvas")
        assert np.abs(shown - (255 * features / maps.max()).numpy()).max() <= 1


# --- What people see and do ---------------------------------------------------------------------


@needs_browser
def test_bars_and_answers_follow_every_move(page):
    assert text(page, "#answer") == "Draw a digit."
    assert not bars(page).any() and not any(texts(page, ".digit"))
    area = page.find_element("id", "pad").rect
    actions = ActionBuilder(page, duration=0)
    pointer, seen = actions.pointer_action, []
    places = [(24, 16), (76, 15), (66, 36), (44, 88)]
    for number, (x, y) in enumerate(places):
        pointer.move_to_location(
            round(area["x"] + x / 100 * area["width"]), round(area["y"] + y / 100 * area["height"])
        )
        if number == 0:
            pointer.pointer_down()
        actions.perform()
        pointer.source.clear_actions()  # else they would be done again
        seen.append(canvas(page, "#small"))
        assert page.find_element("id", "answer").get_attribute("aria-busy") == "true"
    pointer.pointer_up()
    actions.perform()
    assert page.find_element("id", "answer").get_attribute("aria-busy") == "false"
    assert len({image.tobytes() for image in seen}) == len(places)
    assert text(page, "#answer") == "All three read 7."
    shares = bars(page)
    assert (shares.argmax(0) == 7).all()
    assert shares.sum(0) == pytest.approx(1, abs=0.02)
    shown = [float(share.rstrip("%")) for share in texts(page, ".share")]
    assert shares[7] * 100 == pytest.approx(shown, abs=0.5)
    assert "LeNet-5: " in page.find_element("id", "chart").get_attribute("aria-label")


@needs_browser
def test_keyboard_and_buttons_undo_and_clear(page):
    keys = page.find_element("tag name", "body").send_keys
    draw(page, [[(50, 12), (50, 88)]])
    one = canvas(page, "#small")
    draw(page, [[(20, 20), (80, 80)]], "touch")
    assert not np.array_equal(canvas(page, "#small"), one)
    keys(Keys.CONTROL, "z")
    assert np.array_equal(canvas(page, "#small"), one)
    page.find_element("id", "undo").click()
    assert text(page, "#answer") == "Draw a digit."
    assert not page.find_element("id", "undo").is_enabled()
    for clear in (page.find_element("id", "clear").click, lambda: keys(Keys.DELETE)):
        draw(page, [[(50, 50)]])  # a dot
        assert canvas(page, "#small").any()
        clear()
        assert text(page, "#answer") == "Draw a digit." and not canvas(page, "#small").any()
    # Every button can be reached with the tab key and shows that it has the focus.
    draw(page, [[(50, 12), (50, 88)]])
    reached = []
    for _ in range(4):
        page.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.switch_to.active_element
        reached.append(focused.text)
        assert focused.value_of_css_property("outline-style") == "solid"
    assert sorted(reached) == ["Clear", "Disputed image", "Test image", "Undo"]


@needs_browser
def test_test_images_come_with_their_label_and_disagreements_are_highlighted(page, samples):
    label = samples[1][0]
    draw(page, [[(50, 12), (50, 88)]])
    drawn = canvas(page, "#small")
    page.refresh()  # to begin with the first test image
    draw(page, [[(50, 12), (50, 88)]])
    page.find_element("id", "disputed").send_keys(Keys.ENTER)
    answers = [int(answer) for answer in texts(page, ".digit")]
    assert len(set(answers)) > 1
    line = text(page, "#answer")
    assert line.startswith(f"Test image 1, a {label}. They disagree. LeNet-5 reads {answers[0]}, ")
    assert page.find_elements("css selector", "#read.disagree li.other")
    assert texts(page, ".disputed b") == [str(digit) for digit in sorted(set(answers))]
    verdicts = ["right" if answer == label else "wrong" for answer in answers]
    assert texts(page, ".verdict") == verdicts
    page.find_element("id", "undo").click()  # the drawing comes back
    assert np.array_equal(canvas(page, "#small"), drawn)
    assert text(page, "#answer") == "All three read 1." and not any(texts(page, ".verdict"))
    assert not page.find_elements("css selector", ".disagree, .other, .disputed")


@needs_browser
def test_it_fits_a_narrow_window_and_both_themes(page):
    def css(selector, name):
        return page.find_element("css selector", selector).value_of_css_property(name)

    colours = []
    try:
        for theme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
            page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            colours.append((css("body", "background-color"), css("body", "color")))
            for width in (360, 800, 1200):
                size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
                page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                root = "document.documentElement"
                assert page.execute_script(f"return {root}.scrollWidth") == width
                pad, read = (page.find_element("id", name).rect for name in ("pad", "read"))
                assert pad["width"] == pad["height"] >= 280
                beside = read["x"] > pad["x"] + pad["width"]
                assert beside == (width >= 800)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours[0] != colours[1]


@needs_browser
def test_everything_has_a_name(page):
    nameless = page.execute_script("""
      return [...document.querySelectorAll("canvas, button, section, #chart")].filter(element =>
        !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
          || element.textContent.trim())).map(element => element.outerHTML);""")
    assert nameless == []
    assert page.find_element("id", "answer").get_attribute("aria-live") == "polite"


# --- The file -----------------------------------------------------------------------------------


def test_it_is_one_small_file_that_refers_to_no_other(html):
    assert len(html.encode()) < 1_000_000
    template = TEMPLATE.read_text(encoding="utf-8").split("{{data}}")
    assert len(template) == 2 and html.startswith(template[0]) and html.endswith(template[1])
    for part in template:
        assert not re.search(r"https?:|\bsrc=|@import|url\(|\bfetch\(|XMLHttpRequest", part)
        assert set(re.findall(r'href="(.*?)"', part)) <= {"data:,"}
    published = (ROOT / "docs/index.html").read_text(encoding="utf-8")
    assert published.startswith(template[0]) and published.endswith(template[1])


def test_the_mathematics_are_at_most_200_lines_and_named_as_in_python():
    script = TEMPLATE.read_text(encoding="utf-8").split("<script>")[1].partition("</script>")[0]
    assert len(script.strip().splitlines()) <= 200
    for name in ("areaWeights", "toMnist", "place", "normalise", "prepare", "deskewBatch"):
        assert f"function {name}(" in script
    for name in MODELS:
        assert f"  {name}(layers, image) {{" in script


def test_titles_colours_and_labels_are_inside(weights, samples):
    weights = weights | {"CustomMLP": ("</script><b>", *weights["CustomMLP"][1:])}
    html = render_page(weights, *samples)
    data = re.search(r'id="data">(.*?)</script>', html)[1]
    content = json.loads(data)
    networks = content["networks"].values()
    assert [network["title"] for network in networks] == [t for t, _, _ in weights.values()]
    assert [network["colour"] for network in networks] == list(PALETTE[:3])
    assert content["samples"]["labels"] == samples[1].tolist()


def test_other_networks_are_refused(weights, samples):
    with pytest.raises(UserError, match="MyNet: the page can't compute it"):
        render_page(weights | {"MyNet": weights["CustomMLP"]}, *samples)
    title, deskew, state = weights["CustomMLP"]
    for damage in ({"fc2.weight": torch.zeros(28, 55)}, {"fc4.weight": torch.zeros(10, 10)}):
        with pytest.raises(UserError, match="CustomMLP: the page can't compute it, as its layers"):
            render_page(weights | {"CustomMLP": (title, deskew, state | damage)}, *samples)


def test_samples_have_every_digit_and_ten_that_only_the_mlp_misreads(split):
    labels = split.labels.numpy()
    mlp = np.where(np.arange(500) % 10 == 0, (labels + 1) % 10, labels)
    lenet = np.where(np.arange(500) % 50 == 0, (labels + 1) % 10, labels)
    chosen = pick_samples(labels, {"LeNet5": lenet, "CustomMLP": mlp, "LeNet5_regularization": mlp})
    assert len(set(chosen)) == 50 and (np.diff(chosen) > 0).all()
    assert np.bincount(labels[chosen], minlength=10).min() >= 3
    assert ((mlp != labels) & (lenet == labels))[chosen].sum() >= 10
    assert (mlp == labels)[chosen].sum() >= 25
