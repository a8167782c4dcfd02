"""augment.py: images set upright, where random warps look and how far, and warped batches."""

import pytest
import torch
from augment import KNOTS, Warp, deskew

import main
from dataset import MNIST, Batches, normalise

CPU = torch.device("cpu")
STRONG = {"rotate": 20, "shift": 3, "stretch": 0.2, "shear": 0.2, "elastic": 1.0}


def augmentation(**limits):
    """A warp of nothing but what is named."""
    return Warp(**(dict.fromkeys(STRONG, 0.0) | limits), device=CPU)


@pytest.fixture
def digits(workplace):
    """Real training images [2000, 1, 28, 28] and their labels."""
    split = MNIST("data/train")
    return normalise(split.images), split.labels


def coefficients(*rows):
    return torch.tensor([rows])


def test_known_coefficients_move_and_turn_the_pixels(digits):
    image = digits[0][:1]
    plain = augmentation()
    same = plain(image, coefficients([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    assert torch.allclose(same, image, atol=1e-5)
    # Looking 3 pixels to the right and 2 further down moves the digit to the left and up.
    moved = plain(image, coefficients([1.0, 0.0, 3 * 2 / 28], [0.0, 1.0, 2 * 2 / 28]))
    assert torch.allclose(moved[..., :-2, :-3], image[..., 2:, 3:], atol=1e-4)
    turned = plain(image, coefficients([0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]))
    assert torch.allclose(turned, torch.rot90(image, -1, (2, 3)), atol=1e-4)


def test_what_comes_in_at_the_edge_is_background(digits):
    image = digits[0][:1]
    moved = augmentation()(image, coefficients([1.0, 0.0, 2.0], [0.0, 1.0, 0.0]))  # out of the picture
    assert torch.allclose(moved, image.min().expand_as(moved))


def test_each_limit_bounds_its_own_change():
    generator = torch.Generator().manual_seed(0)
    identity = torch.eye(2, 3)
    turns = augmentation(rotate=10).draw(1000, generator)
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert 9.5 < angles.max() <= 10.001 and -10.001 <= angles.min() < -9.5
    assert torch.allclose(turns[:, :, :2] @ turns[:, :, :2].mT, torch.eye(2), atol=1e-5)
    moves = augmentation(shift=2).draw(1000, generator) - identity
    assert torch.all(moves[:, :, :2] == 0)
    assert 1.9 < moves[:, :, 2].abs().max() * 14 <= 2.001
    sizes = augmentation(stretch=0.1).draw(1000, generator) - identity
    assert 0.095 < sizes[:, 0, 0].abs().max() <= 0.1001
    assert abs(torch.corrcoef(sizes[:, [0, 1], [0, 1]].T)[0, 1]) < 0.1  # width apart from height
    slants = augmentation(shear=0.3).draw(1000, generator) - identity
    assert 0.28 < slants[:, 0, 1].abs().max() <= 0.3001
    assert torch.all(slants[:, 1] == 0)


def test_elastic_field_is_smooth_and_as_wide_as_said():
    elastic = augmentation(elastic=1.5)
    drawn = elastic.draw(2000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2000, 2, 3 + KNOTS**2)
    field = (drawn[:, :, 3:] @ elastic.maps[3:]).view(2000, 2, 28, 28) * 14  # in pixels
    assert field[..., 0, 0].std().item() == pytest.approx(1.5, rel=0.05)  # a knot
    assert abs(field.mean()) < 0.05
    steps = field.diff(dim=3).abs().max()
    assert steps < 1.5  # neighbours stay neighbours: no pixel overtakes another by much


def test_warped_batches_keep_labels_move_pixels_and_can_be_repeated(digits):
    images, labels = digits

    def epoch(seed, chosen):
        batches = list(Batches(images, labels, 300, torch.Generator().manual_seed(seed), chosen))
        return torch.cat([batch[0] for batch in batches]), torch.cat([b[1] for b in batches])

    mild = augmentation(rotate=10, shift=1, stretch=0.1, shear=0.1, elastic=0.5)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(3))
    warped, warped_labels = epoch(3, mild)
    assert torch.equal(warped_labels, labels[order])
    # Every image is another, and yet more like its own original than like the one beside it.
    assert all((warped - images[order]).abs().amax(dim=(1, 2, 3)) > 0.1)

    def distances(originals):
        return (warped - originals).square().mean(dim=(1, 2, 3))

    assert (distances(images[order]) < distances(images[order.roll(1)])).float().mean() > 0.9
    assert torch.equal(warped, epoch(3, mild)[0])
    assert not torch.equal(warped, epoch(4, mild)[0])


def test_each_time_through_and_each_image_is_warped_anew(digits):
    images = digits[0][:1].expand(40, -1, -1, -1)
    batches = Batches(images, digits[1][:40], 40, torch.Generator(), augmentation(shift=2))
    (first, *_), (second, *_) = *batches, *batches
    assert len(torch.unique(torch.cat([first, second]).flatten(1), dim=0)) == 80


def test_processes_share_out_the_same_warps(digits):
    images, labels = digits[0][:101], digits[1][:101]  # a last batch of one: no share for the 2nd

    def epoch(**share):
        generator = torch.Generator().manual_seed(0)
        return list(Batches(images, labels, 10, generator, Warp(**STRONG, device=CPU), **share))

    shares = zip(epoch(rank=0, world_size=2), epoch(rank=1, world_size=2), strict=True)
    for (whole, *_), ((even, *_), (odd, *_)) in zip(epoch(), shares, strict=True):
        assert torch.allclose(whole[0::2], even, atol=1e-5)
        assert torch.allclose(whole[1::2], odd, atol=1e-5)


def moments(images):
    """The ink's centre (right, down, in pixels) and its slant, of images [N, 1, 28, 28]."""
    ink = (images - images.amin(dim=(1, 2, 3), keepdim=True)).squeeze(1).double()
    ink /= ink.sum(dim=(1, 2), keepdim=True)
    place = torch.arange(28) - 13.5
    right, down = (ink.sum(dim=1) * place).sum(1), (ink.sum(dim=2) * place).sum(1)
    dx, dy = place - right.view(-1, 1, 1), (place - down.view(-1, 1)).unsqueeze(2)
    return right, down, (ink * dx * dy).sum(dim=(1, 2)) / (ink * dy * dy).sum(dim=(1, 2))


def test_deskewed_digits_are_upright_and_in_the_middle(digits):
    right, down, slant = moments(digits[0])
    assert slant.abs().mean() > 0.2
    right, down, slant = moments(deskew(digits[0]))
    assert slant.abs().mean() < 0.01 and slant.abs().max() < 0.2
    for offset in (right, down):  # a few lose ink over the edge
        assert offset.abs().mean() < 0.01 and offset.abs().max() < 1


def test_deskewing_undoes_a_slant_and_nothing_else(digits):
    images = digits[0][:200]
    slanted = augmentation()(images, coefficients([1.0, 0.2, 0.0], [0.0, 1.0, 0.0]).expand(200, -1, -1))
    apart = (images - slanted).square().mean()
    assert (deskew(images) - deskew(slanted)).square().mean() < 0.05 * apart
    # Heights are left alone: every row keeps its ink.
    rows = (images - images.min()).sum(dim=3)
    shifted = (deskew(images) - images.min()).sum(dim=3)
    assert torch.allclose(rows.sum(dim=2), shifted.sum(dim=2), rtol=0.02)


def test_an_image_without_ink_stays_as_it_is():
    blank = torch.full((2, 1, 28, 28), -0.4242)
    assert torch.allclose(deskew(blank), blank)


def test_the_deskew_setting_is_for_both_splits(workplace):
    plain = main.prepare(main.Args(device="cpu"))[1]
    upright = main.prepare(main.Args(device="cpu", deskew=1))[1]
    for (images, labels), (deskewed, same_labels) in zip(plain, upright, strict=True):
        assert torch.equal(deskewed, deskew(images)) and torch.equal(labels, same_labels)
        assert not torch.equal(deskewed, images)
