"""`--json` of every command: one document on standard output, whatever happens, and the exit code of each fault."""

import json
import os
import sys

import nibabel as nib
import numpy as np
import pytest
import typer

from models import write_model
from voxseg import __version__
from voxseg.cli import main
from voxseg.errors import UserError
from voxseg.inference.predictor import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def save(path, value=None):
    """A noisy ball, or one value everywhere."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (20, 22, 18)), indexing="ij")
    ball = np.random.default_rng(0).integers(300, 900, x.shape) * (x**2 + y**2 + z**2 < 64)
    data = ball if value is None else np.full(x.shape, value)
    path.parent.mkdir(exist_ok=True, parents=True)
    nib.save(nib.Nifti1Image(data.astype(np.int16), np.diag([-4.0, 4, 4, 1])), path)
    return path


@pytest.fixture
def call(capfd):
    """Runs a command with `--json`; gives its document, after what every document has was checked."""

    def run(*arguments, at=None):
        given = [str(argument) for argument in arguments]
        given.insert(len(given) if at is None else at, "--json")
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run(given)
        captured = capfd.readouterr()
        document = json.loads(captured.out)
        assert list(document) == ["voxseg", "command", "exit_code", "results", "errors", "warnings"]
        assert (document["voxseg"], document["exit_code"]) == (__version__, ended.value.code)
        for error in document["errors"]:
            assert error["what"]
            assert error["problem"]
            assert error["exit_code"] in (1, 2)
            assert error["problem"].splitlines()[0] in captured.err  # people are told the same
        return document

    return run


def commands():
    """Every command, and those of groups, with their parameters."""
    group = typer.main.get_command(main.app)
    for name in main.COMMANDS:
        command = group.get_command(None, name)
        for one, member in (getattr(command, "commands", None) or {"": command}).items():
            yield f"{name} {one}".strip(), member


def test_every_command_has_the_option():
    found = dict(commands())
    assert {"predict", "bids", "evaluate", "train", "data check", "benchmark data-efficiency"} <= set(found)
    for name, command in found.items():
        assert [parameter.opts for parameter in command.params].count(["--json"]) == 1, name


def test_predict(tmp_path, model, call):
    good, bad, gone = save(tmp_path / "a.nii.gz"), save(tmp_path / "b.nii.gz", 0), tmp_path / "c.nii.gz"
    document = call("predict", good, bad, gone, "--model", model, "-o", tmp_path / "out")
    assert document["exit_code"] == 1
    (result,) = document["results"]
    assert (result["scan"], result["status"]) == (str(good), "done")
    assert all(os.path.getsize(path) for path in result["files"])
    assert list(result["seconds"]) == ["reading", "preparing", "network", "restoring", "writing"]
    assert 0 <= result["quality"] <= 1
    assert document["errors"] == [
        {
            "what": str(bad),
            "problem": "every voxel is 0",
            "remedy": "give a scan with an image in it",
            "exit_code": 2,
            "scan": str(bad),
        },
        {"what": str(gone), "problem": "does not exist", "remedy": "check the path", "exit_code": 2, "scan": str(gone)},
    ]
    again = call("predict", good, "--model", model, "-o", tmp_path / "out", "--skip-existing", at=1)
    assert again["results"] == [{"scan": str(good), "status": "skipped"}]
    assert again["exit_code"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "what", "problem"),
    [
        (["predict", "--quickly"], 2, "voxseg predict", "No such option: --quickly"),
        (["forget"], 2, "voxseg", "No such command 'forget'"),
        (["predict"], 2, "SCAN", "no scan is given"),
        (["predict", "gone.nii.gz"], 2, "gone.nii.gz", "does not exist"),
        (["predict", "gone.nii.gz", "--model", "heart"], 2, "--model heart", "there is no such model"),
        (["train", "gone.yaml"], 2, "gone.yaml", ""),
        (["data", "check", "gone"], 2, "gone", ""),
        (["evaluate", "gone", "gone"], 2, "gone", "does not exist"),
        (["plan", "gone"], 2, "gone", ""),
        (["synthesize", "gone.yaml"], 2, "gone.yaml", ""),
        (["export", "--format", "onnx", "--model", "heart"], 2, "--model heart", "there is no such model"),
        (["bids", "gone", "out", "participant"], 2, "gone", ""),
    ],
)
def test_wrong_calls(call, tmp_path, monkeypatch, arguments, code, what, problem):
    monkeypatch.chdir(tmp_path)
    document = call(*arguments)
    (error,) = document["errors"]
    assert document["exit_code"] == code
    assert error["what"] == what
    assert error["problem"].startswith(problem)
    assert error["remedy"]
    assert document["results"] == []
    assert list(tmp_path.iterdir()) == []


def test_options_behind_two_dashes_are_none(capfd):
    with pytest.raises(SystemExit):
        main.run(["predict", "--", "--json"])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "voxseg: --json: does not exist" in captured.err


@pytest.mark.parametrize(
    ("error", "code", "problem", "remedy"),
    [
        (UserError("a", "is broken", "mend it"), 2, "is broken", "mend it"),
        (MemoryError(), 2, "ran out of memory", "give --max-memory, or a smaller scan"),
        (RuntimeError("odd"), 1, "RuntimeError: odd", "this is a bug in voxseg"),
        (KeyboardInterrupt(), 130, None, None),
        (SystemExit(143), 143, None, None),
    ],
)
def test_exit_codes_of_faults_on_the_way(tmp_path, model, call, monkeypatch, error, code, problem, remedy):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(Predictor, "segment", fail)
    document = call("predict", save(tmp_path / "a.nii.gz"), "--model", model)
    assert document["exit_code"] == code
    assert [told["problem"] for told in document["errors"]] == ([problem] if problem else [])
    assert all(told["remedy"].startswith(remedy) for told in document["errors"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz"]


def test_whatever_is_printed_goes_to_standard_error(monkeypatch, capfd):
    def predict() -> None:
        """Print in three ways."""
        print("by print")
        os.write(1, b"by a library\n")
        os.system("echo by a child")

    monkeypatch.setattr("voxseg.cli.predict.predict", predict)
    with pytest.raises(SystemExit) as ended:
        main.run(["predict", "--json"])
    captured = capfd.readouterr()
    assert ended.value.code == 0
    assert json.loads(captured.out)["command"] == "predict"
    assert {"by print", "by a library", "by a child"} <= set(captured.err.splitlines())
    os.write(1, b"as before")
    assert capfd.readouterr().out == "as before"


def test_bids(tmp_path, model, call):
    raw = tmp_path / "raw"
    save(raw / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    save(raw / "sub-2" / "anat" / "sub-2_T1w.nii.gz", 0)
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    document = call("bids", raw, tmp_path / "out", "participant", "--model", model)
    assert document["exit_code"] == 1
    assert [result["status"] for result in document["results"]] == ["done"]
    assert [error["problem"] for error in document["errors"]] == ["every voxel is 0"]
    document = call("bids", raw, tmp_path / "out", "group", "--model", model)
    assert (document["exit_code"], document["results"][0]["scans"]) == (1, 1)
    assert document["errors"][0]["what"] == "sub-2"


def test_other_commands(tmp_path, model, call):
    made = call("synthesize", "tumours", "-n", 2, "-o", tmp_path / "d", "--set", "spacing=6", "--set", "images=[flair]")
    assert os.path.isfile(made["results"][0]["record"])
    checked = call("data", "check", tmp_path / "d", "--images", "flair")
    assert checked["results"][0] | {"folder": ""} == {
        "folder": "",
        "layout": "brats",
        "images": ["flair"],
        "cases": 2,
        "ok": True,
    }
    (tmp_path / "d" / "Generated_001" / "Generated_001_flair.nii.gz").write_bytes(b"broken")
    checked = call("data", "check", tmp_path / "d", "--images", "flair")
    assert (checked["exit_code"], checked["results"][0]["ok"]) == (1, False)
    assert checked["errors"]
    volumes = "id\tname\tside\tvoxels\tmm3\n17\tLeft-Hippocampus\tleft\t{0}\t{0}\n"
    for session in "ab":
        (tmp_path / session).mkdir()
        for k in range(3):
            (tmp_path / session / f"s{k}_volumes.tsv").write_text(volumes.format(3000 + 100 * k + len(session)))
    agreed = call("agreement", tmp_path / "a", tmp_path / "b")
    assert agreed["results"][0]["agreement"]["structures"][0]["name"] == "Left-Hippocampus"
    exported = call("export", "--format", "torchscript", "--model", model, "-o", tmp_path)
    assert exported["results"][0]["largest_difference"] < 1e-4


def test_the_document_comes_from_the_program_too(tmp_path):
    """Not only from `run` in a test: in a pipe, without a terminal."""
    import subprocess

    arguments = [sys.executable, "-m", "voxseg", "predict", "gone.nii", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert json.loads(done.stdout)["errors"][0]["problem"] == "does not exist"
    assert done.stderr == "voxseg: gone.nii: does not exist; check the path\n"
    assert done.returncode == 2


SMALL = """
name: small
steps: 2
labels: {classes: [2, 3, 10], merge_sides: true}
generator: {window: [16, 16, 16], spacing: 4.0}
network: {levels: [2x0e+1x1e, 4x0e+1x1e], encoder_convolutions: [1, 1], decoder_convolutions: [1]}
loss: {deep_supervision: [1.0]}
validation: {every: 2, windows: 1}
"""
BENCHMARK = """
name: tiny heads
sizes: [1, 2]
seeds: [0]
arms: [{name: steerable, title: steerable U-Net, architecture: steerable_unet}]
heads: {images: [flair], spacing: 6.0, field_mm: [144, 168, 144], radius_mm: [15, 24]}
pool: 2
training:
  steps: 2
  windows: {size: [16, 16, 16]}
  dataset: {workers: 0}
  network: {levels: [2x0e+1x1e, 4x0e+1x1e], encoder_convolutions: [1, 1], decoder_convolutions: [1]}
  loss: {deep_supervision: [1.0]}
  schedule: {warmup: 1}
test: {cases: 1, poses: [{axis: [0, 0, 1], degrees: 90}]}
fit: {draws: 100}
"""


@pytest.mark.slow
def test_evaluate_and_robustness(tmp_path, model, call):
    scans = [save(tmp_path / f"{name}.nii.gz") for name in "ab"]
    call("predict", *scans, "--model", model, "-o", tmp_path / "one")
    call("predict", scans[0], "--model", model, "-o", tmp_path / "two")
    evaluated = call("evaluate", tmp_path / "two", tmp_path / "one", "-o", tmp_path / "evaluation")
    content = evaluated["results"][0]["evaluation"]
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert content | {"provenance": 0} == written | {"provenance": 0}
    assert content["provenance"]["kind"] == "evaluation"
    assert [case["case"] for case in content["cases"]] == ["a"]
    assert (evaluated["exit_code"], len(evaluated["errors"])) == (1, 1)  # there is no b
    robust = call("robustness", model, scans[0], "--tests", "mirror", "--quick", "-o", tmp_path / "robust")
    assert robust["results"][0]["robustness"]["complete"]
    assert all(os.path.isfile(path) for path in robust["results"][0]["files"])


@pytest.mark.slow
def test_plan_train_and_benchmark(tmp_path, call):
    from heads import write_toy_heads

    call("synthesize", "tumours", "-n", 4, "-o", tmp_path / "d", "--set", "spacing=6", "--set", "images=[flair]")
    planned = call("plan", tmp_path / "d", "-o", tmp_path / "plan.yaml", "--no-timing")
    assert planned["results"][0]["config"]["preparation"]["images"]
    (tmp_path / "small.yaml").write_text(SMALL)
    heads = write_toy_heads(tmp_path / "heads", 1)
    trained = call("train", tmp_path / "small.yaml", "--data", heads, "-o", tmp_path / "run", "--device", "cpu")
    result = trained["results"][0]
    assert (result["step"], result["steps"], result["stopped_by"]) == (2, 2, None)
    assert os.path.isdir(result["model"])
    (tmp_path / "benchmark.yaml").write_text(BENCHMARK)
    measured = call("benchmark", "data-efficiency", tmp_path / "benchmark.yaml", "-o", tmp_path / "b")
    assert measured["results"][0]["runs"] == 2
    assert measured["results"][0]["curves"]["fits"]
