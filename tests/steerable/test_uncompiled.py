"""What `torch.compile` leaves alone, and what that costs those who do not compile."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor, fx, nn

from voxseg.steerable import FieldNorm, Gate, SolidHarmonicBasis, SteerableConv3d, gated_norm


def test_a_network_runs_without_importing_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from voxseg.networks import NetworkConfig, build_network\n"
        "with torch.no_grad():\n"
        "    build_network(NetworkConfig(out_channels=2)).fold()(torch.zeros(1, 1, 8, 8, 8))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_compiled_network_runs_convolution_and_gate_as_they_are_written() -> None:
    graphs: list[fx.GraphModule] = []

    def collect(graph: fx.GraphModule, _: list[Tensor]) -> fx.GraphModule:
        graphs.append(graph)
        return graph

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate("2x0e+1x1e")
            self.norm = FieldNorm(self.gate.field_in)
            self.convolution = SteerableConv3d("1x0e", self.gate.field_in, SolidHarmonicBasis(1.0, 1.0))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.convolution(x.sin())
            return gated_norm(y, self.norm, self.gate).cos()

    network, x = Network(), torch.randn(1, 1, 8, 8, 8)
    torch.compiler.reset()
    compiled = torch.compile(network, backend=collect)
    assert torch.equal(compiled(x), network(x))
    targets = [node.target for graph in graphs for node in graph.graph.nodes if node.op.startswith("call")]
    assert targets == ["sin", "cos"]
