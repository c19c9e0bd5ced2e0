"""The diffusion operator, its solutions and their gradients, against scipy's sparse solver and finite differences."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from voxseg.baselines.matrix_fields import PairBlocks, conjugate_gradient, couplings, diffusion, solve_diffusion
from voxseg.testing import grid_rotations, rotate_field

SIZE = (4, 4, 4)
OFFSETS = [o for o in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, o)) <= 2]


def tensors(size=SIZE, seed=0):
    """Positive ones, far from round."""
    factor = torch.randn(*size, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.mT / 3 + 0.1 * torch.eye(3, dtype=torch.float64)


def random(*size, seed=1):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(d, mass, spacing=1.0):
    """The operator as an array, one column a voxel."""
    count = d[..., 0, 0].numel()
    units = torch.eye(count, dtype=torch.float64).view(count, *d.shape[:3])
    return torch.stack([diffusion(d, unit, mass, spacing).flatten() for unit in units], 1).numpy()


def test_the_operator_is_symmetric_positive_and_keeps_constants():
    a = matrix(tensors(), 0.0)
    assert np.allclose(a, a.T, atol=1e-12)
    values = np.linalg.eigvalsh(a)
    assert values[0] > -1e-10
    assert values[1] > 1e-3
    assert np.allclose(a.sum(1), 0, atol=1e-12)  # nothing flows through the border


def test_of_a_quadratic_it_is_minus_the_trace_of_its_hessian_with_the_tensor():
    d = tensors((1, 1, 1)).expand(6, 6, 6, 3, 3)
    points = torch.stack(torch.meshgrid(*[torch.arange(6.0, dtype=torch.float64) * 0.5] * 3, indexing="ij"), -1)
    hessian = random(3, 3)
    hessian = hessian + hessian.mT
    u = torch.einsum("...i,ij,...j->...", points, hessian, points) / 2
    found = diffusion(d, u, spacing=0.5)[1:-1, 1:-1, 1:-1]
    assert torch.allclose(found, -torch.einsum("ij,ij->", d[0, 0, 0], hessian).expand_as(found), atol=1e-10)


def test_couplings_are_the_entries_of_the_operator():
    d = tensors()
    a = matrix(d, 0.0, 2.0).reshape(*SIZE, *SIZE)
    seen = 0
    for offset in OFFSETS:
        found = couplings(d, offset, 2.0)
        for i in itertools.product(range(4), repeat=3):
            j = tuple(np.add(i, offset))
            inside = all(0 <= n < 4 for n in j)
            assert float(found[i]) == pytest.approx(a[i][j] if inside else 0, abs=1e-12)
            seen += inside and abs(a[i][j]) > 1e-6
    assert seen > 500
    beyond = list(itertools.product((-1, 1), repeat=3))
    assert not any(a[1, 1, 1][tuple(np.add((1, 1, 1), o))] for o in beyond)


def test_the_solution_is_that_of_a_sparse_solver():
    d, source = tensors((5, 4, 6)), random(5, 4, 6)
    u = solve_diffusion(d, source, 0.2, 0.8)
    a = scipy.sparse.csc_array(matrix(d, 0.2, 0.8))
    expected = scipy.sparse.linalg.spsolve(a, source.flatten().numpy()).reshape(5, 4, 6)
    assert np.allclose(u.numpy(), expected, atol=1e-8)


def test_a_turned_problem_has_the_turned_solution():
    d, source = tensors(), random(*SIZE)
    u = solve_diffusion(d, source, 0.3)
    for rotation in grid_rotations(improper=True)[::5]:
        moved = (
            rotate_field(d.flatten(3).movedim(-1, 0)[None], rotation, "9x0e")[0].movedim(0, -1).unflatten(-1, (3, 3))
        )
        turned = solve_diffusion(
            rotation @ moved @ rotation.T, rotate_field(source[None, None], rotation, "1x0e")[0, 0], 0.3
        )
        assert torch.allclose(turned, rotate_field(u[None, None], rotation, "1x0e")[0, 0], atol=1e-9)


def test_gradients_of_the_solution_are_exact():
    size = (2, 2, 2)
    d, source = tensors(size).requires_grad_(), random(*size).requires_grad_()

    def solved(d, source):
        return solve_diffusion((d + d.mT) / 2, source, 0.5, 0.9, tolerance=1e-13)

    assert torch.autograd.gradcheck(solved, (d, source), atol=1e-5, fast_mode=True)


def test_tensors_are_found_from_a_solution():
    """End to end: a field of tensors is fitted to what it does, and never seen itself."""
    true, source = tensors((3, 3, 3), seed=3), random(3, 3, 3)
    wanted = solve_diffusion(true, source, 0.2)
    factor = torch.eye(3, dtype=torch.float64).repeat(3, 3, 3, 1, 1).requires_grad_()
    optimiser = torch.optim.Adam([factor], lr=0.1)
    losses = []
    for _ in range(15):
        u = solve_diffusion(factor @ factor.mT + 0.05 * torch.eye(3, dtype=torch.float64), source, 0.2, tolerance=1e-6)
        loss = (u - wanted).square().mean() / wanted.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_what_is_not_positive_is_told():
    with pytest.raises(ValueError, match="are all tensors positive"):
        solve_diffusion(-tensors(), random(*SIZE), 0.1)
    with pytest.raises(ValueError, match="within 2 steps"):
        solve_diffusion(tensors(), random(*SIZE), 0.1, steps=2)
    assert not conjugate_gradient(lambda x: x, torch.zeros(3), 1e-6, 5).any()


def test_blocks_of_pairs_turn_with_their_pair():
    """`H_ij` of turned features at the turned pair is `R H_ij R^T`, and `H_ji` is its transposed."""
    torch.manual_seed(0)
    layer = PairBlocks(2, 2).double()
    types = "+".join(["1x0e+1x1e+1x2e"] * 2)
    x = random(1, 18, 4, 4, 4)

    def blocks(x, axis):
        return layer(x.unflatten(1, (2, 9)), axis)[0].detach()

    for rotation in grid_rotations()[::3]:
        turned = rotate_field(x, rotation, types)
        for axis in range(3):
            image = rotation[:, axis]
            along, forward = int(image.abs().argmax()), bool(image.sum() > 0)
            expected, found = blocks(x, axis), blocks(turned, along)
            for i in itertools.product(range(3), repeat=3):  # the lower end of a pair of voxels
                other = list(i)
                other[axis] += 1
                ends = [rotation @ (torch.tensor(p, dtype=torch.float64) - 1.5) + 1.5 for p in (i, other)]
                start = ends[0 if forward else 1].round().long().tolist()
                wanted = rotation @ expected[i] @ rotation.T
                assert torch.allclose(found[tuple(start)], wanted if forward else wanted.T, atol=1e-10)
