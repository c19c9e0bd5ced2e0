"""What numbers in label files mean: by --labels, by the files, by FreeSurfer's table."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from models import IDS, write_model
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.segmentation import write_segmentation
from voxseg.data.volume import read_array
from voxseg.errors import UserError
from voxseg.evaluation.labelling import labels_found, labels_given
from voxseg.evaluation.pairs import Pair

SHAPE = (10, 10, 10)
BRAIN = LabelScheme.brain().apart()


def save(path: Path, *ids: int) -> Path:
    """A label file with a few voxels of each id."""
    data = np.zeros(SHAPE, dtype=np.int16)
    for k, i in enumerate(ids):
        data[k // 10, k % 10] = i
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


def written(path: Path, table: LabelTable, description: str, *ids: int) -> Path:
    """A segmentation as `voxseg predict` writes it."""
    scan = read_array(save(path, *ids), labels=True)
    write_segmentation(path, np.asarray(scan.data), table, scan, description)
    return path


def find(prediction: Path, reference: Path, **more):
    return labels_found([Pair("c", prediction, reference, "m")], more.get("names", {}), more.get("regions", {}))


def test_given_by_name_folder_or_file(tmp_path: Path) -> None:
    assert labels_given("brain").scheme.classes == BRAIN.classes
    assert labels_given("brain").scheme.merge == BRAIN.merge
    brats = labels_given("brats2020").scheme
    assert [region.name for region in brats.regions] == ["whole tumour", "tumour core", "enhancing tumour"]
    # A model folder without a block labels has its labels.csv; the folder of a run holds the model.
    write_model(tmp_path / "run" / "model")
    for place in (tmp_path / "run" / "model", tmp_path / "run", tmp_path / "run" / "model" / "labels.csv"):
        scheme = labels_given(str(place)).scheme
        assert (scheme.classes, scheme.unlisted, scheme.merge_sides) == (IDS, "refuse", False)
    trained = write_model(tmp_path / "trained", labels={"classes": [2, 10], "merge_sides": True})
    assert labels_given(str(trained)).scheme.classes == [2, 10]
    assert labels_given(str(trained / "config.yaml")).scheme.classes == [2, 10]


def test_given_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        labels_given("brian")
    assert str(caught.value).startswith("--labels brian: there is no such file, and no such packaged model or config;")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is a folder without"):
        labels_given(str(tmp_path / "empty"))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("labels: {classes: [1, 1]}")
    with pytest.raises(UserError, match=r"labels\.classes: the id 1 is given twice"):
        labels_given(str(wrong))
    wrong.write_text("name: x")
    with pytest.raises(UserError, match="has no block labels"):
        labels_given(str(wrong))


def test_tables_with_sides_keep_them(tmp_path: Path) -> None:
    LabelTable.freesurfer().select([10, 49, 17]).write(tmp_path / "labels.csv")
    predicted = labels_given(str(tmp_path / "labels.csv")).scheme.predicted()
    assert [(label.id, label.side, label.partner) for label in predicted] == [
        (10, "left", 49),
        (49, "right", 10),
        (17, "left", None),  # the other side is not in the table
    ]


def test_predictions_of_a_packaged_model_name_it(tmp_path: Path) -> None:
    """Sides told apart afterwards against manual labels: the common case works without an option."""
    table = labels_given("brain").scheme.predicted()
    prediction = written(tmp_path / "p.nii.gz", table, "voxseg 0.1.0, model brain", 10, 17, 2)
    found = find(prediction, save(tmp_path / "r.nii.gz", 10, 49, 17, 53, 24, 2, 41))
    assert found.source == "the model brain, which the predictions name"
    assert not found.scheme.merge_sides
    assert found.scheme.classes == BRAIN.classes
    # Another model of that name, with other labels, is not taken for it.
    other = written(tmp_path / "q.nii.gz", table.select([10, 17]), "voxseg 0.1.0, model brain", 10)
    assert find(other, save(tmp_path / "r.nii.gz", 10, 17)).source == "the headers of the predictions"


def test_names_in_headers(tmp_path: Path) -> None:
    table = LabelTable.freesurfer().select([10, 49, 16])
    prediction = written(tmp_path / "p.nii.gz", table, "voxseg 0.1.0, model mine", 10, 49)
    found = find(prediction, save(tmp_path / "r.nii.gz", 10, 49, 16))
    labels = found.scheme.predicted()
    assert [(label.name, label.colour, label.side, label.partner) for label in labels] == [
        ("Left-Thalamus", "#00760e", "left", 49),
        ("Brain-Stem", "#779fb0", "none", None),
        ("Right-Thalamus", "#00760e", "right", 10),
    ]
    assert found.scheme.unlisted == "refuse"
    with pytest.raises(UserError) as caught:
        find(prediction, save(tmp_path / "r.nii.gz", 10, 17))
    assert "r.nii.gz: holds the label 17, which the headers of the predictions lack; give --labels brain" in str(
        caught.value
    )


def test_headers_that_contradict_each_other(tmp_path: Path) -> None:
    one = written(tmp_path / "a.nii.gz", LabelTable.freesurfer().select([10]), "x", 10)
    table = LabelScheme.brain().predicted().select([10])
    other = written(tmp_path / "b.nii.gz", table, "x", 10)
    pairs = [Pair("a", one, one, "m"), Pair("b", other, other, "m")]
    with pytest.raises(UserError) as caught:
        labels_found(pairs, {}, {})
    assert "calls the label 10 Thalamus, and a.nii.gz Left-Thalamus; say with --labels" in str(caught.value)


def test_the_description_of_a_data_set(tmp_path: Path) -> None:
    prediction, reference = save(tmp_path / "p.nii.gz", 1, 2), save(tmp_path / "r.nii.gz", 1, 2)
    found = find(prediction, reference, names={1: "left_ear", 2: "right_ear"})
    assert [(label.side, label.partner) for label in found.scheme.predicted()] == [("left", 2), ("right", 1)]
    regions = {"inner": (2,), "whole": (1, 2)}
    found = find(prediction, reference, names={2: "inner"}, regions=regions)
    assert [(r.name, r.label) for r in found.scheme.regions] == [("whole", 1), ("inner", 2)]
    assert found.scheme.predicted().names == ["label 1", "inner"]


def test_freesurfers_table_is_the_last_resort(tmp_path: Path) -> None:
    both = save(tmp_path / "p.nii.gz", 10, 49, 16)
    found = find(both, both)
    assert (found.source, found.whole_table) == ("FreeSurfer's table", True)
    assert found.scheme.predicted().has_sides
    odd = save(tmp_path / "r.nii.gz", 1, 2, 3)
    with pytest.raises(UserError) as caught:
        find(odd, odd)
    assert "holds the label 1, which FreeSurfer's table lacks; give --labels brats2023, which knows" in str(
        caught.value
    )


def test_merged_sides_without_a_name_are_recognised(tmp_path: Path) -> None:
    merged, sided = save(tmp_path / "p.nii.gz", 10, 17, 16), save(tmp_path / "r.nii.gz", 10, 49, 17, 53, 16)
    with pytest.raises(UserError) as caught:
        find(merged, sided)
    message = "p.nii.gz: has the ids of the left side alone, and the reference those of both sides; if both sides are "
    assert message + "one structure there, give --labels and a model or config with merge_sides" in str(caught.value)
    with pytest.raises(UserError, match=r"r\.nii\.gz: has the ids of the left side alone, and the prediction"):
        find(save(tmp_path / "p2.nii.gz", 10, 49, 17, 53), save(tmp_path / "r.nii.gz", 10, 17))
