"""Training on a GPU: on PyTorch's fake CUDA tensors, where there is no card.

Fake tensors have a device and a shape, but no values: a CPU tensor that meets a CUDA one raises,
and so does reading a value back (.item(), a branch on a tensor), for which the CPU would wait in
every step. Backward pass and optimizer can't be faked without a driver and are left out.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import main
from dataset import Batches, Split, prepare
from main import RECIPES, Args
from model import MODELS
from utils.augment import make_augmentation

CUDA = torch.device("cuda")


class NoOptimizer:
    """Stands in for the optimizer, which can't be faked."""

    def zero_grad(self):
        pass

    step = zero_grad


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model_type", MODELS)
def test_an_epoch_stays_on_the_gpu(model_type, recipe, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", lambda _: None)
    monkeypatch.setattr(main, "_means", lambda sums, batches: sums)
    args = Args(**RECIPES[recipe] | {"model_type": model_type})
    with FakeTensorMode():
        with CUDA:
            model = MODELS[model_type]()
        loaded = Split(torch.zeros(150, 28, 28, dtype=torch.uint8), torch.zeros(150).long())
        split = prepare(loaded, args.deskew, CUDA)
        augmentation = make_augmentation(args, CUDA)
        batches = Batches(split, args.batch_size, torch.Generator(), augmentation)
        for sums in (
            main.train(model, batches, NoOptimizer(), args),
            main.test(model, Batches(split, 100)),
        ):
            assert sums.device.type == "cuda" and sums.shape == (2,)
