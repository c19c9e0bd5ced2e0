"""`voxseg plan` on small data sets of several layouts, and on real scans."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from voxseg.cli import main
from voxseg.networks import build_network
from voxseg.planning.step_rate import StepTime
from voxseg.training.config import load_config

SHAPE = (40, 36, 32)


def write(path, data, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1.0])), path)


def ball(radius, centre=(20, 18, 16)):
    """True within so many voxels of the centre."""
    grid = np.indices(SHAPE)
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) < radius**2


def stripped(seed):
    """A bright textured ball on zeros."""
    noise = np.random.default_rng(seed).normal(500, 50, SHAPE)
    return np.where(ball(14), noise, 0).astype(np.float32)


def ct(seed):
    """A body at 40 HU with a hot organ of 150 HU, in air."""
    generator = np.random.default_rng(seed)
    body = np.where(ball(14), generator.normal(40, 10, SHAPE), -1000)
    return np.where(ball(5), generator.normal(150, 10, SHAPE), body).astype(np.int16)


def labels(*radii):
    """Nested balls, label 1 the outermost."""
    result = np.zeros(SHAPE, np.uint8)
    for label, radius in enumerate(radii, start=1):
        result[ball(radius)] = label
    return result


def voxseg_plan(*arguments, capsys, code=0):
    """Run the command in this process; what it printed."""
    with pytest.raises(SystemExit) as caught:
        main.run(["plan", *map(str, arguments)])
    streams = capsys.readouterr()
    assert caught.value.code == code, streams.err
    return streams.out if code == 0 else streams.err


@pytest.fixture
def brats(tmp_path):
    """Three cases as in BraTS 2023."""
    for k in range(3):
        name = f"BraTS-GLI-0000{k}-000"
        for modality in ("t1n", "t1c", "t2w", "t2f"):
            write(tmp_path / "brats" / name / f"{name}-{modality}.nii.gz", stripped(k))
        write(tmp_path / "brats" / name / f"{name}-seg.nii.gz", labels(9, 7, 4))
    return tmp_path / "brats"


@pytest.fixture
def decathlon(tmp_path):
    """Four CTs of thick slices with a named organ."""
    folder = tmp_path / "Task99 Organ"
    entries = []
    for k in range(4):
        write(folder / f"imagesTr/case_{k}.nii.gz", ct(k), (0.8, 0.8, 2.0))
        write(folder / f"labelsTr/case_{k}.nii.gz", labels(5), (0.8, 0.8, 2.0))
        entries.append({"image": f"./imagesTr/case_{k}.nii.gz", "label": f"./labelsTr/case_{k}.nii.gz"})
    description = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_brats(brats, tmp_path, capsys):
    output = tmp_path / "mine.yaml"
    text = voxseg_plan(brats, "-o", output, "--device", "cpu", "--no-timing", capsys=capsys)
    config = load_config(output)
    assert config.name == "mine"
    assert list(config.preparation.images) == ["t1n", "t1c", "t2w", "t2f"]
    assert {image.scale for image in config.preparation.images.values()} == {"zscore"}
    assert config.labels.outputs == ["whole tumour", "tumour core", "enhancing tumour"]
    assert config.preparation.spacing == 1.0
    assert not config.postprocessing.largest_component
    assert config.dataset.folds == 3
    assert "3 cases" in text
    assert text.endswith(f"voxseg train {output} --data {brats}\n")


def test_ct_of_the_decathlon(decathlon, tmp_path, capsys):
    output = tmp_path / "organ.yaml"
    text = voxseg_plan(decathlon, "-o", output, "--device", "cpu", "--no-timing", capsys=capsys)
    config = load_config(output)
    image = config.preparation.images["CT"]
    assert image.scale == "window"
    values = np.concatenate([ct(k)[ball(5)] for k in range(4)])
    low, high = np.percentile(values, (0.5, 99.5))
    assert (image.low, image.high) == (pytest.approx(low, abs=0.5), pytest.approx(high, abs=0.5))
    assert not config.preparation.crop, "the box around a head means nothing in CT"
    assert 0.8 < config.preparation.spacing <= (0.8 * 0.8 * 2.0) ** (1 / 3) + 0.05
    assert config.labels.outputs == ["organ"]
    text = voxseg_plan(
        decathlon, "-o", output, "--force", "--device", "cpu", "--no-timing", "--group", "O3", capsys=capsys
    )
    assert "warning" not in text, "without sides, reflections break nothing"
    config = load_config(output)
    assert config.network.group == "O3"
    assert all("1o" in level for level in config.network.levels)
    assert len(list(build_network(config.network).parameters())) > 20, "every field can be made"
    assert f"'{decathlon}'" in text, "a path with a space is quoted"


def test_regions_and_sides_of_nnunet(tmp_path, capsys):
    folder = tmp_path / "Dataset100"
    for k in range(2):
        for channel in range(2):
            write(folder / f"imagesTr/c{k}_{channel:04d}.nii.gz", stripped(k))
        write(folder / f"labelsTr/c{k}.nii.gz", labels(9, 5))
    description = {
        "channel_names": {"0": "T1w", "1": "T2w"},
        "labels": {"background": 0, "kidney_left": 1, "kidney_right": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    arguments = [folder, "-o", tmp_path / "a.yaml", "--device", "cpu", "--no-timing", "--images", "T2w"]
    voxseg_plan(*arguments, capsys=capsys)
    config = load_config(tmp_path / "a.yaml")
    assert list(config.preparation.images) == ["T2w"]
    assert config.labels.predicted().mirrored().tolist() == [0, 2, 1]
    assert config.network.group == "SO3"
    text = voxseg_plan(*arguments, "--force", "--group", "O3", capsys=capsys)
    assert "warning   labels have sides (kidney_left and 1 more), and a network of group O3 cannot tell" in text
    assert "use group SO3, merge the sides" in text
    assert load_config(tmp_path / "a.yaml").network.group == "O3"
    description["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
    (folder / "dataset.json").write_text(json.dumps(description))
    voxseg_plan(folder, "-o", tmp_path / "b.yaml", "--device", "cpu", "--no-timing", capsys=capsys)
    assert load_config(tmp_path / "b.yaml").labels.outputs == ["whole", "core"]


def test_patterns_and_a_gpu_elsewhere(tmp_path, capsys):
    for k in range(2):
        write(tmp_path / f"d/s{k}/t1.nii.gz", stripped(k))
        write(tmp_path / f"d/s{k}/aseg.nii.gz", np.choose(labels(9, 7, 5), [0, 10, 11, 50]).astype(np.int16))
    given = ["--pattern", "t1=*/t1.nii.gz", "--pattern", "label=*/aseg.nii.gz"]
    machine = ["--device", "cuda", "--memory", "24", "--no-timing"]
    voxseg_plan(tmp_path / "d", "-o", tmp_path / "p.yaml", *given, *machine, capsys=capsys)
    config = load_config(tmp_path / "p.yaml")
    assert config.dataset.layout == "patterns"
    assert config.dataset.patterns == {"t1": "*/t1.nii.gz", "label": "*/aseg.nii.gz"}
    assert config.labels.outputs == ["Left-Thalamus", "Left-Caudate", "Right-Caudate"]
    assert config.precision == "bfloat16"


def test_the_measured_speed_decides_on_the_steps(brats, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("voxseg.planning.make_plan.faster_precision", lambda *_: "bfloat16")
    monkeypatch.setattr("voxseg.planning.make_plan.time_step", lambda *_: StepTime(2.0, scaled=True))
    text = voxseg_plan(brats, "-o", tmp_path / "t.yaml", "--device", "cpu", "--spacing", "2", capsys=capsys)
    assert "1,800 steps an hour (estimated from a smaller window)" in text
    assert "9,000, about 5.0 hours" in text
    config = load_config(tmp_path / "t.yaml")
    assert (config.steps, config.precision, config.preparation.spacing) == (9000, "bfloat16", 2.0)


def test_an_existing_file_is_kept_without_force(brats, tmp_path, capsys):
    output = tmp_path / "mine.yaml"
    output.write_text("precious")
    arguments = [brats, "-o", output, "--device", "cpu", "--no-timing"]
    line = voxseg_plan(*arguments, capsys=capsys, code=2)
    assert "exists" in line
    assert output.read_text() == "precious"
    voxseg_plan(*arguments, "--force", capsys=capsys)
    assert load_config(output).name == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "t1n,pd"], "--images pd: is in no case; the data set has t1n, t1c, t2w, t2f"),
        (["--device", "abacus"], "--device abacus"),
        (["--group", "SO2"], "--group SO2: is not known"),
        (["--layout", "shelf"], "layout shelf: is not known"),
        (["--pattern", "t1"], "--pattern t1: is not NAME=PATH"),
        (["--memory", "0.6", "--device", "cpu"], "0.6 GB of memory: is too little"),
        (["-o", "plan.txt"], "is not the name of a YAML file"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(brats, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    line = voxseg_plan(brats, *arguments, "--no-timing", capsys=capsys, code=2)
    assert said in line
    assert line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brats"]


def test_a_data_set_without_a_labelled_voxel(tmp_path, capsys):
    write(tmp_path / "BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz", stripped(0))
    write(tmp_path / "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz", np.zeros(SHAPE, np.uint8))
    line = voxseg_plan(tmp_path, "-o", tmp_path / "x.yaml", "--device", "cpu", "--no-timing", capsys=capsys, code=2)
    assert "no voxel is labelled" in line


def test_real_tumours(shared_data, tmp_path, capsys):
    output = tmp_path / "real.yaml"
    voxseg_plan(shared_data / "brats", "-o", output, "--device", "cuda", "--memory", "24", "--no-timing", capsys=capsys)
    config = load_config(output)
    assert list(config.preparation.images) == ["flair", "t1ce"]
    assert config.labels.classes == [1, 2, 4]
    assert config.labels.outputs == ["whole tumour", "tumour core", "enhancing tumour"]
    assert config.preparation.spacing == 1.0
    assert config.preparation.crop, "a head in a larger empty volume"
    assert config.windows.size == (128, 128, 128)
    assert config.dataset.folds == 4
