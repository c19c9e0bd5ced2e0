"""How much of a model's error is where a protocol draws borders: Dice before and after one number a structure.

    python benchmarks/label_protocol.py ../shared/data/oasis_manual/train ../shared/data/oasis_manual/validation
    ... --too ../shared/data/fsaverage brain.nii.gz aseg.nii.gz [--model brain] [--fitted 8]

What two protocols call the same structure differs in how far it reaches. The numbers are added to the logits of a model
whose weights stay as they are: they can move borders to and fro, the same way in every scan, and find nothing. They are
fitted on the cases of the first folder, by the Dice of soft labels at the scans' own resolution, and tried on those of
the second. How much that brings, and what is lost where labels follow the protocol of the training, tells the
difference of protocols from what the network does not see.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from real_scans import dice, merged
from torch import Tensor, nn
from torch.nn.functional import grid_sample, one_hot

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import prepare
from voxseg.data.volume import Volume, read_volume
from voxseg.inference.locate import locate_model
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.inference.restore import evidence

VOXELS, STEPS, RATE, SHARPNESS = 100_000, 80, 0.05, 3.0
"""Voxels of a scan drawn in a step of the fit; steps; their length; how near soft labels are to hard ones."""
AWAY = 3.0
"""Background whose evidence is so far ahead of all structures is background after the fit too."""

Classes = NDArray[np.uint8]


class Shifted(nn.Module):
    """A network whose logits are shifted, each class by its own number."""

    def __init__(self, network: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.network, self.shift = network, shift

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, shifted."""
        logits: Tensor = self.network(image)
        return logits + self.shift[:, None, None, None]


@dataclass(frozen=True)
class Sample:
    """The voxels of a scan that may change.

    Attributes:
        evidence: of each class there, `[N, K]`.
        truth: the class there, `[N]`.
        elsewhere: how many voxels of each class there are where the grid of the network does not reach, `[K]`.
    """

    evidence: Tensor
    truth: Tensor
    elsewhere: Tensor


def cases(folder: Path, scan: str, labels: str, scheme: LabelScheme) -> Iterator[tuple[str, Volume, Classes]]:
    """Name, scan and true classes of each case."""
    for path in sorted(folder.glob(f"**/{scan}")):
        truth = read_volume(path.with_name(labels)).data.astype(np.int64)
        yield path.parent.name, read_volume(path), scheme.to_classes(truth).astype(np.uint8)


@torch.no_grad()
def sample(predictor: Predictor, scan: Volume, truth: Classes) -> Sample:
    """What the fit needs of a scan: the evidence, interpolated as `predict` does it."""
    prepared = prepare([(scan.data, scan.geometry)], predictor.model.config.preparation)
    found = evidence(predictor.network(prepared.image[None]).float()[0].softmax(0))
    matrix = torch.from_numpy(np.linalg.inv(prepared.grid.affine) @ scan.geometry.affine).float()
    size = torch.tensor(prepared.grid.shape)
    rows, classes, elsewhere = [], [], torch.zeros(len(found))
    indices = torch.stack(torch.meshgrid(*(torch.arange(n) for n in truth.shape[1:]), indexing="ij"), -1).reshape(-1, 2)
    for x, plane in enumerate(torch.from_numpy(truth.astype(np.int64)).reshape(len(truth), -1)):
        points = indices.float() @ matrix[:3, 1:3].T + matrix[:3, 0] * x + matrix[:3, 3]
        inside = ((points >= 0) & (points <= size - 1)).all(1)
        elsewhere += torch.bincount(plane[~inside], minlength=len(found))
        places = (2 * points[inside] / (size - 1) - 1).flip(1)
        values = grid_sample(found[None], places[None, :, None, None], align_corners=True)[0, :, :, 0, 0].T
        unsure = (plane[inside] > 0) | (values[:, 1:].amax(1) > values[:, 0] - AWAY)
        rows.append(values[unsure])
        classes.append(plane[inside][unsure])
    return Sample(torch.cat(rows), torch.cat(classes), elsewhere)


def fitted(samples: list[Sample], classes: int) -> Tensor:
    """The numbers `[K]`, 0 for the background, with which the mean Dice of soft labels is best."""
    torch.manual_seed(0)
    shift = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.Adam([shift], RATE)
    for _ in range(STEPS):
        loss = torch.zeros(())
        for one in samples:
            drawn = torch.randint(len(one.truth), (VOXELS,))
            soft = (SHARPNESS * (one.evidence[drawn] + shift)).softmax(1)
            true = one_hot(one.truth[drawn], classes).float()
            there = true.sum(0) + one.elsewhere * (VOXELS / len(one.truth))
            loss = loss - (2 * (soft * true).sum(0) / (soft.sum(0) + there))[1:].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (shift - shift[0]).detach()


def scores(predictor: Predictor, scan: Volume, truth: Classes) -> NDArray[np.float64]:
    """Dice of each structure, sides as one."""
    return dice(merged(predictor, predictor.segment(scan).classes), truth, len(predictor.model.structures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="folder of cases that the numbers are fitted on")
    parser.add_argument("test", type=Path, help="folder of cases that they are tried on")
    parser.add_argument("--too", nargs=3, metavar=("FOLDER", "SCAN", "LABELS"), help="tried on these cases as well")
    parser.add_argument("--scan", default="t1.nii.gz", help="name of the scan of a case")
    parser.add_argument("--labels", default="labels.nii.gz", help="name of its labels")
    parser.add_argument("--model", default="brain")
    parser.add_argument("--fitted", type=int, default=8, help="cases that the numbers are fitted on")
    arguments = parser.parse_args()
    before, after = Predictor(load_model(arguments.model)), Predictor(load_model(arguments.model))
    scheme = LabelScheme(**yaml.safe_load((locate_model(arguments.model) / "config.yaml").read_text())["labels"])
    names = scheme.predicted().names
    known = list(islice(cases(arguments.train, arguments.scan, arguments.labels, scheme), arguments.fitted))
    if not known:
        parser.error(f"{arguments.train}: no {arguments.scan} below it")
    shift = fitted([sample(before, scan, truth) for _, scan, truth in known], len(names) + 1)
    after.network = Shifted(after.network, shift)
    print(f"fitted on {', '.join(name for name, _, _ in known)}")
    tried = [(arguments.test, arguments.scan, arguments.labels), *([arguments.too] if arguments.too else [])]
    for folder, scan_name, labels in tried:
        rows = []
        for name, scan, truth in cases(Path(folder), scan_name, labels, scheme):
            rows.append([scores(predictor, scan, truth) for predictor in (before, after)])
            print(f"{name}: mean Dice {np.nanmean(rows[-1][0]):.4f} -> {np.nanmean(rows[-1][1]):.4f}", flush=True)
        print("\nstructure                     shift  before   after")
        for number, name, one in zip(shift[1:].tolist(), names, np.nanmean(rows, 0).T, strict=True):
            print(f"{name:28s} {number:6.2f}  {one[0]:6.3f}  {one[1]:6.3f}")
        print(f"{'mean of all':28s}         {np.nanmean(rows, (0, 2))[0]:6.4f}  {np.nanmean(rows, (0, 2))[1]:6.4f}\n")


if __name__ == "__main__":
    main()
