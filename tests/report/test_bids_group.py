"""What the group level tells to be out of line, and the tables that it reads."""

from pathlib import Path

import pytest

from voxseg.data.datasets.bids_scans import BidsScan
from voxseg.errors import UserError
from voxseg.report.bids_derivatives import segmentation_entity
from voxseg.report.bids_group import ScanVolumes, outliers, read_volumes


def rows(**volumes: list[float]) -> list[ScanVolumes]:
    count = len(next(iter(volumes.values())))
    scans = [BidsScan({}, f"sub-{k}", Path(f"sub-{k}/anat")) for k in range(count)]
    return [ScanVolumes(scan, {name: v[k] for name, v in volumes.items()}) for k, scan in enumerate(scans)]


def test_scores_are_the_modified_z_of_iglewicz_and_hoaglin() -> None:
    # Median 10.5, absolute deviations 0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3.5, 89.5: their median is 2.
    told = outliers(rows(a=[10, 11, 9, 12, 8, 13, 7, 100], b=[1, 2, 3, 4, 5, 6, 7, 8]), ["a", "b"])
    assert [(row.scan.stem, name) for row, name, _ in told] == [("sub-7", "a")]
    assert told[0][2] == pytest.approx(0.6745 * 89.5 / 2)


def test_few_scans_and_equal_ones_are_not_judged() -> None:
    assert outliers(rows(a=[10, 11, 9, 12, 8, 13, 100]), ["a"]) == []
    assert outliers(rows(a=[5.0] * 8), ["a"]) == []
    assert [row.scan.stem for row, _, _ in outliers(rows(a=[5.0] * 8 + [6.0]), ["a"])] == ["sub-8"]


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("id\tname\tvolume\n1\tx\t3\n")
    with pytest.raises(UserError, match="is not a table of volumes"):
        read_volumes(path)


def test_names_of_models_become_labels_of_bids() -> None:
    assert segmentation_entity("brats_2020-v1.1") == "seg-brats2020v11"
