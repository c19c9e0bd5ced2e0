from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from heads import LABELS, PRIOR, SHAPE, SPACING, toy_labels, write_toy_heads
from voxseg.data.label_maps import LabelMaps
from voxseg.data.label_scheme import LabelScheme
from voxseg.errors import UserError

SCHEME = LabelScheme(classes=[2, 3, 4, 10])


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> LabelMaps:
    return LabelMaps.read(write_toy_heads(tmp_path_factory.mktemp("heads")), SCHEME)


class TestRead:
    def test_reoriented_padded_and_dense(self, maps: LabelMaps) -> None:
        head = maps.heads[0]
        assert head.rows.dtype == torch.uint8
        assert head.rows.shape == tuple(n + 2 for n in SHAPE)
        target = maps.target[head.rows[1:-1, 1:-1, 1:-1].long()]
        assert np.array_equal(target.numpy(), SCHEME.to_classes(toy_labels()))
        assert (head.rows[0] == 0).all()
        assert (head.rows[:, :, -1] == 0).all()

    def test_tables(self, maps: LabelMaps) -> None:
        assert maps.prior.shape == (4, 7)
        assert maps.target[0] == maps.t1_class[0] == maps.any_class[0] == 0
        assert int(maps.target.max()) == 4
        assert maps.brain.sum() == 8

    def test_both_sides_share_a_class(self, maps: LabelMaps) -> None:
        ids = [int(line.split(",")[0]) for line in LABELS.splitlines()[1:]]
        for left, right in ((2, 41), (3, 42), (4, 43), (10, 49)):
            assert maps.any_class[ids.index(left)] == maps.any_class[ids.index(right)]

    def test_mirrored_targets(self, tmp_path: Path) -> None:
        scheme = LabelScheme(classes=[3, 42, 2], merge_sides=False)
        maps = LabelMaps.read(write_toy_heads(tmp_path, 1), scheme)
        swapped = {1: 2, 2: 1, 0: 0, 3: 3}
        assert maps.mirrored_target.tolist() == [swapped[k] for k in maps.target.tolist()]

    def test_brain_extent_and_overview(self, maps: LabelMaps) -> None:
        head = maps.heads[0]
        assert head.spacing.tolist() == [SPACING] * 3
        assert ((head.brain_high - head.brain_low) * SPACING - torch.tensor([98.0, 122.0, 110.0])).abs().max() < 4
        position = head.coarse_position.long()
        assert torch.equal(head.rows[tuple(position.T)], head.coarse)
        assert len(head.coarse) == pytest.approx(head.rows.numel() / 8, rel=0.1)

    def test_background_row_need_not_come_first(self, tmp_path: Path) -> None:
        folder = write_toy_heads(tmp_path, 1)
        lines = LABELS.splitlines()
        (folder / "labels.csv").write_text("\n".join([lines[0], *lines[2:], lines[1]]))
        maps = LabelMaps.read(folder, SCHEME)
        assert maps.target[0] == 0
        assert (maps.heads[0].rows[0] == 0).all()

    def test_the_shared_maps(self, shared_data: Path) -> None:
        maps = LabelMaps.read(shared_data / "head_label_maps", LabelScheme.brain())
        assert len(maps.heads) == 20
        assert set(maps.target.tolist()) == set(range(17))
        folded = maps.folds != torch.arange(len(maps.target))
        assert maps.target[folded[0]].tolist() == maps.target[folded[1]].tolist() == [8, 8]  # cerebellar cortex
        assert maps.target[maps.folds[0][folded[0]]].tolist() == [7, 7]  # its white matter
        assert maps.target[maps.folds[1][folded[1]]].tolist() == [0, 0]
        assert set(maps.target[maps.white].tolist()) == {4}
        assert set(maps.target[maps.deep].tolist()) == {9, 10, 11, 12, 14, 15, 16}
        head = maps.heads[0]
        assert 110 < float((head.brain_high - head.brain_low)[0]) < 160


class TestMistakes:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_toy_heads(tmp_path / "heads", 1)

    def check(self, folder: Path, message: str) -> None:
        with pytest.raises(UserError, match=re.escape(message)):
            LabelMaps.read(folder, SCHEME)

    def test_parted(self, maps: LabelMaps) -> None:
        kept, held_out = maps.parted(["map_02"])
        assert [head.name for head in kept.heads] == ["map_01"]
        assert [head.name for head in held_out.heads] == ["map_02"]
        assert len(maps.parted([])[0].heads) == 2
        with pytest.raises(UserError, match="there is no such label map"):
            maps.parted(["map_03"])
        with pytest.raises(UserError, match="leaves no label map to train on"):
            maps.parted(["map_01", "map_02"])

    def test_no_folder(self, tmp_path: Path) -> None:
        self.check(tmp_path / "nowhere", "is not a folder")

    def test_no_maps(self, tmp_path: Path) -> None:
        self.check(tmp_path, "holds no map_*.nii.gz")

    def test_missing_tables(self, folder: Path) -> None:
        (folder / "t1_intensity_prior.csv").unlink()
        self.check(folder, "t1_intensity_prior.csv: does not exist")
        (folder / "labels.csv").unlink()
        self.check(folder, "labels.csv: does not exist")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("map_label,intensity_class_t1\n0,0\n", "has no column 'intensity_class_any_contrast'"),
            (LABELS.splitlines()[0], "labels.csv: has no rows"),
            (LABELS + "7,1,one,0\n", "line 14: does not hold 4 whole numbers"),
            (LABELS + "2,1,1,0\n", "lists the label 2 twice"),
            (LABELS + "7,1,9,0\n", "uses the T1 class 9"),
            (LABELS + "-7,1,1,0\n", "negative numbers"),
            (LABELS.replace("0,0,0,0\n", ""), "has no row for the label 0"),
            (LABELS.replace("502,2,5,0\n", ""), "map_01.nii.gz: holds the label 502, which labels.csv lacks"),
        ],
    )
    def test_wrong_label_table(self, folder: Path, text: str, message: str) -> None:
        (folder / "labels.csv").write_text(text)
        self.check(folder, message)

    @pytest.mark.parametrize(
        ("text", "message"),
        [(PRIOR + "9,1,1,1,1\n", "does not number its classes"), (PRIOR + "7,1,1,x,1\n", "line 9: does not hold 5")],
    )
    def test_wrong_prior(self, folder: Path, text: str, message: str) -> None:
        (folder / "t1_intensity_prior.csv").write_text(text)
        self.check(folder, message)

    def test_map_that_is_no_image(self, folder: Path) -> None:
        (folder / "map_01.nii.gz").write_bytes(b"nothing")
        self.check(folder, "map_01.nii.gz: cannot be read")

    def test_truncated_map(self, folder: Path) -> None:
        data = (folder / "map_01.nii.gz").read_bytes()
        (folder / "map_01.nii.gz").write_bytes(data[: len(data) // 2])
        self.check(folder, "map_01.nii.gz: cannot be read")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.zeros((4, 5, 6, 2), np.int16), "has 4 dimensions"),
            (np.zeros((4, 5, 6), np.float32), "not whole numbers"),
            (np.zeros((4, 5, 6), np.int16), "holds no label of the brain"),
        ],
    )
    def test_unsuitable_map(self, folder: Path, data: np.ndarray, message: str) -> None:
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / "map_01.nii.gz")
        self.check(folder, message)
