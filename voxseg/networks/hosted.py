"""The hosted baselines by name, and where each is imported from.

They are written as import paths because `voxseg.baselines` stands above this package, and because some of them need
libraries (e3nn) that nothing else does. `voxseg.baselines` says what such a network has to fulfil.
"""

from __future__ import annotations

HOSTED: dict[str, str] = {
    "any_group": "voxseg.baselines.any_group:AnyGroup",
    "e3nn_gates": "voxseg.baselines.e3nn_gates:E3nnGates",
    "homogeneous": "voxseg.baselines.homogeneous:Homogeneous",
    "mace": "voxseg.baselines.mace:MACE",
    "nequip": "voxseg.baselines.nequip:NequIP",
    "order_parameters": "voxseg.baselines.order_parameters:OrderParameterUNet",
    "phisnet": "voxseg.baselines.phisnet:PhiSNet",
    "se3cnn": "voxseg.baselines.se3cnn:SE3CNN",
    "spherical": "voxseg.baselines.spherical:Spherical",
}
"""Name in a config to class, one line a model."""
