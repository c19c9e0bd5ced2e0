import random

import numpy as np
import pytest
import torch

from voxseg.data.config import TransformConfig
from voxseg.data.transforms import UserTransform
from voxseg.errors import UserError

CODE = '''
import random
import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform


class Noise(RandomizableTransform, MapTransform):
    """Uses MONAI's random state."""

    def __init__(self, keys, strength=1.0):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.strength = strength

    def __call__(self, data):
        data = dict(data)
        for key in self.keys:
            data[key] = data[key] + self.strength * torch.as_tensor(self.R.normal(size=data[key].shape)).float()
        return data


class Globals:
    """Uses every global random state."""

    def __call__(self, data):
        return {**data, "image": data["image"] + random.random() + np.random.rand() + torch.rand(())}


class Wrong:
    def __init__(self, what):
        self.what = what

    def __call__(self, data):
        if self.what == "raise":
            raise KeyError("bone")
        if self.what == "tuple":
            return data["image"], data["label"]
        if self.what == "shape":
            return {**data, "image": data["image"][:, 1:]}
        if self.what == "lost":
            return {"image": data["image"]}
        if self.what == "integer":
            return {**data, "image": data["image"].int()}
        if self.what == "nan":
            return {**data, "image": data["image"] / 0}
        return {**data, "label": data["label"] * 0.5}


Number = 5
'''


@pytest.fixture(autouse=True)
def my_module(tmp_path, monkeypatch):
    (tmp_path / "my_transforms.py").write_text(CODE)
    (tmp_path / "my_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


def window():
    return {"image": torch.ones(2, 8, 8, 8), "label": torch.ones(1, 8, 8, 8, dtype=torch.uint8)}


@pytest.mark.parametrize(("name", "arguments"), [("Noise", {"keys": ["image"], "strength": 2.0}), ("Globals", {})])
def test_the_seed_decides_and_global_states_stay(name, arguments):
    transform = UserTransform(TransformConfig(path=f"my_transforms:{name}", arguments=arguments))
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = [float(torch.rand(())), np.random.rand(), random.random()]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    results = []
    for seed in (1, 2, 1):
        transform.set_random_state(seed)
        results.append(transform(window())["image"])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])
    assert [float(torch.rand(())), np.random.rand(), random.random()] == expected


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("no_such_module:Motion", {}, "cannot be imported .*no_such_module.*PYTHONPATH"),
        ("my_transforms:Motion", {}, "my_transforms has no 'Motion'"),
        ("my_broken:Motion", {}, r"fails when imported \(ZeroDivisionError: division by zero\)"),
        ("my_transforms:Noise", {"strnegth": 1}, "cannot be made .*strnegth"),
        ("my_transforms:Number", {}, "cannot be made"),
    ],
)
def test_what_cannot_be_made_is_told(path, arguments, message):
    with pytest.raises(UserError, match=f"^augmentation.transforms: {path}: .*{message}"):
        UserTransform(TransformConfig(path=path, arguments=arguments))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raise", r"fails \(KeyError: 'bone'\)"),
        ("tuple", "gives tuple; return the dictionary"),
        ("shape", r"makes \[2, 7, 8, 8\] of 'image' \[2, 8, 8, 8\]"),
        ("lost", "makes NoneType of 'label'"),
        ("integer", r"makes 'image' of torch\.int32"),
        ("nan", "makes 'image' with values that are not finite"),
        ("label", "makes 'label' with fractions"),
    ],
)
def test_what_it_gives_is_checked(what, message):
    transform = UserTransform(TransformConfig(path="my_transforms:Wrong", arguments={"what": what}))
    with pytest.raises(UserError, match=f"my_transforms:Wrong: {message}") as caught:
        transform(window())
    assert "\n" not in str(caught.value)
