"""The plots: pictures that can be read as the README shows them, and show what was measured."""

import numpy as np
import pytest
from conftest import results, study
from matplotlib.text import Text

from comparison import plots
from comparison.results import class_accuracies
from experiments import ablation, data_size, robustness
from model import TITLES
from utils import plots as shared_plots

README_WIDTH = 830  # pixels at 96 per inch, in which GitHub shows a picture


@pytest.fixture
def drawn(monkeypatch):
    """The figures that plots draw; at the end of a test none may have small or cut off text."""
    figures = []

    def keep(figure):
        figure.draw_without_rendering()
        figures.append(figure)

    for module in (shared_plots, plots):
        monkeypatch.setattr(module, "to_png", keep)
    yield figures
    for figure in figures:
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text().strip():
                shown = text.get_fontsize() * README_WIDTH / 96 / figure.get_figwidth()
                assert shown >= 8, text.get_text()
        needed, width, height = figure.get_tightbbox(), *figure.get_size_inches()
        assert min(needed.x0, needed.y0) > -0.02
        assert needed.x1 < width + 0.02 and needed.y1 < height + 0.02


@pytest.fixture(scope="module")
def digits():
    """Made-up images float32 [50, 28, 28], labels and predictions of two runs."""
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=50)
    return generator.random((50, 28, 28), np.float32), labels, (labels + 1) % 10


@pytest.mark.parametrize("metric, recipe", [("loss", "baseline"), ("accuracy", "best")])
def test_curves_fill_their_panels_and_stay_inside(drawn, metric, recipe):
    networks = results(recipe).networks
    plots.plot_comparison(metric, networks, "smoothed labels and augmented images")
    (figure,) = drawn
    for axis, split in zip(figure.axes, ("train", "test"), strict=True):
        curves = [runs.curves(f"{split}_{metric}") for runs in networks.values()]
        for line, runs in zip(axis.lines, curves, strict=True):
            assert line.get_ydata() == pytest.approx(runs.mean(axis=0))
        bottom, top = axis.get_ylim()
        low, high = np.min(curves), np.max(curves)
        assert bottom < low and high < top  # the first epochs too
        ends = axis.transData.transform([(1, low), (1, high)])[:, 1]
        assert np.ptp(ends) > 0.4 * axis.bbox.height
        assert figure.legends[0].get_window_extent().y1 < axis.bbox.y0  # it covers no data


def test_accuracies_of_100_percent_can_be_drawn(drawn):
    history = [{"epoch": 1, "train_accuracy": 90.0, "test_accuracy": 99.0},
               {"epoch": 2, "train_accuracy": 100.0, "test_accuracy": 0.0}]  # fmt: skip
    shared_plots.plot_run("accuracy", "LeNet-5, run one", "blue", history)
    line = drawn[0].axes[0].lines[0]
    assert np.isfinite(drawn[0].axes[0].transData.transform(line.get_xydata())).all()


def test_a_column_that_later_epochs_lack_is_drawn_as_far_as_it_goes(drawn):
    history = [{"epoch": 1, "test_accuracy": 99.0, "top5_accuracy": 99.9},
               {"epoch": 2, "test_accuracy": 99.1}]  # fmt: skip
    shared_plots.plot_run("accuracy", "LeNet-5, run one", "blue", history)
    plots.plot_runs({"one": history})
    assert [len(line.get_xdata()) for line in drawn[0].axes[0].lines] == [2, 1]
    assert [len(line.get_xdata()) for line in drawn[1].axes[0].lines] == [2, 2]


def test_final_accuracies_are_those_of_the_runs_and_classes(drawn):
    comparison = results("best")
    plots.plot_finals(comparison.networks)
    (axis,) = drawn[0].axes
    assert np.diff(axis.get_xticks()).min() >= 0.1 - 1e-9  # ten test images
    dots = [collection.get_offsets()[:, 0].tolist() for collection in axis.collections[::2]]
    assert dots == [runs.accuracies.tolist() for runs in comparison.networks.values()]
    plots.plot_classes(comparison)
    (axis,) = drawn[1].axes
    marks = {line.get_label(): line.get_ydata() for line in axis.lines if len(line.get_xdata()) > 2}
    assert list(marks) == [TITLES[name] for name in comparison.networks]
    for name, runs in comparison.networks.items():
        classes = class_accuracies(runs, comparison.test_images).values()
        assert list(marks[TITLES[name]]) == [summary.mean for summary in classes]


def test_confusion_shows_means_and_percent(drawn):
    counts = np.diag(np.full(10, 978.0))
    counts[4, 9], counts[4, 4], counts[5, 3] = 12.5, 965.5, 0.1
    plots.plot_confusion("LeNet-5", counts, 10)
    cells = {text.get_position(): text.get_text() for text in drawn[0].axes[0].texts}
    assert cells[4, 4] == "965.5\n98.7 %" and cells[9, 4] == "12.5\n1.3 %"
    assert cells[3, 5] == "0.1" and len(cells) == 12  # nothing where there is nothing


@pytest.mark.parametrize("classes", [10, 26, 47])
def test_numbers_of_a_confusion_fit_their_cells(monkeypatch, classes):
    figures = []
    monkeypatch.setattr(plots, "to_png", figures.append)
    monkeypatch.setattr(plots, "CLASSES", "A" * classes)
    monkeypatch.setattr(plots, "NAMES", "A" * classes)
    plots.plot_confusion("LeNet-5", np.diag(np.full(classes, 99.5)) + 0.5, 10)
    figures[0].draw_without_rendering()
    axis = figures[0].axes[0]
    (left, top), (right, bottom) = axis.transData.transform([[0, 0], [1, 1]])
    for text in axis.texts:
        extent = text.get_window_extent()
        assert extent.width < right - left and extent.height < top - bottom, text.get_text()


def test_samples_are_under_the_names_of_their_classes(drawn, digits, monkeypatch):
    monkeypatch.setattr(shared_plots, "NAMES", "ABCDEFGHIJ")
    images, labels, _ = digits
    shared_plots.plot_samples((255 * images).astype(np.uint8), labels.tolist())
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["ABCDEFGHIJ"[label] for label in labels]


def test_pictures_of_images_say_what_networks_predict(drawn, digits):
    images, labels, wrong = digits
    groups = {"By all": np.array([], int), "By one": np.arange(5, 30)}
    plots.plot_hard_images(groups, images, labels, {"LeNet5": labels, "CustomMLP": wrong}, "!")
    empty, full = drawn[0].axes
    assert empty.get_title(loc="left") == "By all: 0 images!"
    assert full.get_title(loc="left") == "By one: 25 images, the first 20!"
    assert len(empty.images) == 0 and len(full.images) == 20
    texts = [text.get_text() for text in full.texts]
    assert texts[:3] == [f"5\ntrue {labels[5]}", str(labels[5]), str(wrong[5])]
    plots.plot_misclassified("LeNet-5: mistakes", images, labels, np.eye(10)[wrong])
    assert drawn[1].axes[0].get_title() == f"{labels[0]} taken for {wrong[0]}\n100.0 %"
    shared_plots.plot_samples((255 * images).astype(np.uint8), labels.tolist())
    assert [text.get_text() for text in drawn[2].axes[0].texts] == [str(d) for d in labels]


def test_studies_draw_every_network_in_every_panel(drawn):
    ablation.draw(study("ablation"))
    data_size.draw(study("data_size"))
    robustness.draw(study("robustness"))
    steps, sizes, perturbed = drawn
    assert [len(axis.get_yticks()) for axis in steps.axes] == [9, 9]
    assert steps.axes[0].get_xlim() == steps.axes[1].get_xlim()
    assert [len(axis.lines) for axis in sizes.axes] == [3, 3]
    error = sizes.axes[0].lines[2].get_ydata()[0]  # of the MLP with 100 images, in percent
    accuracies = study("data_size").accuracies["CustomMLP", False, 100]
    assert error == pytest.approx(100 - accuracies.mean())
    panels = [part.axes[:7] for part in perturbed.subfigs]
    assert [len(axis.lines) for part in panels for axis in part] == [3] * 14


def test_runs_differ_by_colour_and_their_splits_by_line(drawn):
    row = {"lr": 0.1, "train_loss": 1.0, "train_accuracy": 60.0}
    tested = {"epoch": 1, **row, "test_loss": 0.9, "test_accuracy": 65.0}
    validated = {"epoch": 1, **row, "val_loss": 0.8, "val_accuracy": 70.0}
    plots.plot_runs({"one": [tested, tested | {"epoch": 2}], "other": [validated]})
    for axis, values in zip(drawn[0].axes, ([60, 65, 60, 70], [1.0, 0.9, 1.0, 0.8]), strict=True):
        assert [line.get_ydata()[-1] for line in axis.lines] == values
        assert [line.get_linestyle() for line in axis.lines] == ["--", "-", "--", "-"]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["one", "other"]
