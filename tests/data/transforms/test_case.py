import numpy as np
import torch
from monai.transforms import Compose, Lambdad

from small_cases import IDS, PREPARATION, SCHEME, balls, write_case
from voxseg.data.prepared_case import prepare_case
from voxseg.data.transforms import PrepareCased, ReadCased, case_transforms


def test_the_pipeline_gives_what_the_cache_stores(tmp_path):
    case = write_case(tmp_path)
    result = case_transforms(PREPARATION, SCHEME)({"case": case})
    image, label, grid = prepare_case(case, PREPARATION, SCHEME)
    assert torch.equal(result["image"].as_tensor(), image)
    assert np.array_equal(result["label"][0].numpy(), label)
    for key in ("image", "label"):
        assert np.array_equal(result[key].affine.numpy(), grid.affine)
    assert set(result) == {"case", "image", "label"}


def test_files_are_given_as_they_are(tmp_path):
    case = write_case(tmp_path)
    result = ReadCased(PREPARATION)({"case": case})
    assert np.array_equal(result["label"][0].numpy(), balls()[0])
    assert np.array_equal(result["t1"].affine.numpy(), np.diag([-1.5, -1.5, 1.5, 1]))
    assert result["t1"].shape == (1, *balls()[0].shape)


def test_a_users_transform_fits_between_reading_and_preparing(tmp_path):
    case = write_case(tmp_path)
    steps = [ReadCased(PREPARATION), Lambdad("flair", lambda x: -x), PrepareCased(PREPARATION, SCHEME)]
    plain = case_transforms(PREPARATION, SCHEME)({"case": case})["image"]
    changed = Compose(steps)({"case": case})["image"]
    assert torch.equal(changed[0], plain[0])
    assert torch.allclose(changed[1], -plain[1], atol=1e-5)
    assert plain[1].abs().max() > 1


def test_without_labels(tmp_path):
    result = case_transforms(PREPARATION, None)({"case": write_case(tmp_path)})
    assert set(result) == {"case", "image"}


def test_labels_are_class_indices(tmp_path):
    label = case_transforms(PREPARATION, SCHEME)({"case": write_case(tmp_path)})["label"]
    ids = balls()[0]
    assert label.dtype == torch.uint8
    assert [int((label == k).sum()) for k in (1, 2, 3)] == [int((ids == i).sum()) for i in IDS]
