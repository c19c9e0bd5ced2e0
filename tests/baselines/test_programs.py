"""The benchmarks of single baselines run, at toy size, and print their tables."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "options", "rows"),
    [
        ("spherical_digits.py", ["--epochs", "1", "--limit", "80"], ["spherical CNN", "planar CNN"]),
        ("diffusion_fractions.py", ["--steps", "5"], ["MLP of measured values", "spherical CNN"]),
        ("mace_body_order.py", ["--steps", "2", "--networks", "1"], ["1"]),
        (
            "nequip_spacing.py",
            ["--steps", "2", "--size", "12", "--tests", "2"],
            ["NequIP", "plain U-Net"],
        ),
        ("thick_slices.py", ["--steps", "2", "--size", "12", "--networks", "SO3", "O2_z"], ["SO3", "O2_z"]),
    ],
)
def test_the_table(program: str, options: list[str], rows: list[str]) -> None:
    command = [sys.executable, str(FOLDER / program), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert all(len(line) == len(lines[0]) for line in lines)
    for row in rows:
        cells = [line for line in lines if line[0] == row]
        assert cells
        assert all(0 <= float(cell) <= 1 for line in cells for cell in line[-3:])


def run_program(program: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / program), *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_ablation_of_degrees(tmp_path: Path) -> None:
    picture = tmp_path / "ablation.png"
    options = ["--steps", 1, "--size", 8, "--batch", 4, "--tests", 8, "--weights", 700, "--seeds", 1, "-o", picture]
    done = run_program("lmax_ablation.py", *options)
    assert done.returncode == 0, done.stderr
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")
    ]
    assert len(rows) == 2 + 4 + 4 + 3 + 3
    for features, filters, *_, weights, _, _, upright, turned in (row[1:] for row in rows[2:]):
        assert 450 < int(weights) <= 700
        if features == "0" or filters == "0":
            assert (float(upright), float(turned)) == (1, 1), "scalars make no vector"
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_hessians_are_learned_as_matrices_and_not_as_six_numbers() -> None:
    done = run_program("hessian_fields.py", "--iterations", 60)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("|").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    matrix, scalars, dense = ([float(cell.split(",")[0]) for cell in row[2:]] for row in rows)
    assert len(matrix) == 3
    assert max(matrix) < 0.01
    assert min(scalars) > 0.5, "scalars have no direction"
    assert dense[0] < 0.1
    assert min(dense[1:]) > 0.5, "one pose is learned"


@pytest.mark.slow
def test_a_signed_distance_is_learned_and_its_normals_are_a_gradient() -> None:
    done = run_program("signed_distance.py", "--steps", 150)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("|").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    potential, apart = ([float(cell.strip(" °|")) for cell in row[2:]] for row in rows)
    for distance, angle, *_ in (potential, apart):
        assert distance < 0.15
        assert angle < 20
    assert max(potential[2:]) < 1e-4, "slope and curl"
    assert min(apart[2:]) > 1e-2


@pytest.mark.slow
def test_learning_curves_by_degree(tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    options = ["--sizes", 8, 16, "--steps", 5, "--seeds", 2, "--tests", 20, "--weights", 800, "-o", picture]
    done = run_program("degree_learning_curves.py", *options)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert [row[0].count("+") for row in rows] == [0, 1, 2]
    for _, weights, *errors, _, _ in rows:
        assert 500 < int(weights.replace(",", "")) <= 800
        assert all(0 < float(error) <= 1 for error in errors)
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_whole_cases_are_balanced_by_the_steps_of_a_network() -> None:
    options = ["--network", "mace", "--side", 12, "--cases", 96, "--processes", 4, "--batch", 3, "--epochs", 2]
    done = run_program("load_balancing.py", *options)
    assert done.returncode == 0, done.stderr
    told = {line.split()[0]: [float(part) for part in line.split()[1:]] for line in done.stdout.splitlines()[3:]}
    assert "step of mace: 16³" in done.stdout
    assert 1 <= told["balanced"][0] < told["random"][0]
    assert told["balanced"][2] >= 1


@pytest.mark.slow
def test_training_set_size_of_a_file_like_those_of_medmnist(tmp_path: Path) -> None:
    path, picture, random = tmp_path / "made.npz", tmp_path / "curves.png", np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        labels = (np.arange(count) % 2)[:, None]
        bright = random.integers(0, 60, (count, 28, 28, 28)) + 150 * labels[:, :, None, None]
        arrays |= {f"{part}_images": bright.astype(np.uint8), f"{part}_labels": labels.astype(np.uint8)}
    np.savez(path, **arrays)
    done = run_program(
        "training_set_size.py", "--npz", path, "--sizes", 4, 6, "--steps", 1, "--seeds", 1, "-o", picture
    )
    assert done.returncode == 0, done.stderr
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")
    ]
    steerable, plain = rows[2:]
    assert rows[0][2:] == ["4 volumes", "6 volumes"]
    assert 10 <= int(plain[1].replace(",", "")) / int(steerable[1].replace(",", "")) < 12
    assert all(0 <= float(part) <= 1 for row in (steerable, plain) for cell in row[2:] for part in cell.split(" / "))
    assert picture.stat().st_size > 10_000
    too_many = run_program("training_set_size.py", "--npz", path, "--sizes", 7)
    assert too_many.returncode == 1
    assert too_many.stderr.strip() == f"{path}: has 6 volumes to train on, --sizes asks for more"
    np.savez(path, train_images=arrays["train_images"])
    assert "not a file of MedMNIST3D" in run_program("training_set_size.py", "--npz", path).stderr


@pytest.mark.slow
def test_tetris_shapes_of_one_pose_are_told_in_random_poses() -> None:
    shapes = ["--band-limited", "--size", 28, "--edge", 3, "--blur", 1.5]
    done = run_program(
        "tetris.py", *shapes, "--steps", 60, "--seeds", 1, "--poses", 12, "--only", "output, solid harmonics"
    )
    assert done.returncode == 0, done.stderr
    (row,) = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| O(3)")]
    assert row[2:5] == ["100 %"] * 3, "every shape in every pose"
    assert row[5] == "yes |"


@pytest.mark.slow
def test_digits_on_a_sphere_are_told_in_every_pose() -> None:
    done = run_program("spherical_digits.py", "--epochs", 6, "--limit", 900)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    spherical, planar = ([float(cell) for cell in row[2:]] for row in rows)
    assert min(spherical) > 0.6, "one tenth is chance"
    assert max(spherical) - min(spherical) < 0.06
    assert planar[0] > 0.9
    assert planar[1] < 0.3, "one pose is learned"
