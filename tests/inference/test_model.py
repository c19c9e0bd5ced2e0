import pytest
import torch
import yaml
from safetensors.torch import save_file

from models import IDS, write_model
from voxseg.errors import UserError
from voxseg.inference.locate import locate_model, packaged_models
from voxseg.inference.model import load_model


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
    assert model.config.network.out_channels == len(model.table) + 1


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
    two_images: "2 images",
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
