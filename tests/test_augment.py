"""utils/augment.py: deskewed images, random augmentation within its limits, augmented batches."""

import pytest
import torch
from conftest import images_of

from dataset import Batches, Split, normalise
from main import Args
from utils.augment import KNOTS, Augmentation, deskew, make_augmentation

CPU = torch.device("cpu")


def augmentation(**limits):
    """Return an augmentation by the named settings alone."""
    return make_augmentation(Args(**limits), CPU) or Augmentation(Args(), CPU)


@pytest.fixture(scope="module")
def digits(real):
    """Real training images, prepared: [2000, 1, 28, 28], and their labels."""
    images, labels = map(torch.from_numpy, images_of(real["train"]))
    return Split(normalise(images), labels)


def coefficients(x, y):
    """Return the coefficients of one image: for each coordinate its sum of x, y and 1."""
    return torch.tensor([[x, y]])


# --- Random augmentation ----------------------------------------------------------------------


def test_known_coefficients_shift_and_rotate_the_pixels(digits):
    image = digits.images[:1]
    plain = augmentation()
    same = plain(image, coefficients([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    assert torch.allclose(same, image, atol=1e-5)
    # Looking 3 pixels to the right and 2 further down moves the digit to the left and up.
    moved = plain(image, coefficients([1.0, 0.0, 3 * 2 / 28], [0.0, 1.0, 2 * 2 / 28]))
    assert torch.allclose(moved[..., :-2, :-3], image[..., 2:, 3:], atol=1e-4)
    out_of_the_picture = plain(image, coefficients([1.0, 0.0, 2.0], [0.0, 1.0, 0.0]))
    assert torch.allclose(out_of_the_picture, image.min().expand_as(image))  # the background
    rotated = plain(image, coefficients([0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]))
    assert torch.allclose(rotated, torch.rot90(image, -1, (2, 3)), atol=1e-4)


def test_each_limit_bounds_its_own_change():
    assert make_augmentation(Args(), CPU) is None
    generator = torch.Generator().manual_seed(0)
    identity = torch.eye(2, 3)
    rotations = augmentation(rotate=10.0).draw(1000, generator)
    angles = torch.rad2deg(torch.atan2(rotations[:, 1, 0], rotations[:, 0, 0]))
    assert 9.5 < angles.max() <= 10.001 and -10.001 <= angles.min() < -9.5
    assert torch.allclose(rotations[:, :, :2] @ rotations[:, :, :2].mT, torch.eye(2), atol=1e-5)
    shifts = augmentation(shift=2.0).draw(1000, generator) - identity
    assert torch.all(shifts[:, :, :2] == 0)
    assert 1.9 < shifts[:, :, 2].abs().max() * 14 <= 2.001
    sizes = augmentation(stretch=0.1).draw(1000, generator) - identity
    assert 0.095 < sizes[:, 0, 0].abs().max() <= 0.1001
    assert abs(torch.corrcoef(sizes[:, [0, 1], [0, 1]].T)[0, 1]) < 0.1  # width apart from height
    slants = augmentation(shear=0.3).draw(1000, generator) - identity
    assert 0.28 < slants[:, 0, 1].abs().max() <= 0.3001
    assert torch.all(slants[:, 1] == 0)


def test_elastic_field_is_smooth_and_as_wide_as_asked_for():
    elastic = augmentation(elastic=1.5)
    drawn = elastic.draw(2000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2000, 2, 3 + KNOTS**2)
    field = (drawn[:, :, 3:] @ elastic.maps[3:]).view(2000, 2, 28, 28) * 14  # in pixels
    assert field[..., 0, 0].std().item() == pytest.approx(1.5, rel=0.05)  # a knot
    assert abs(field.mean()) < 0.05
    steps = field.diff(dim=3).abs().max()
    assert steps < 1.5  # neighbours stay neighbours: no pixel overtakes another by much


# --- Augmented batches ------------------------------------------------------------------------


def test_augmented_batches_keep_labels_move_pixels_and_are_reproducible(digits):
    mild = augmentation(rotate=10.0, shift=1.0, stretch=0.1, shear=0.1, elastic=0.5)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(3))

    def epochs(seed):
        """Yield one epoch after the other, as images and labels."""
        batches = Batches(digits, 300, torch.Generator().manual_seed(seed), mild)
        while True:
            images, labels, _ = zip(*batches, strict=True)
            yield torch.cat(images), torch.cat(labels)

    both = epochs(3)
    augmented, labels = next(both)
    assert torch.equal(labels, digits.labels[order])
    # Every image is another, and yet more like its own original than like the one beside it.
    assert all((augmented - digits.images[order]).abs().amax(dim=(1, 2, 3)) > 0.1)

    def distances(originals):
        return (augmented - originals).square().mean(dim=(1, 2, 3))

    own, next_one = digits.images[order], digits.images[order.roll(1)]
    assert (distances(own) < distances(next_one)).float().mean() > 0.9
    assert torch.equal(augmented, next(epochs(3))[0])
    for other in (next(both), next(epochs(4))):
        assert not torch.equal(augmented, other[0])


# --- Deskewing --------------------------------------------------------------------------------


def moments(images):
    """Return the ink's centre (right, down, in pixels) and slant of images [N, 1, 28, 28]."""
    ink = (images - images.amin(dim=(1, 2, 3), keepdim=True)).squeeze(1).double()
    ink /= ink.sum(dim=(1, 2), keepdim=True)
    place = torch.arange(28) - 13.5
    right, down = (ink.sum(dim=1) * place).sum(1), (ink.sum(dim=2) * place).sum(1)
    dx, dy = place - right.view(-1, 1, 1), (place - down.view(-1, 1)).unsqueeze(2)
    return right, down, (ink * dx * dy).sum(dim=(1, 2)) / (ink * dy * dy).sum(dim=(1, 2))


def test_deskewed_digits_have_no_slant_and_are_in_the_middle(digits):
    blank = torch.full((2, 1, 28, 28), -0.4242)
    assert torch.allclose(deskew(blank), blank)
    assert moments(digits.images)[2].abs().mean() > 0.2
    right, down, slant = moments(deskew(digits.images))
    assert slant.abs().mean() < 0.01 and slant.abs().max() < 0.2
    for offset in (right, down):  # a few lose ink over the edge
        assert offset.abs().mean() < 0.01 and offset.abs().max() < 1


def test_deskewing_undoes_a_slant_and_nothing_else(digits):
    images = digits.images[:200]
    slant = coefficients([1.0, 0.2, 0.0], [0.0, 1.0, 0.0]).expand(200, -1, -1)
    slanted = augmentation()(images, slant)
    apart = (images - slanted).square().mean()
    assert (deskew(images) - deskew(slanted)).square().mean() < 0.05 * apart
    ink, deskewed_ink = ((part - images.min()).sum(dim=(2, 3)) for part in (images, deskew(images)))
    assert torch.allclose(ink, deskewed_ink, rtol=0.02)
