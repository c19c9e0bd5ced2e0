"""The other equivariant networks, re-created on voxel fields from the published maths, trained and tested alike.

**The contract.** A baseline is a class in a module of its own, ``voxseg/baselines/NAME.py``, that reads top to bottom:

- Its module docstring gives the paper's equations, its citation (with arXiv number or DOI), and what differs here.
- It derives from :class:`voxseg.baselines.base.Baseline`. The constructor takes ``in_channels: int`` and
  ``out_channels: int`` by keyword (the config sets them), and further keyword arguments, all with defaults and
  described in the docstring: these are ``network.arguments`` of a config. Arguments that do not fit raise
  ``ValueError``, which is told as one line.
- ``forward(x)`` maps ``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]`` on the same grid, for every
  grid of at least 8 voxels a side, odd or even, and does not mix the samples of a batch in eval mode. There is no deep
  supervision: one tensor comes out. Kernels are in voxels, because the working grid is isotropic.
- ``rotations()`` lists the grid rotations under which it is exact to rounding; by default all 24. The identity alone is
  honest for a network with a broken symmetry, whose own test then says how it turns.
- No input but the volume, no state between calls, no file and no network connection.
- An intermediate tensor that is larger than what its module takes in and gives out (a signal on a sphere, say) is the
  output of a submodule: memory at inference is estimated from the largest input and output of the leaf modules.

**Its name.** One line in ``voxseg/networks/hosted.py``: ``"NAME": "voxseg.baselines.NAME:Class"``. A config then says
``network: {architecture: NAME, arguments: {...}}``, and everything that trains, predicts, evaluates or benchmarks finds
it: `voxseg.networks.build_network` wraps it in a `ForeignNetwork`, which tries it on zeros when it is built.

**Its config.** ``configs/baselines/NAME.yaml`` holds the block ``network:``, sized to about 20,000 weights so that the
benchmark compares like with like, and where the model needs it other keys of a training config (``optimiser:``). It is
laid over the config of a task: ``voxseg train brats2020 --network NAME --data FOLDER``. `voxseg benchmark baselines`
runs every file that is there.

**Its tests.** ``tests/baselines/test_hosted.py`` runs over all of them by itself: shapes, exactness under
``rotations()``, gradients of every weight, weights saved and loaded. ``tests/baselines/test_NAME.py`` holds
`assert_equivariant` with bounds for its layers, gradient checks of backward passes by hand, and the paper's own claims
at toy size.

**Its line** in the table of ``docs/baselines.md``: what the paper reached, and what ours did.

What several share: ``voxseg.steerable``, and the U-Net skeleton, `voxseg.networks.UNet` with
:func:`voxseg.baselines.base.skeleton`, which takes a factory of layers (see ``e3nn_gates.py``).
"""
