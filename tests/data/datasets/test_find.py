"""Every layout is found by looking at it."""

import re
import subprocess
import sys

import pytest

from tiny_datasets import NEW, OLD, brats, brats_case, decathlon, nnunet, save, scan, tumour, write_json
from voxseg.data.datasets.case import ImageFile
from voxseg.data.datasets.find import LAYOUTS, find_dataset
from voxseg.errors import UserError


def ids(dataset):
    return [case.id for case in dataset.cases]


def refused(folder, *arguments, **options):
    with pytest.raises(UserError) as caught:
        find_dataset(folder, *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{folder}", "FOLDER")


def test_brats_2020(tmp_path):
    dataset = find_dataset(brats(tmp_path))
    assert dataset.layout == "brats"
    assert dataset.title == "BraTS 2018 to 2021"
    assert ids(dataset) == [f"BraTS20_Training_{k:03d}" for k in (1, 2, 3)]
    assert dataset.modalities == list(OLD)
    assert dataset.label_names == {1: "necrotic and non-enhancing core", 2: "oedema", 4: "enhancing tumour"}
    case = dataset.cases[1]
    folder = tmp_path / "BraTS20_Training_002"
    assert case.images["t1ce"] == ImageFile(folder / "BraTS20_Training_002_t1ce.nii.gz")
    assert case.label == folder / "BraTS20_Training_002_seg.nii.gz"
    assert case.subject == case.id
    assert dataset.findings == ()


def test_brats_below_grades_beside_other_files(tmp_path):
    brats_case(tmp_path / "HGG" / "Brats18_2013_10_1")
    brats_case(tmp_path / "LGG" / "Brats18_2013_0_1")
    (tmp_path / "survival_data.csv").write_text("BraTS18ID,Age,Survival\nBrats18_2013_10_1,60.0,289\n")
    (tmp_path / "HGG" / "Brats18_2013_10_1" / "._Brats18_2013_10_1_t1.nii.gz").write_bytes(b"\0")
    (tmp_path / "__MACOSX").mkdir()
    assert ids(find_dataset(tmp_path)) == ["Brats18_2013_0_1", "Brats18_2013_10_1"]


def test_brats_single_case_and_flat_folder(tmp_path):
    case = brats_case(tmp_path / "BraTS2021_00000")
    assert ids(find_dataset(case)) == ["BraTS2021_00000"]
    flat = tmp_path / "flat"
    for k in (1, 2):
        for file in brats_case(tmp_path / f"P{k}").iterdir():
            save(flat / file.name, scan(k))
    assert ids(find_dataset(flat)) == ["P1", "P2"]
    assert find_dataset(flat).modalities == list(OLD)


def test_brats_odd_name_of_a_segmentation(tmp_path):
    folder = brats_case(tmp_path / "BraTS20_Training_355")
    odd = folder / "W39_1998.09.19_Segm.nii"
    save(odd, tumour())
    (folder / "BraTS20_Training_355_seg.nii.gz").unlink()
    assert find_dataset(tmp_path).cases[0].label == odd
    save(folder / "other_segmentation.nii", tumour())  # which of the two is not known
    brats_case(tmp_path / "BraTS20_Training_001")
    assert find_dataset(tmp_path).cases[1].label is None


def test_brats_results_of_predict_are_no_cases(tmp_path):
    folder = brats_case(tmp_path / "BraTS20_Training_001")
    save(folder / "BraTS20_Training_001_flair_seg.nii.gz", tumour())
    dataset = find_dataset(tmp_path)
    assert ids(dataset) == ["BraTS20_Training_001"]
    assert dataset.cases[0].label == folder / "BraTS20_Training_001_seg.nii.gz"
    assert dataset.findings == ()


def test_brats_files_of_another_case_and_doubled_files(tmp_path):
    folder = brats_case(tmp_path / "BraTS20_Training_001")
    save(folder / "BraTS20_Training_002_flair.nii.gz", scan(5))
    save(folder / "BraTS20_Training_001_t1.nii", scan(1))
    dataset = find_dataset(tmp_path)
    assert ids(dataset) == ["BraTS20_Training_001"]
    assert dataset.cases[0].images["t1"].path.name == "BraTS20_Training_001_t1.nii.gz"
    assert [(f.level, f.text) for f in dataset.findings] == [
        (
            "error",
            "its folder holds BraTS20_Training_002_flair.nii.gz, which is named after another case; move it, or name "
            "it after this one",
        ),
        (
            "warning",
            "has both BraTS20_Training_001_t1.nii and BraTS20_Training_001_t1.nii.gz, and "
            "BraTS20_Training_001_t1.nii.gz is taken; delete one of them",
        ),
    ]


def test_brats_2023_keeps_time_points_of_a_person_together(tmp_path):
    for case in ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000"):
        brats_case(tmp_path / case, NEW, (2, 1, 3))
    dataset = find_dataset(tmp_path)
    assert dataset.modalities == list(NEW)
    assert dataset.title == "BraTS 2023 to 2025"
    assert sorted(dataset.label_names) == [1, 2, 3, 4]
    assert [case.subject for case in dataset.cases] == ["BraTS-GLI-00000", "BraTS-GLI-00000", "BraTS-GLI-00002"]


def test_decathlon_with_volumes_of_one_file(tmp_path):
    dataset = find_dataset(decathlon(tmp_path))
    assert dataset.layout == "decathlon"
    assert ids(dataset) == ["BRATS_001", "BRATS_002"]
    assert dataset.modalities == ["FLAIR", "T1w", "t1gd", "T2w"]
    assert dataset.cases[0].images["t1gd"] == ImageFile(tmp_path / "imagesTr" / "BRATS_001.nii.gz", 2)
    assert dataset.label_names == {1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
    assert dataset.findings == ()
    everything = find_dataset(tmp_path, labels=False)
    assert [(case.id, case.label is None) for case in everything.cases] == [
        ("BRATS_001", False),
        ("BRATS_002", False),
        ("BRATS_003", True),
    ]


def test_decathlon_with_one_modality_and_an_unlisted_file(tmp_path):
    save(tmp_path / "imagesTr" / "hippocampus_001.nii.gz", scan(0))
    save(tmp_path / "imagesTr" / "hippocampus_002.nii.gz", scan(0))
    description = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": "./imagesTr/hippocampus_001.nii.gz", "label": "./labelsTr/hippocampus_001.nii.gz"}],
    }
    write_json(tmp_path / "dataset.json", description)
    dataset = find_dataset(tmp_path)
    assert dataset.cases[0].images == {"MRI": ImageFile(tmp_path / "imagesTr" / "hippocampus_001.nii.gz")}
    assert [f.text for f in dataset.findings] == [
        "in imagesTr hippocampus_002.nii.gz is not listed in dataset.json, and left out"
    ]


def test_nnunet(tmp_path):
    dataset = find_dataset(nnunet(tmp_path))
    assert dataset.layout == "nnunet"
    assert ids(dataset) == ["case_001", "case_002"]
    assert dataset.cases[0].images == {
        "CT": ImageFile(tmp_path / "imagesTr" / "case_001_0000.nii.gz"),
        "PET": ImageFile(tmp_path / "imagesTr" / "case_001_0001.nii.gz"),
    }
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "case_001.nii.gz"
    assert dataset.label_names == {1: "organ", 2: "lesion"}
    assert dataset.findings == ()
    assert ids(find_dataset(tmp_path, labels=False)) == ["case_001", "case_002", "case_003"]
    assert ids(find_dataset(tmp_path / "imagesTs", labels=False)) == ["case_003"]


def test_nnunet_regions_and_odd_files(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    nnunet(tmp_path, labels=labels, numTraining=5, channel_names={"0": "zscore", "1": "zscore"})
    save(tmp_path / "imagesTr" / "case_001_0002.nii.gz", scan(0))
    dataset = find_dataset(tmp_path)
    assert dataset.modalities == ["zscore_0", "zscore_1"]
    assert dataset.regions == {"whole": (1, 2), "core": (2,)}
    assert dataset.label_ids == {1, 2}
    assert [f.text for f in dataset.findings] == [
        "imagesTr/case_001_0002.nii.gz is left out: dataset.json makes the names CASE_0000.nii.gz to CASE_0001.nii.gz",
        "dataset.json speaks of 5 training cases, and 2 are there",
    ]


def test_description_without_cases(tmp_path):
    nnunet(tmp_path, file_ending=".nrrd")
    assert refused(tmp_path) == (
        "FOLDER/dataset.json: describes a data set, but there are no cases in imagesTr (CASE_0000.nrrd to "
        "CASE_0001.nrrd); add them, or correct the names"
    )


def test_nnunet_version_1(tmp_path):
    training = [{"image": f"./imagesTr/case_00{k}.nii.gz", "label": f"./labelsTr/case_00{k}.nii.gz"} for k in (1, 2)]
    nnunet(tmp_path)
    description = {"modality": {"0": "CT", "1": "PET"}, "labels": {"0": "background", "1": "organ"}}
    write_json(tmp_path / "dataset.json", description | {"numTraining": 2, "training": training})
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "nnunet"
    assert dataset.modalities == ["CT", "PET"]
    assert dataset.label_names == {1: "organ"}


def test_nnunet_with_paths_given(tmp_path):
    listed = {"a": {"images": ["x/ct.nii.gz", "x/pet.nii.gz"], "label": "x/labels.nii.gz"}}
    dataset = find_dataset(nnunet(tmp_path, dataset=listed))
    assert ids(dataset) == ["a"]
    assert dataset.cases[0].images["PET"] == ImageFile(tmp_path / "x" / "pet.nii.gz")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "FOLDER/dataset.json: is no valid JSON (line 1, column 2: Expecting property name enclosed in double "
         "quotes); mend that line"),
        ("[]", "FOLDER/dataset.json: is not a JSON object; see the layout of the Decathlon or of nnU-Net"),
        ("{}", "FOLDER/dataset.json: does not name its modalities (channel_names or modality); add for example "
         '"channel_names": {"0": "FLAIR", "1": "T1w"}'),
        ('{"channel_names": {"0": "CT"}, "labels": {"tumour": "x"}}', "FOLDER/dataset.json: has labels that make no "
         'sense; write for example "labels": {"background": 0, "tumour": 1}'),
        ('{"modality": {"0": "CT"}, "training": [{"image": 3}]}', "FOLDER/dataset.json: has an entry in training or "
         "test that makes no sense ({'image': 3}); write "
         '{"image": "./imagesTr/CASE.nii.gz", "label": "./labelsTr/CASE.nii.gz"}'),
    ],
)  # fmt: skip
def test_wrong_dataset_json(tmp_path, description, message):
    (tmp_path / "dataset.json").write_text(description)
    assert refused(tmp_path) == message


def bids(folder):
    for subject, session in (("01", "pre"), ("01", "post"), ("02", "pre"), ("03", "pre")):
        name = f"sub-{subject}_ses-{session}"
        anat = folder / f"sub-{subject}" / f"ses-{session}" / "anat"
        save(anat / f"{name}_T1w.nii.gz", scan(0))
        save(anat / f"{name}_ce-gadolinium_T1w.nii.gz", scan(1))
        save(anat / f"{name}_FLAIR.nii.gz", scan(2))
        save(folder / f"sub-{subject}" / f"ses-{session}" / "func" / f"{name}_task-rest_bold.nii.gz", scan(3))
        if subject != "03":
            derived = folder / "derivatives" / "manual" / f"sub-{subject}" / f"ses-{session}" / "anat"
            save(derived / f"{name}_space-orig_dseg.nii.gz", tumour())
    (folder / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tcore\n2\toedema\n")
    write_json(folder / "dataset_description.json", {"Name": "test", "BIDSVersion": "1.8.0"})
    return folder


def test_bids(tmp_path):
    dataset = find_dataset(bids(tmp_path))
    assert dataset.layout == "bids"
    assert ids(dataset) == ["sub-01_ses-post", "sub-01_ses-pre", "sub-02_ses-pre"]
    assert [case.subject for case in dataset.cases] == ["sub-01", "sub-01", "sub-02"]
    assert dataset.modalities == ["FLAIR", "T1w", "T1w_ce"]
    assert dataset.cases[2].images["T1w_ce"].path.name == "sub-02_ses-pre_ce-gadolinium_T1w.nii.gz"
    assert dataset.cases[2].label.name == "sub-02_ses-pre_space-orig_dseg.nii.gz"
    assert dataset.label_names == {1: "core", 2: "oedema"}
    assert [f.text for f in dataset.findings] == ["sub-03_ses-pre has no *_dseg.nii.gz and is left out"]
    assert ids(find_dataset(tmp_path, labels=False))[-1] == "sub-03_ses-pre"


def test_bids_labels_beside_the_images_tell_the_run(tmp_path):
    anat = tmp_path / "sub-1" / "anat"
    for run in (1, 2):
        save(anat / f"sub-1_run-{run}_T1w.nii.gz", scan(run))
    save(anat / "sub-1_run-2_dseg.nii.gz", tumour())
    dataset = find_dataset(tmp_path)
    assert ids(dataset) == ["sub-1"]
    assert dataset.cases[0].images["T1w"].path.name == "sub-1_run-2_T1w.nii.gz"


def test_bids_several_candidates(tmp_path):
    anat = tmp_path / "sub-1" / "anat"
    for run in (1, 2):
        save(anat / f"sub-1_run-{run}_T1w.nii.gz", scan(run))
    for rater in ("a", "b"):
        save(tmp_path / "derivatives" / rater / "sub-1" / "anat" / f"sub-1_desc-{rater}_dseg.nii.gz", tumour())
    save(tmp_path / "derivatives" / "a" / "sub-1" / "anat" / "sub-1_space-MNI152_dseg.nii.gz", tumour())
    save(tmp_path / "sub-2" / "anat" / "sub-2_T1w.nii.gz", scan(3))
    save(tmp_path / "sub-2" / "anat" / "sub-2_dseg.nii.gz", tumour())
    dataset = find_dataset(tmp_path)
    assert [f.text for f in dataset.findings] == [
        "has 2 label files (a/sub-1/anat/sub-1_desc-a_dseg.nii.gz, b/sub-1/anat/sub-1_desc-b_dseg.nii.gz); keep one, "
        "or name it with layout: patterns",
        "has 2 T1w images (sub-1_run-1_T1w.nii.gz, sub-1_run-2_T1w.nii.gz); keep one, or name it with layout: patterns",
    ]
    assert all(f.level == "error" and f.case == "sub-1" for f in dataset.findings)


def test_table(tmp_path):
    lines = [
        "\ufeffCase;subject;flair;t1ce;age;Label",
        "a;anna;scans/a_f.nii.gz;scans/a_c.nii.gz;50;scans/a_l.nii.gz",
        "b;anna;scans/b_f.nii.gz;;51;scans/b_l.nii.gz",
        "c;carl;scans/c_f.nii.gz;scans/c_c.nii.gz;52;",
        "",
    ]
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "ages.csv").write_text("case,age\na,50\n")
    for argument in (path, tmp_path):
        dataset = find_dataset(argument)
        assert dataset.layout == "table"
        assert ids(dataset) == ["a", "b"]
        assert dataset.modalities == ["flair", "t1ce"]
        assert dict(dataset.cases[1].images) == {"flair": ImageFile(tmp_path / "scans" / "b_f.nii.gz")}
        assert [case.subject for case in dataset.cases] == ["anna", "anna"]
        assert dataset.cases[0].label == tmp_path / "scans" / "a_l.nii.gz"
        assert [f.text for f in dataset.findings] == ["c has no label and is left out"]
    assert ids(find_dataset(path, labels=False)) == ["a", "b", "c"]


def test_table_without_the_column_case(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("t1,label\np1/t1.nii.gz,p1/seg.nii.gz\np2/t1.nii.gz,p2/seg.nii.gz\n")
    assert ids(find_dataset(path)) == ["p1", "p2"]
    path.write_text("t1,label\nx/p1.nii.gz,y/p1.nii.gz\nx/p2.nii.gz,y/p2.nii.gz\n")
    assert ids(find_dataset(path)) == ["p1", "p2"]
    path.write_text("t1,label\na/x/t1.nii.gz,a.nii.gz\nb/x/t1.nii.gz,b.nii.gz\n")
    assert ids(find_dataset(path)) == ["row_1", "row_2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t1,seg\na.nii.gz,b.nii.gz\n", "FOLDER: has no column 'label'; write for example case,flair,t1ce,label in the "
         "first line"),
        ("label\nb.nii.gz\n", "FOLDER: has no column of images (.nii.gz, .nii, .mgz, .mgh, .nrrd, .mha); write for "
         "example case,flair,t1ce,label in the first line"),
        ("t1,label\na.nii.gz\n", "FOLDER, line 2: has 1 cells, and the first line 2; give each column a cell, empty if "
         "need be"),
        ("t1,t1,label\na.nii.gz,a.nii.gz,b.nii.gz\n", "FOLDER: has two columns 't1'; name each column once"),
        ("case,t1,label\n,a.nii.gz,b.nii.gz\n", "FOLDER, row 1: has no case; name it, or leave out the column"),
        ("case,t1,label\na/b,a.nii.gz,b.nii.gz\n", "FOLDER: has a case 'a/b'; name it so that a file can be named "
         "after it"),
        ("t1,label\na.nii.gz,\n", "FOLDER: holds 1 case in the layout table, but no labels; labels are looked for as "
         "in a CSV table (one column of paths a modality, and a column 'label')"),
    ],
)  # fmt: skip
def test_wrong_table(tmp_path, text, message):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    assert refused(path) == message


def test_wrong_table_in_a_folder_is_told(tmp_path):
    (tmp_path / "cases.csv").write_text("t1,label\na.nii.gz\n")
    assert refused(tmp_path).startswith("FOLDER/cases.csv, line 2: has 1 cells")


def test_files_named_as_in_bids_but_not_in_its_folders(tmp_path):
    for subject in ("01", "02"):
        save(tmp_path / f"sub-{subject}_flair.nii.gz", scan(0))
        save(tmp_path / f"sub-{subject}_seg.nii.gz", tumour())
    assert ids(find_dataset(tmp_path)) == ["sub-01", "sub-02"]


def test_two_tables(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("t1,label\na.nii.gz,b.nii.gz\n")
    assert refused(tmp_path) == "FOLDER: holds 2 tables of cases (a.csv, b.csv); give the path of one of them"


def test_patterns(tmp_path):
    for name in ("1000", "1001"):
        save(tmp_path / name / "t1.nii.gz", scan(0))
        save(tmp_path / name / "labels.nii.gz", tumour())
    dataset = find_dataset(tmp_path, "patterns", {"t1": "*/t1.nii.gz", "label": "*/labels.nii.gz"})
    assert ids(dataset) == ["1000", "1001"]
    assert dataset.cases[0].images == {"t1": ImageFile(tmp_path / "1000" / "t1.nii.gz")}
    assert dataset.cases[0].label == tmp_path / "1000" / "labels.nii.gz"


def test_patterns_with_several_wildcards(tmp_path):
    for subject, session in (("1", "a"), ("1", "b")):
        save(tmp_path / f"sub-{subject}" / f"ses-{session}" / f"sub-{subject}_t1.nii.gz", scan(0))
        save(tmp_path / "labels" / f"{subject}_{session}.nii.gz", tumour())
    (tmp_path / "labels" / "._1_a.nii.gz").write_bytes(b"\0")
    patterns = {"t1": "sub-*/ses-*/sub-*_t1.nii.gz", "label": "labels/*.nii.gz"}
    assert ids(find_dataset(tmp_path, "patterns", patterns)) == ["1_a", "1_b"]


def test_pattern_with_two_files_for_a_case(tmp_path):
    for name in ("a/b", "a_b/a_b"):
        save(tmp_path / "images" / f"{name}.nii.gz", scan(0))
    save(tmp_path / "labels" / "a_b.nii.gz", tumour())
    dataset = find_dataset(tmp_path, "patterns", {"t1": "images/*/*.nii.gz", "label": "labels/*.nii.gz"})
    assert [(f.level, f.case, f.text) for f in dataset.findings] == [
        (
            "error",
            "a_b",
            "has 2 files for t1 (images/*/*.nii.gz): images/a/b.nii.gz, images/a_b/a_b.nii.gz; make the pattern tell "
            "them apart",
        )
    ]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"t1": "t1.nii.gz", "label": "*/l.nii.gz"}, "dataset.patterns: t1: t1.nii.gz: has no * or a double one; put "
         "one * in place of each part that tells the cases apart, such as */t1.nii.gz"),
        ({"t1": "../*.nii.gz", "label": "*/l.nii.gz"}, "dataset.patterns: t1: ../*.nii.gz: leads out of the folder; "
         "start within the folder"),
        ({"t1": "*/t1.nii.gz"}, "dataset.patterns: has no pattern for a label; give one for each image by name and one "
         "for label"),
        ({"label": "*/l.nii.gz"}, "dataset.patterns: has no pattern for an image; give one for each image by name and "
         "one for label"),
        ({"t1": "*/t1.nii.gz", "label": "*/l.nii.gz"}, "FOLDER: is not in the layout patterns; looked for: files that "
         "match the patterns given"),
    ],
)  # fmt: skip
def test_wrong_patterns(tmp_path, patterns, message):
    assert refused(tmp_path, "patterns", patterns) == message


def test_nothing_found(tmp_path):
    save(tmp_path / "scans" / "head.nii.gz", scan(0))
    message = refused(tmp_path, labels=False)
    for name, what in LAYOUTS.items():
        assert (what in message) == (name != "patterns")
    assert message.startswith("FOLDER: is not a data set in a known layout (looked for: BraTS (CASE_flair, ")
    assert message.endswith("; arrange it so, or give patterns of paths in a config (dataset.patterns)")
    expected = (
        "FOLDER: is not in the layout bids; looked for: BIDS (sub-*/[ses-*/]anat/*_T1w.nii.gz, labels *_dseg.nii.gz)"
    )
    assert refused(tmp_path, "bids") == expected


def test_folder_above_a_data_set_is_told(tmp_path):
    nnunet(tmp_path / "Dataset001_Liver")
    expected = "FOLDER: is not a data set, but Dataset001_Liver in it is; give FOLDER/Dataset001_Liver"
    assert refused(tmp_path) == expected


def test_wrong_arguments(tmp_path):
    file = save(tmp_path / "a.nii.gz", scan(0))
    assert refused(file) == "FOLDER: is a file; give the folder of a data set, or a CSV table of paths"
    assert refused(tmp_path / "none") == "FOLDER: does not exist; check the path"
    assert refused(tmp_path, "dicom").startswith("layout dicom: is not known; use one of auto, brats, decathlon,")


def test_images_without_any_label(tmp_path):
    folder = brats_case(tmp_path / "BraTS20_Validation_001")
    (folder / "BraTS20_Validation_001_seg.nii.gz").unlink()
    assert re.match(
        r"FOLDER: holds 1 case in the layout brats, but no labels; labels are looked for as in BraTS \(",
        refused(tmp_path),
    )
    dataset = find_dataset(tmp_path, labels=False)
    assert dataset.cases[0].label is None
    assert dataset.modalities == list(OLD)


def test_layout_named_in_a_config_is_the_one_looked_for(tmp_path):
    nnunet(tmp_path)
    assert find_dataset(tmp_path, "nnunet").layout == "nnunet"
    assert refused(tmp_path, "decathlon").startswith("FOLDER: is not in the layout decathlon; looked for: Medical")


def test_imports_nothing_heavy():
    heavy = "('numpy', 'nibabel', 'torch', 'pydantic')"
    code = f"import sys, voxseg.data.datasets.find; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_brats(shared_data):
    dataset = find_dataset(shared_data / "brats")
    assert dataset.layout == "brats"
    assert ids(dataset) == [f"BraTS20_Training_{k:03d}" for k in (1, 2, 3, 4)]
    assert dataset.modalities == ["flair", "t1ce"]
