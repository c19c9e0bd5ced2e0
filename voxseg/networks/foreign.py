"""Networks of other packages and of the user's own, by their import path, and the baselines of `voxseg.baselines`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.errors import UserError
from voxseg.imports import make_imported, told

from .config import NetworkConfig

TRIAL_VOXELS = 32
"""Least side of the volume that a network is tried on: four halvings leave more than one voxel, as norms need."""

HOSTED_TRIAL_VOXELS = 8
"""The same for the baselines, which take any grid of at least that."""

MEMORY_FACTOR = 4
"""How many times what the largest layer takes in and gives out is alive together, with skip connections and workspace.

MONAI's UNet, SegResNet, BasicUNet, DynUNet, AttentionUnet and VNet were measured to need 0.3 to 0.7 of what this makes.
"""


class ForeignNetwork(nn.Module):
    """A network from elsewhere, with the interface of ours.

    Volumes are padded with zeros, evenly on both sides, to a multiple of `config.multiple_of` voxels, and the outputs
    cut back.

    Args:
        config: of the network; its `arguments` are exactly those of the constructor, but that a baseline is given the
            config's `in_channels` and `out_channels` beside them.

    Attributes:
        bytes_per_voxel: that a forward pass without gradients needs for each voxel of its input, estimated.

    Raises:
        UserError: if the network cannot be imported or constructed, or if what it makes of zeros is not
            `config.out_channels` channels on the grid of the input.

    Shape:
        ``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        subject = f"network.architecture: {config.architecture}"
        assert config.import_path is not None
        network = make_imported(config.import_path, _arguments(config), subject)
        if not isinstance(network, nn.Module):
            raise UserError(subject, f"is no torch module but {type(network).__name__}", "give a subclass of nn.Module")
        self.network = network
        self.bytes_per_voxel = self._try()

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor | list[Tensor]:
        """Logits; with ``deep_supervision`` a list of them, all on the grid of the input.

        Of a network that gives several outputs (MONAI's, where they supervise deeply) the first is the prediction. The
        others are interpolated to its grid.
        """
        grid = x.shape[2:]
        before, padding = _padding(grid, self.config.multiple_of)
        padded = F.pad(x, padding) if any(padding) else x
        outputs = _tensors(self.network(padded))
        outputs = outputs if deep_supervision else outputs[:1]
        x0, y0, z0 = before
        results = []
        for number, output in enumerate(outputs):
            if number and output.shape[2:] != padded.shape[2:]:
                output = F.interpolate(output, size=padded.shape[2:], mode="trilinear", align_corners=False)
            results.append(output[:, :, x0 : x0 + grid[0], y0 : y0 + grid[1], z0 : z0 + grid[2]])
        return results if deep_supervision else results[0]

    def fold(self) -> nn.Module:
        """A copy for inference, without gradients."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    def _try(self) -> int:
        """Run on zeros and compare the shapes; returns the bytes a voxel.

        One axis is longer by a single step than the others, so that a network that takes one size only, mixes up axes,
        or needs another multiple shows it here and not hours later.
        """
        config = self.config
        least = TRIAL_VOXELS if config.foreign else HOSTED_TRIAL_VOXELS
        side = math.ceil(least / config.multiple_of) * config.multiple_of
        grid = (side, side, side + config.multiple_of)
        subject = f"network.architecture: {config.architecture}"
        training = self.network.training
        state = torch.get_rng_state()
        try:
            with torch.no_grad(), _largest_layer(self.network.eval()) as largest:
                outputs = _tensors(self.network(torch.zeros(1, config.in_channels, *grid)))
        except Exception as error:  # whatever their code raises
            remedy = "correct network.arguments, or give network.multiple_of, the voxels that it needs a multiple of"
            problem = f"does not run on {_text((config.in_channels, *grid))} ({told(error)})"
            raise UserError(subject, problem, remedy) from error
        finally:
            self.network.train(training)
            torch.set_rng_state(state)
        found, expected = tuple(outputs[0].shape[1:]), (config.out_channels, *grid)
        if found[:1] != expected[:1]:
            problem = f"gives {found[0] if found else 0} channels, but the labels need {config.out_channels}"
            raise UserError(subject, problem, "correct network.arguments")
        if found != expected:
            problem = f"makes a volume of {_text(found[1:])} out of one of {_text(grid)}"
            remedy = "give network.multiple_of, the voxels that it needs a multiple of, if that is why they differ"
            raise UserError(subject, problem, remedy)
        ends = 8 * 4 * (config.in_channels + config.out_channels)  # padded, cut, and made probabilities of
        return math.ceil(MEMORY_FACTOR * largest[0] / math.prod(grid)) + ends


def _arguments(config: NetworkConfig) -> dict[str, Any]:
    """What the constructor is called with.

    Raises:
        UserError: arguments say what the config sets.
    """
    if config.foreign:
        return dict(config.arguments)
    counts: dict[str, Any] = {"in_channels": config.in_channels, "out_channels": config.out_channels}
    if config.output is not None:
        counts["output"] = config.output
    for name in counts:
        if name in config.arguments:
            problem = "follows from the images and labels"
            raise UserError(f"network.arguments.{name}", problem, "remove it")
    return counts | config.arguments


def _tensors(output: object) -> list[Tensor]:
    """The outputs of a network as plain tensors, the prediction first.

    Raises:
        TypeError: for anything but a tensor, or several of them.
    """
    if isinstance(output, Tensor):
        # MONAI's DynUNet stacks what its levels say: [B, levels, C, X, Y, Z].
        levels = output.unbind(1) if output.dim() == 6 else (output,)
    elif isinstance(output, Sequence) and output and all(isinstance(level, Tensor) for level in output):
        levels = tuple(output)
    else:
        raise TypeError(f"the output is no tensor but {type(output).__name__}")
    return [level.as_subclass(Tensor) for level in levels]  # MONAI's MetaTensor has no place in a loss


def _padding(grid: Sequence[int], multiple: int) -> tuple[list[int], list[int]]:
    """Zeros before each axis, and all of them as `torch.nn.functional.pad` takes them."""
    missing = [-n % multiple for n in grid]
    before = [m // 2 for m in missing]
    pairs = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return before, [n for pair in reversed(pairs) for n in pair]


@contextmanager
def _largest_layer(network: nn.Module) -> Iterator[list[int]]:
    """Measure the largest number of bytes that a layer takes in and gives out together; in a list of one."""
    largest = [0]

    def measure(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        size = sum(t.nbytes for t in (*inputs, output) if isinstance(t, Tensor))
        largest[0] = max(largest[0], size)

    handles = [m.register_forward_hook(measure) for m in network.modules() if _is_leaf(m)]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def _is_leaf(module: nn.Module) -> bool:
    """Whether a module is made of no others; lists of parameters are none."""
    return all(isinstance(child, (nn.ParameterDict, nn.ParameterList)) for child in module.children())


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
