"""Random warps: every training image a little moved, turned, stretched and bent, anew each epoch.

Affine distortions of training digits go back to LeCun et al., 1998; elastic ones to Simard,
Steinkraus and Platt, "Best practices for convolutional neural networks applied to visual document
analysis", 2003. The elastic field here is coarse noise made smooth by bicubic interpolation.
"""

import math

import torch
import torch.nn.functional as F

SIDE = 28  # pixels
KNOTS = 4  # the elastic field is drawn on 4 x 4 points


class Warp:
    """Warps images, each by its own random coefficients.

    A warp tells for every pixel of the result where in the image to look. That place is a sum of
    fixed maps (x, y, 1 and the elastic bumps), weighted by the image's coefficients: so the warps
    of a batch are one matrix product, and bilinear interpolation does the rest.

    Args:
        rotate: largest turn, in degrees.
        shift: largest move, in pixels, each way.
        stretch: largest change of width and, by itself, of height; 0.1 is 10 %.
        shear: largest slant, horizontal pixels per vertical pixel.
        elastic: standard deviation of the elastic field at its knots, in pixels.
        device: where the images are.
    """

    def __init__(
        self,
        rotate: float,
        shift: float,
        stretch: float,
        shear: float,
        elastic: float,
        device: torch.device,
    ) -> None:
        self.rotate, self.shift, self.stretch = math.radians(rotate), shift, stretch
        self.shear, self.elastic = shear, elastic
        # Coordinates as grid_sample counts them: from -1 to 1, at the centres of the pixels.
        centres = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        knots = torch.eye(KNOTS**2).view(-1, 1, KNOTS, KNOTS)
        bumps = F.interpolate(knots, (SIDE, SIDE), mode="bicubic", align_corners=True)
        maps = torch.stack([x, y, torch.ones_like(x), *bumps.squeeze(1)])
        self.maps = (maps if elastic else maps[:3]).flatten(1).to(device)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return random coefficients, float32 [count, 2 (x, y), maps], on the CPU.

        Uniform within the limits; those of the elastic field normal.
        """
        chance = 2 * torch.rand(6, count, generator=generator) - 1
        angle, shear = self.rotate * chance[0], self.shear * chance[1]
        width, height = 1 + self.stretch * chance[2:4]
        pixel = 2 / SIDE  # in the coordinates of the grid
        right, down = self.shift * pixel * chance[4:6]
        cos, sin = angle.cos(), angle.sin()
        # Rotation times shear times stretch, then the move.
        affine = torch.stack(
            [
                *(cos * width, (cos * shear - sin) * height, right),
                *(sin * width, (sin * shear + cos) * height, down),
            ],
            dim=1,
        ).view(count, 2, 3)
        if not self.elastic:
            return affine
        bend = torch.randn(count, 2, KNOTS**2, generator=generator) * (self.elastic * pixel)
        return torch.cat([affine, bend], dim=2)

    def __call__(self, images: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Return images [B, 1, 28, 28] warped by coefficients [B, 2, maps]; the same shape."""
        grid = (coefficients @ self.maps).view(-1, 2, SIDE, SIDE).permute(0, 2, 3, 1)
        # Beyond the edge its pixels go on: in normalised images 0 is not the background.
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
