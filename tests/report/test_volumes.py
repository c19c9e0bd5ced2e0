from voxseg.data.labels import LabelTable
from voxseg.report.volumes import write_volumes


def test_table(tmp_path):
    table = LabelTable.freesurfer().select([17, 53, 14])
    write_volumes(tmp_path / "a.tsv", table, [1000, 3, 0], 0.88**3)
    lines = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()]
    assert lines == [
        ["id", "name", "side", "voxels", "mm3"],
        ["17", "Left-Hippocampus", "left", "1000", "681.47"],
        ["53", "Right-Hippocampus", "right", "3", "2.04"],
        ["14", "3rd-Ventricle", "none", "0", "0.00"],
    ]
