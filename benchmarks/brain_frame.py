"""Where the structures of a brain lie in the plane between its halves: the table that tells left from right.

    python benchmarks/brain_frame.py ../shared/data/head_label_maps > voxseg/inference/brain_frame.csv

For each structure of the brain model, both sides taken together, the centre of its voxels towards the front and towards
the top of the head, in mm from the mean of all structures; the mean over the label maps of a folder.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.layout import find_label_maps


def main() -> None:
    scheme = LabelScheme.brain()
    frames = []
    for path in find_label_maps(Path(sys.argv[1])):
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asanyarray(image.dataobj).astype(np.int64)
        classes = scheme.to_classes(np.where(labels < 500, labels, 0))  # from 500 on: what is not brain
        centres = [np.argwhere(classes == k).mean(0) for k in range(1, len(scheme.classes) + 1)]
        world = nib.affines.apply_affine(image.affine, np.array(centres))
        frames.append(world - world.mean(0))
    mean = np.mean(frames, axis=0)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["id", "front_mm", "top_mm"])
    for label_id, (_, front, top) in zip(scheme.classes, mean, strict=True):
        table.writerow([label_id, f"{front:.1f}", f"{top:.1f}"])


if __name__ == "__main__":
    main()
