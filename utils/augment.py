"""Deskewing, and random augmentation of the training images.

Deskewing and affine distortions of digits go back to LeCun et al., 1998; elastic ones to Simard,
Steinkraus and Platt, "Best practices for convolutional neural networks applied to visual document
analysis", 2003. The elastic field here is coarse noise, smoothed by bicubic interpolation.

For every pixel of the result, the augmentation says where in the image to look. That position is a
sum of fixed maps (x, y, 1 and the elastic bumps), weighted by coefficients of each image: so the
positions of a whole batch are one matrix product, and bilinear interpolation does the rest.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

SIDE = 28  # pixels
KNOTS = 4  # the elastic field is drawn on 4 x 4 points
TINY = 1e-6  # keeps an image without ink from being divided by 0


def _affine_maps() -> torch.Tensor:
    """Return x, y and 1 at every pixel, [3, 28, 28], in grid_sample's coordinates: -1 to 1."""
    centres = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])


def _resample(images: torch.Tensor, coefficients: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return images [B, 1, 28, 28] looked up where coefficients [B, 2, M] of maps [M, 784] say."""
    grid = (coefficients @ maps).view(-1, 2, SIDE, SIDE).permute(0, 2, 3, 1)
    # Beyond the edge its pixels continue: in normalized images 0 is not the background.
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def deskew(images: torch.Tensor) -> torch.Tensor:
    """Return images [B, 1, 28, 28] without slant, their centre of mass in the middle.

    The slant is the slope of the least-squares line that predicts x from y over the ink. Ink is
    how much a pixel exceeds the darkest of its image, the background.
    """
    maps = _affine_maps().to(images.device)
    x, y, _ = maps
    ink = (images - images.amin(dim=(2, 3), keepdim=True)).squeeze(1)
    mass = ink.sum(dim=(1, 2)).clamp(min=TINY)
    right, down = (ink * x).sum(dim=(1, 2)) / mass, (ink * y).sum(dim=(1, 2)) / mass
    dx, dy = x - right.view(-1, 1, 1), y - down.view(-1, 1, 1)
    slant = (ink * dx * dy).sum(dim=(1, 2)) / (ink * dy * dy).sum(dim=(1, 2)).clamp(min=TINY)
    one, zero = torch.ones_like(slant), torch.zeros_like(slant)
    rows = torch.stack([one, slant, right, zero, one, down], dim=1)
    return _resample(images, rows.view(-1, 2, 3), maps.flatten(1))


class Augmentation:
    """Random rotation, shift, scale, shear and elastic distortion, different for every image.

    Args:
        args: the settings: the largest rotation rotate (degrees), shift (pixels, each way), stretch
            (share of width and, independently, of height) and shear (pixels per pixel of height),
            and elastic, the standard deviation of the field at its knots (pixels).
        device: where the images are.
    """

    def __init__(self, args: Any, device: torch.device) -> None:
        self.args = args
        knots = torch.eye(KNOTS**2).view(-1, 1, KNOTS, KNOTS)
        bumps = F.interpolate(knots, (SIDE, SIDE), mode="bicubic", align_corners=True)
        maps = torch.cat([_affine_maps(), bumps.squeeze(1)]) if args.elastic else _affine_maps()
        self.maps = maps.flatten(1).to(device)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return random coefficients, float32 [count, 2 (x, y), maps], on the CPU.

        Uniform within the limits; those of the elastic field are normal.
        """
        args, uniform = self.args, 2 * torch.rand(6, count, generator=generator) - 1
        angle, shear = math.radians(args.rotate) * uniform[0], args.shear * uniform[1]
        width, height = 1 + args.stretch * uniform[2:4]
        pixel = 2 / SIDE  # in the coordinates of the grid
        right, down = args.shift * pixel * uniform[4:6]
        cos, sin = angle.cos(), angle.sin()
        # Rotation times shear times scale, then the shift.
        affine = torch.stack(
            [
                *(cos * width, (cos * shear - sin) * height, right),
                *(sin * width, (sin * shear + cos) * height, down),
            ],
            dim=1,
        ).view(count, 2, 3)
        if not args.elastic:
            return affine
        field = torch.randn(count, 2, KNOTS**2, generator=generator) * (args.elastic * pixel)
        return torch.cat([affine, field], dim=2)

    def __call__(self, images: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Return images [B, 1, 28, 28] distorted by coefficients [B, 2, maps]; the same shape."""
        return _resample(images, coefficients, self.maps)


def make_augmentation(args: Any, device: torch.device) -> Augmentation | None:
    """Return the augmentation that the settings ask for; None if they ask for none."""
    if any((args.rotate, args.shift, args.stretch, args.shear, args.elastic)):
        return Augmentation(args, device)
    return None
