"""What is decided for a data set, from fingerprints made up here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from voxseg.errors import UserError
from voxseg.planning.fingerprint import Fingerprint, ImageFingerprint, is_ct
from voxseg.planning.label_plan import plan_labels, split_side
from voxseg.planning.memory_estimate import training_bytes
from voxseg.planning.plan import Machine, choose_scale, choose_spacing, make_plan, set_rate
from voxseg.planning.plan_file import render, scalar
from voxseg.training.config import TrainingConfig

GPU = Machine("cuda", 24 * 10**9, "bfloat16")
CPU = Machine("cpu", 8 * 10**9)


def fingerprint(**changes):
    """Twenty cases of one isotropic image with two labels."""
    values = {
        "layout": "nnunet",
        "cases": 20,
        "subjects": 20,
        "examined": 20,
        "images": (ImageFingerprint("t1"),),
        "spacings": ((1.0, 1.0, 1.0),) * 20,
        "extents": ((200.0, 220.0, 180.0),) * 20,
        "box": None,
        "voxels": {1: 1000, 2: 500},
        "present": {1: 20, 2: 10},
        "label_names": {1: "liver", 2: "tumour"},
    }
    return Fingerprint(**{**values, **changes})


def brats(names, ids, label_names):
    images = tuple(ImageFingerprint(name, stripped=True) for name in names)
    found = dict.fromkeys(ids, 1000)
    return fingerprint(
        layout="brats", images=images, voxels=found, present=dict.fromkeys(ids, 9), label_names=label_names
    )


# The grid


def test_isotropic_data_keep_their_voxels():
    assert choose_spacing([(0.9375,) * 3] * 5, (200, 200, 200), 24e6) == 0.9375


def test_anisotropic_data_get_a_grid_between_their_finest_axis_and_the_geometric_mean():
    spacing = choose_spacing([(0.8, 0.8, 3.0)] * 5, (200, 200, 200), 24e6)
    assert spacing == pytest.approx((0.8 * 0.8 * 3.0) ** (1 / 3), rel=0.05)
    thick = choose_spacing([(0.5, 0.5, 6.0)] * 5, (200, 200, 100), 24e6)
    assert thick == pytest.approx(1.0, rel=0.05), "no coarser than twice the finest axis"


def test_the_order_of_the_axes_does_not_matter():
    cases = [(0.8, 0.8, 3.0), (3.0, 0.8, 0.8), (0.8, 3.0, 0.8)]
    assert choose_spacing(cases, (200, 200, 200), 24e6) == choose_spacing([cases[0]] * 3, (200, 200, 200), 24e6)


def test_large_cases_get_a_grid_on_which_they_fit():
    spacing = choose_spacing([(0.8, 0.8, 0.8)] * 5, (400, 400, 400), 1e6)
    assert spacing == pytest.approx(4.0)


# Intensities


def test_scales_of_images():
    assert choose_scale(ImageFingerprint("t1")).scale == "tissue"
    assert choose_scale(ImageFingerprint("t1", stripped=True)).scale == "zscore"
    window = choose_scale(ImageFingerprint("ct", ct=True, percentiles=(-99.96, 240.2)))
    assert (window.scale, window.low, window.high) == ("window", -99.96, 240.2)


def test_ct_is_known_by_its_name_or_by_its_air():
    generator = np.random.default_rng(0)
    mr = np.abs(generator.normal(300, 100, 5000))
    ct = np.concatenate([np.full(2500, -1000.0), generator.normal(40, 60, 2500)])
    filled = np.concatenate([np.full(500, -3024.0), ct])
    assert is_ct("CT", mr)
    assert is_ct("image", ct)
    assert is_ct("image", filled), "scanners fill what lies outside their field of view"
    assert not is_ct("image", mr)
    assert not is_ct("direct", mr), "ct has to be a word of its own"
    assert not is_ct("image", mr - 1000), "an offset alone has no tissue above 0"


# Labels


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("Left-Putamen", "left", "putamen"),
        ("Right-Putamen", "right", "putamen"),
        ("kidney_L", "left", "kidney"),
        ("R_kidney", "right", "kidney"),
        ("right_kidney", "right", "kidney"),
        ("lung upper lobe left", "left", "lung upper lobe"),
        ("lung_left_upper", "left", "lung upper"),
        ("vertebra_L_1", "none", "vertebra l 1"),
        ("Liver", "none", "liver"),
        ("left", "none", "left"),
    ],
)
def test_sides_are_read_from_names(name, side, rest):
    assert split_side(name) == (side, rest)


def test_sides_get_partners_and_mirroring_is_left_out_where_one_is_missing():
    pairs = plan_labels(fingerprint(label_names={1: "kidney_left", 2: "kidney_right", 3: "liver"}, voxels={1: 5}))
    assert [(entry.side, entry.partner) for entry in pairs.table] == [("left", 2), ("right", 1), ("none", None)]
    single = fingerprint(label_names={1: "left atrium", 2: "aorta"})
    labels = plan_labels(single)
    assert labels.unpaired == ("left atrium",)
    assert not labels.sides
    config = as_config(single, GPU)
    assert config.augmentation.mirror == 0


@pytest.mark.parametrize(
    ("names", "found", "enhancing", "regions"),
    [
        (("flair", "t1", "t1ce", "t2"), (1, 2, 4), 4, 3),
        (("t1n", "t1c", "t2w", "t2f"), (1, 2, 3), 3, 3),
        (("t1n", "t1c", "t2w", "t2f"), (1, 2, 3, 4), 3, 4),
    ],
)
def test_brats_gets_its_regions(names, found, enhancing, regions):
    meanings = {1: "core", 2: "oedema", 3: "enhancing", 4: "other"}
    labels = plan_labels(brats(names, found, meanings))
    ids = {region.name: set(region.ids) for region in labels.regions}
    assert len(ids) == regions
    assert ids["whole tumour"] == {1, 2, enhancing}
    assert ids["tumour core"] == {1, enhancing}
    assert ids["enhancing tumour"] == {enhancing}
    assert ids.get("resection cavity", {4}) == {4}


def test_declared_regions_are_painted_from_the_largest_to_the_smallest():
    declared = {"enhancing": (3,), "whole": (1, 2, 3), "core": (2, 3)}
    labels = plan_labels(fingerprint(regions=declared, label_names={}, voxels={1: 1, 2: 1, 3: 1}))
    assert [(region.name, region.label) for region in labels.regions] == [("whole", 1), ("core", 2), ("enhancing", 3)]


def test_unnamed_ids_of_freesurfer_get_their_names_and_sides():
    ids = (10, 11, 12, 49, 50, 51)
    plain = fingerprint(label_names={}, voxels=dict.fromkeys(ids, 9), present=dict.fromkeys(ids, 9))
    config = as_config(plain, GPU)
    assert config.labels.outputs[0] == "Left-Thalamus"
    assert config.labels.predicted().has_sides


def test_more_labels_than_a_network_can_tell_apart():
    with pytest.raises(UserError, match="300 different labels"):
        plan_labels(fingerprint(label_names={}, voxels=dict.fromkeys(range(1001, 1301), 1)))


# Sizes


@pytest.mark.parametrize("gigabytes", [3, 4, 6, 12, 24, 80])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_step_fits_the_memory(gigabytes, device):
    machine = Machine(device, gigabytes * 10**9, "bfloat16" if device == "cuda" else "float32")
    plan = make_plan(fingerprint(), machine)
    part = plan.batch // plan.accumulate
    assert training_bytes(plan.network, plan.window, part, plan.precision) < plan.bytes <= machine.memory
    assert plan.batch % plan.accumulate == 0
    assert all(n % 8 == 0 for n in plan.window)


def test_more_memory_is_used():
    plans = [make_plan(fingerprint(), Machine("cuda", n * 10**9, "bfloat16")) for n in (3, 6, 24)]
    windows = [math.prod(plan.window) // plan.accumulate for plan in plans]
    assert windows == sorted(windows)
    assert windows[0] < windows[-1]


def test_too_little_memory_is_said():
    with pytest.raises(UserError, match=r"0\.5 GB of memory"):
        make_plan(fingerprint(), Machine("cpu", 5 * 10**8))


def test_windows_are_no_larger_than_the_cases_and_small_ones_come_in_larger_batches():
    small = make_plan(fingerprint(extents=((36.0, 50.0, 35.0),) * 20), GPU)
    large = make_plan(fingerprint(), GPU)
    assert small.window == (40, 56, 40)
    assert small.batch > large.batch
    assert len(small.network.levels) < len(large.network.levels)


def test_more_outputs_get_a_wider_finest_level():
    many = fingerprint(label_names={i: f"region {i}" for i in range(1, 46)})
    narrow, wide = make_plan(fingerprint(), CPU).network, make_plan(many, CPU).network
    assert training_bytes(narrow, (32,) * 3) < training_bytes(wide, (32,) * 3)


def test_steps_are_what_an_evening_gives():
    plan = make_plan(fingerprint(), GPU)
    assert set_rate(plan, 2.0).steps == 9000
    assert set_rate(plan, 1000.0).steps == 2000
    assert set_rate(plan, 0.01).steps == 20000


# The file


def as_config(data, machine, plan=None):
    """The config that the plan's file holds."""
    text = render(plan or make_plan(data, machine), data, "my-plan", "some folder")
    return TrainingConfig.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("machine", [GPU, CPU])
@pytest.mark.parametrize(
    "data",
    [
        fingerprint(),
        fingerprint(images=(ImageFingerprint("CT", ct=True, percentiles=(-100.0, 240.0)), ImageFingerprint("no"))),
        fingerprint(label_names={1: 'it\'s: a "name" # so', 2: "null\nnew: line"}, subjects=1, cases=1),
        fingerprint(layout="patterns", patterns={"t1": "*/t1.nii.gz", "label": "*/seg.nii"}, box=(150.0, 180.0, 150.0)),
        brats(("flair", "t1ce"), (1, 2, 4), {1: "core", 2: "oedema", 4: "enhancing"}),
    ],
)
def test_the_file_holds_the_plan(data, machine):
    plan = make_plan(data, machine)
    config = as_config(data, machine, plan)
    assert config.network == plan.network
    assert config.preparation.images == plan.images
    assert config.preparation.crop == (data.box is not None)
    assert config.preparation.spacing == plan.spacing
    assert config.windows.size == plan.window
    assert (config.batch, config.accumulate, config.precision) == (plan.batch, plan.accumulate, machine.precision)
    assert config.dataset.patterns == data.patterns
    assert {entry.id: entry.name for entry in config.labels.table} == {e.id: e.name for e in plan.labels.table}
    assert config.dataset.fold == ("all" if data.subjects == 1 else 0)


def test_parts_of_a_batch_are_written_down():
    plan = replace(make_plan(fingerprint(), GPU), batch=4, accumulate=2)
    assert as_config(fingerprint(), GPU, plan).accumulate == 2


@pytest.mark.parametrize("text", ["t1", "no", "True", "null", "1.5", "a: b", "#", "it's", 'say "so"', "two words", "ü"])
def test_names_survive_yaml(text):
    assert yaml.safe_load(f"{scalar(text)}: {scalar(text)}") == {text: text}
