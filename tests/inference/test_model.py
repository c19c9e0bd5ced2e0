import pytest
import torch
import yaml
from safetensors.torch import save_file

from models import IDS, REGIONS, TWO_IMAGES, write_model
from voxseg.data.labels import LabelTable
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model, packaged_models
from voxseg.inference.model import load_model
from voxseg.networks import NetworkConfig, build_network


def test_a_folder_is_loaded(tmp_path):
    model = load_model(write_model(tmp_path / "tiny"))
    assert model.config.name == "tiny"
    assert model.table.ids == IDS
    assert model.config.preparation.margin > 0
    with torch.inference_mode():
        assert model.network(torch.randn(1, 1, 12, 9, 11)).shape == (1, 4, 12, 9, 11)


@pytest.mark.parametrize("name", packaged_models())
def test_packaged_models_load(name):
    model = load_model(name)
    assert model.config.name == name
    assert model.config.network.out_channels == len(model.structures) + 1
    licence, card = model.config.licence, (locate_model(name) / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert licence == model.origin["licence"] == ("Apache-2.0" if name == "brain" else "CC-BY-NC-3.0")
    assert licence.replace("CC-BY-NC-", "CC BY-NC ") in card.split("## Licence")[1]


def missing(folder):
    return folder.with_name("other")


def without(name):
    def damage(folder):
        (folder / name).unlink()
        return folder

    return damage


def no_yaml(folder):
    (folder / "config.yaml").write_text("a: [1")
    return folder


def not_a_mapping(folder):
    (folder / "config.yaml").write_text("hello")
    return folder


def later_format(folder):
    change(folder, format=2)
    return folder


def unknown_preparation(folder):
    change(folder, preparation={"spacing": 2.0, "spaceing": 2.0})
    return folder


def two_images(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(folder, network=config["network"] | {"in_channels": 2})
    return folder


def one_region(folder):
    change(folder, output={"regions": REGIONS[:1]})
    return folder


def region_without_label(folder):
    change(folder, output={"regions": [{"name": "a", "label": 77}]})
    return folder


def no_such_network(folder):
    change(folder, network={"architecture": "plain_unit", "out_channels": 4})
    return folder


def other_network(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(folder, network=config["network"] | {"levels": ["5x0e+2x1e", "6x0e+2x1e"]})
    return folder


def other_labels(folder):
    text = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(text[:-1]) + "\n")
    return folder


def other_weights(folder):
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def change(folder, **changes):
    config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


DAMAGES = {
    missing: "there is no such model",
    without("config.yaml"): "has no config.yaml",
    without("labels.csv"): "has no labels.csv",
    without("model.safetensors"): "has no model.safetensors",
    no_yaml: "not valid YAML",
    not_a_mapping: "config.yaml: ",
    later_format: "format: ",
    unknown_preparation: "preparation.spaceing",
    two_images: "the network takes 2 images, preparation has image",
    one_region: "1 regions for a network of 4 outputs",
    region_without_label: "labels.csv: lacks the label 77 of the region 'a'",
    no_such_network: "network.architecture: value error, there is no network 'plain_unit', did you mean 'plain_unet'",
    other_network: "does not hold the weights",
    other_labels: "2 labels for a network of 4 classes",
    other_weights: "does not hold the weights",
    cut_weights: "no safetensors file",
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGES.items())
def test_what_is_wrong_with_a_folder_is_told(tmp_path, damage, problem):
    folder = damage(write_model(tmp_path / "tiny"))
    with pytest.raises(UserError, match=problem) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_names_and_folders(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert locate_model("tiny").resolve() == folder
    assert locate_model(folder) == folder


def test_the_folder_of_a_run_stands_for_its_model(tmp_path):
    run = tmp_path / "run"
    folder = write_model(run / "model")
    (run / "config.yaml").write_text("steps: 5")
    assert locate_model(run) == folder
    assert load_model(run).table.ids == IDS
    (folder / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"run/model: the model folder has no labels.csv"):
        locate_model(run)


def test_names_of_images_before_anything_is_loaded(tmp_path):
    assert image_names(write_model(tmp_path / "two", TWO_IMAGES)) == ["flair", "t1"]
    assert image_names(write_model(tmp_path / "one")) == ["image"]
    assert image_names(locate_model(packaged_models()[0])) == ["image"]
    for damage in (no_yaml, not_a_mapping, without("config.yaml")):
        assert image_names(damage(write_model(tmp_path / damage.__qualname__))) == ["image"]


def test_a_model_of_several_images_and_regions(tmp_path):
    model = load_model(write_model(tmp_path / "tiny", TWO_IMAGES, regions=True))
    assert list(model.config.preparation.images) == ["flair", "t1"]
    assert [region.name for region in model.config.output.regions] == ["all", "inner"]
    with torch.inference_mode():
        assert model.network(torch.randn(1, 2, 12, 9, 11)).shape == (1, 2, 12, 9, 11)


MINE = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("was_imported").touch()
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, width, 3, padding=1), nn.Conv3d(width, 4, 1)
    def forward(self, x):
        return self.second(self.first(x).relu())
"""


def test_foreign_networks_are_imported_on_request_only(tmp_path, monkeypatch):
    (tmp_path / "voxseg_test_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    folder = write_model(tmp_path / "mine")
    network = {"architecture": "voxseg_test_mine:Net", "arguments": {"width": 5}, "out_channels": 4, "multiple_of": 4}
    change(folder, network=network)
    with pytest.raises(UserError, match=r"voxseg_test_mine:Net would be imported, .*give --allow-import") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_imported").exists()
    with pytest.raises(UserError, match="does not hold the weights"):
        load_model(folder, allow_import=True)
    trained = build_network(NetworkConfig(**network))
    save_file(dict(trained.state_dict()), folder / "model.safetensors")
    model = load_model(folder, allow_import=True)
    x = torch.randn(1, 1, 9, 10, 11)
    torch.testing.assert_close(model.network(x), trained(x))
    assert not model.network.training
    assert len(model.table) == len(LabelTable.read(folder / "labels.csv"))
