"""experiments/perturb.py: what each perturbation does to real images."""

import pytest
import torch

import dataset
from experiments.robustness import PERTURBATIONS


@pytest.fixture
def pixels(small):
    """The 100 small test images as float32 [100, 28, 28]."""
    return dataset.load_splits("data", 0)[1].images.float()


def change(name, images, strength):
    return PERTURBATIONS[name].change(images, strength, torch.Generator().manual_seed(0))


def centres(images):
    """Return each image's centre of mass, (x, y) in pixels, [N, 2]."""
    places = torch.arange(28.0)
    mass = images.sum(dim=(1, 2))
    x, y = images.sum(dim=1) @ places, images.sum(dim=2) @ places
    return torch.stack([x / mass, y / mass], dim=1)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_changes_nothing_at_its_neutral_strength_and_more_with_more(pixels, name):
    one = PERTURBATIONS[name]
    before = pixels.clone()
    torch.testing.assert_close(change(name, pixels, one.neutral), pixels, atol=2e-3, rtol=0)
    assert one.neutral in one.strengths and set(one.in_table) <= set(one.strengths)
    for sign in (-1, 1):  # of the side of the neutral strength
        side = sorted(abs(s - one.neutral) for s in one.strengths if sign * (s - one.neutral) >= 0)
        changed = [
            (change(name, pixels, one.neutral + sign * d) - pixels).square().mean() for d in side
        ]
        assert changed == sorted(changed) and len(set(changed)) == len(changed)
    assert torch.equal(pixels, before)


def test_shift_scale_and_rotation_are_as_strong_as_they_say(pixels):
    points = torch.zeros(100, 28, 28)
    points[:, 13:15, 13:15] = 255
    moved = centres(change("shift", points, 2.5)) - centres(points)
    assert moved.norm(dim=1).numpy() == pytest.approx(2.5, abs=1e-3)
    assert (moved > 0).any(dim=0).all() and (moved < 0).any(dim=0).all()  # in all directions
    points = torch.zeros(1, 28, 28)
    points[0, 13:15, 18] = 255  # 4.5 pixels right of the middle
    moved = centres(change("scale", points, 1.5))[0, 0] - 13.5
    assert moved.item() == pytest.approx(4.5 * 1.5, rel=0.05)
    turned = change("rotation", pixels, 90)  # so that no pixel is interpolated
    left, right = (
        (turned - torch.rot90(pixels, times, (1, 2))).abs().amax(dim=(1, 2)) < 0.02
        for times in (1, -1)
    )
    assert (left | right).all() and 30 < left.sum() < 70


def test_noise_blur_and_contrast_are_as_strong_as_they_say(pixels):
    grey = torch.full((50, 28, 28), 127.5)
    assert change("noise", grey, 20).std().item() == pytest.approx(20, rel=0.02)
    noisy = change("noise", pixels, 128)
    assert (noisy.min(), noisy.max()) == (0, 255)
    point = torch.zeros(1, 28, 28)
    point[0, 13, 14] = 255
    spread = change("blur", point, 1.5)
    assert spread.sum().item() == pytest.approx(255, rel=1e-4)
    distances = (torch.arange(28.0) - 14) ** 2
    variance = (spread.sum(dim=1) @ distances).item() / 255
    assert variance == pytest.approx(1.5**2, rel=0.01)
    pale = change("contrast", pixels, 0.25)
    torch.testing.assert_close(pale.mean(dim=(1, 2)), pixels.mean(dim=(1, 2)))
    torch.testing.assert_close(pale.std(dim=(1, 2)), 0.25 * pixels.std(dim=(1, 2)))


def test_a_square_of_that_side_is_covered_within_the_image(pixels):
    holes = change("covered square", torch.ones(2000, 28, 28), 7) == 0
    assert (holes.sum(dim=(1, 2)) == 49).all()
    rows, columns = holes.any(dim=2), holes.any(dim=1)
    assert (rows.sum(dim=1) == 7).all() and (columns.sum(dim=1) == 7).all()
    assert rows.any(dim=0).all() and columns.any(dim=0).all()  # at all places
