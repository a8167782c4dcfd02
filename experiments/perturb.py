"""Perturbations of test images: each maps pixels float32 [N, 28, 28], 0 to 255, to the same shape.

Those that move pixels interpolate bilinearly, and what comes from beyond the edge is black. Random
numbers are drawn on the CPU, so that a generator's seed means the same on every device.
"""

import math

import torch
import torch.nn.functional as F

SIDE = 28  # pixels


def _look_up(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Return images looked up, bilinearly, where matrices [N, 2, 3] say; black beyond the edge."""
    shape = [len(images), 1, SIDE, SIDE]
    grid = F.affine_grid(matrices.to(images.device), shape, align_corners=False)
    return F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _matrices(*entries: torch.Tensor) -> torch.Tensor:
    return torch.stack(entries, dim=1).view(-1, 2, 3)


def shift(images: torch.Tensor, pixels: float, generator: torch.Generator) -> torch.Tensor:
    """Move each image by so many pixels in a random direction."""
    angle = 2 * math.pi * torch.rand(len(images), generator=generator)
    one, zero, step = torch.ones_like(angle), torch.zeros_like(angle), 2 * pixels / SIDE
    return _look_up(images, _matrices(one, zero, step * angle.cos(), zero, one, step * angle.sin()))


def rotate(images: torch.Tensor, degrees: float, generator: torch.Generator) -> torch.Tensor:
    """Rotate each image about its centre, at random to the left or to the right."""
    sign = 2.0 * torch.randint(2, (len(images),), generator=generator) - 1
    angle = math.radians(degrees) * sign
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _look_up(images, _matrices(cos, -sin, zero, sin, cos, zero))


def scale(images: torch.Tensor, factor: float, generator: torch.Generator) -> torch.Tensor:
    """Make each image so many times as large, from its centre."""
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]])
    return _look_up(images, matrix.expand(len(images), 2, 3))


def noise(images: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Add Gaussian noise of that standard deviation to every pixel; clip to 0 to 255."""
    drawn = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + deviation * drawn).clamp(0, 255)


def blur(images: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Blur with a Gaussian of that standard deviation in pixels, black beyond the edge."""
    offsets = torch.arange(1 - SIDE, SIDE, device=images.device)
    weights = torch.exp(-0.5 * (offsets / max(deviation, 1e-6)) ** 2)
    places = torch.arange(SIDE, device=images.device)
    # Row i of the matrix is the Gaussian around pixel i; it blurs columns, then rows.
    matrix = (weights / weights.sum())[places - places.unsqueeze(1) + SIDE - 1]
    return matrix @ images @ matrix


def contrast(images: torch.Tensor, factor: float, generator: torch.Generator) -> torch.Tensor:
    """Scale each pixel's difference from the mean of its image."""
    mean = images.mean(dim=(1, 2), keepdim=True)
    return mean + factor * (images - mean)


def cover(images: torch.Tensor, side: float, generator: torch.Generator) -> torch.Tensor:
    """Blacken a square of that side in pixels, at a random place within each image."""
    first = torch.rand(2, len(images), 1, generator=generator) * (SIDE + 1 - side)
    first = first.floor().to(images.device)
    places = torch.arange(SIDE, device=images.device)
    rows, columns = (first <= places) & (places < first + side)
    return images * ~(rows.unsqueeze(2) & columns.unsqueeze(1))
