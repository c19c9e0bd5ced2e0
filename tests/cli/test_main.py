import subprocess
import sys

import pytest

from voxseg import __version__
from voxseg.cli import main
from voxseg.errors import UserError

HEAVY = {"torch", "monai", "e3nn", "matplotlib", "nibabel", "scipy", "numpy", "SimpleITK", "nilearn", "tqdm"}


def voxseg(*arguments, check=""):
    """Run the command in a process of its own, then a line of Python that may look at it."""
    program = (
        f"import sys; from voxseg.cli.main import run\ntry: run({list(arguments)!r})\nfinally:\n  {check or 'pass'}"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["predict", "--help"], 0),
        (["train", "--help"], 0),
        (["synthesize", "--help"], 0),
        (["plan", "--help"], 0),
        (["data", "--help"], 0),
        (["data", "check", "--help"], 0),
        ([], 2),
        (["data", "forget"], 2),
        (["plan", "missing"], 2),
        (["plan", ".", "--device", "abacus"], 2),
        (["forget"], 2),
        (["predict", "--quickly"], 2),
        (["predict", "--threads", "0"], 2),
        (["predict", "missing.nii.gz"], 2),
        (["predict", "."], 2),
        (["predict", "a/scan.nii", "b/scan.mgz", "-o", "out"], 2),
        (["predict", "scan.nii", "--model", "heart"], 2),
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(arguments, code):
    done = voxseg(*arguments, check=f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))")
    assert "heavy: []" in done.stdout, done.stdout + done.stderr
    if arguments:  # without any, versions of typer differ on whether to show help is an error
        assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_command():
    text = voxseg("--help").stdout
    assert all(f"  {command} " in text for command in main.COMMANDS)


def test_version():
    assert voxseg("--version").stdout == f"voxseg {__version__}\n"


def test_it_runs_as_a_module():
    """As launchers of several processes start it."""
    done = subprocess.run([sys.executable, "-m", "voxseg", "--version"], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"voxseg {__version__}\n"
    failed = subprocess.run([sys.executable, "-m", "voxseg", "forget"], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 2


def fail_with(monkeypatch, error):
    """Make `voxseg predict` raise."""

    def predict() -> None:
        """Raise."""
        raise error

    monkeypatch.setattr("voxseg.cli.predict.predict", predict)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("scan.nii", "is broken", "mend it"), 2, "voxseg: scan.nii: is broken; mend it\n"),
        (ValueError("two\nlines"), 1, "voxseg: ValueError: two lines; this is a bug in voxseg"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
@pytest.mark.parametrize("debug", ["", "option", "variable"])
def test_errors_are_one_line(monkeypatch, capsys, error, code, line, debug):
    monkeypatch.setenv("VOXSEG_DEBUG", "1" if debug == "variable" else "0")
    fail_with(monkeypatch, error)
    with pytest.raises(SystemExit) as caught:
        main.run([*(["--debug"] if debug == "option" else []), "predict"])
    assert caught.value.code == code
    stderr = capsys.readouterr().err
    assert line in stderr
    if code == 130:
        return
    assert ("Traceback" in stderr) == bool(debug)
    if not debug:
        assert stderr.count("\n") == 1
