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


def test_confidence_is_a_further_column(tmp_path):
    table = LabelTable.freesurfer().select([10, 49])
    write_volumes(tmp_path / "a.tsv", table, [10, 0], 1.0, [0.8765, float("nan")])
    lines = (tmp_path / "a.tsv").read_text().splitlines()
    assert lines[0].split("\t")[-1] == "confidence"
    assert [line.split("\t")[-1] for line in lines[1:]] == ["0.876", "n/a"]
