"""Separable convolution: kernels of ten products of 1-D kernels, run as 1-D convolutions and small matrix products.

Every kernel in the span of the products ``k_a(x) k_b(y) k_c(z)`` with ``a + b + c <= 2``, where ``k_0, k_1, k_2`` are a
Gaussian and its first two moments, is given by ten matrices ``M_abc`` of ``[C_in, C_out]`` and never has to be built.
With ``X_a, Y_b, Z_c`` the depthwise 1-D convolutions along the axes, the output is

    y = sum_c Z_c ( sum_ab (Y_b X_a x) M_abc ),

which takes 3 + 6 + 3 one-dimensional convolutions and ten products, because channels are mixed before the last axis.
Ten taps in place of 125. Where the last axis is halved, or the channels that come in are very few, it is cheaper to mix
after it: 3 + 6 + 10 convolutions and one product of ``[voxels, 10 C_in]`` on the coarse grid.

The backward pass is written by hand: autograd would keep all intermediate volumes alive, this keeps the input alone.
Mixing before the last axis, with ``g_bc = Y_b^T Z_c^T g``,

    dL/dM_abc = (X_a x)^T g_bc,        dL/dx = sum_a X_a^T ( sum_bc g_bc M_abc^T ),

so that 15 one-dimensional convolutions give both gradients; mixing after it, the steps of the forward pass are run
again and then back. Both passes go through the volume slab by slab along X, so that what they hold besides input and
output does not grow with the volume. Where features of a coarser grid are to be upsampled and set beside those of the
finer one, that too is done slab by slab, in both passes: neither of the two large volumes is ever whole. And so is what
follows at each voxel, norm, gate and the mixing into logits, where it is given: the convolution's own output is never
whole either, nor kept, but computed again in the backward pass. What came of a volume without gradient, a scan, in this
way is not kept by the convolution that reads it either (:mod:`.recipes`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .axes import AxisTaps, symmetric_padding
from .layout import empty_volume, sample_rows, samples, sum_type
from .nonlinearity import GatedNorm
from .recipes import Recipe, convolve_slab
from .sources import Gradient, Source
from .spans import ChannelSpans
from .ways import MOMENTS, Taps, column_sums, way_of

__all__ = ["MOMENTS", "AxisTaps", "Taps", "separable_convolution", "symmetric_padding"]


def separable_convolution(
    x: Tensor,
    mix: Tensor,
    bias: Tensor,
    taps: Taps,
    spans: ChannelSpans | None = None,
    coarse: Tensor | None = None,
    then: GatedNorm | None = None,
) -> Tensor:
    """Convolve with the kernels ``sum_abc M_abc k_a(x) k_b(y) k_c(z)``.

    Args:
        x: ``[B, C_in, X, Y, Z]``, best in ``channels_last_3d``.
        mix: ``[10, C_in, C_out]``, in the order of :data:`MOMENTS`.
        bias: ``[C_out]``, added at every voxel.
        taps: the 1-D kernels along X, Y and Z.
        spans: which channels of the input each moment needs, where that is not all of them.
        coarse: ``[B, C_coarse, ...]`` on the next coarser grid. It is upsampled as :func:`.resampling.upsample` does,
            and its channels follow those of ``x``, which then has ``C_in - C_coarse``.
        then: what is done with the ``C_out`` channels of each voxel afterwards. The backward pass convolves again in
            place of keeping them.

    Returns:
        ``[B, C_out, X', Y', Z']`` in ``channels_last_3d``, with the channels of ``then`` if it is given.
    """
    further = then.tensors if then is not None else ()
    with torch.autocast(x.device.type, enabled=False):  # it would upsample in float32
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, mix, bias, coarse, *further) if t is not None):
            recipe = Recipe.of(x)
            x = x.contiguous(memory_format=torch.channels_last_3d)
            output: Tensor = _SeparableConvolution.apply(x, coarse, mix, bias, taps, spans, then, recipe, *further)
            if then is not None and coarse is None and not x.requires_grad:
                grid = (output.shape[2], output.shape[3], output.shape[4])
                Recipe(x, way_of(mix, taps, spans), bias, then, grid).attach(output)
            return output
        return _forward(x, coarse, mix, bias, taps, spans, then)


class _SeparableConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        coarse: Tensor | None,
        mix: Tensor,
        bias: Tensor,
        taps: Taps,
        spans: ChannelSpans | None,
        then: GatedNorm | None,
        recipe: Recipe | None,
        *further: Tensor,
    ) -> Tensor:
        del further  # the tensors of `then`, given for their gradients
        ctx.save_for_backward(None if recipe else x, coarse, mix, bias)
        ctx.taps, ctx.spans, ctx.then, ctx.recipe, ctx.shape = taps, spans, then, recipe, x.shape
        return _forward(x, coarse, mix, bias, taps, spans, then)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, coarse, mix, bias = ctx.saved_tensors
        for_x, for_coarse, for_mix, for_bias = ctx.needs_input_grad[:4]
        then: GatedNorm | None = ctx.then
        further = then.tensors if then is not None else ()
        cotangent = cotangent.contiguous(memory_format=torch.channels_last_3d)
        way = way_of(mix, ctx.taps, ctx.spans)
        mix_gradient = way.mix.new_zeros(way.mix.shape, dtype=sum_type(mix.dtype)) if for_mix else None
        bias_gradient = bias.new_zeros(bias.shape, dtype=sum_type(bias.dtype))
        further_gradients = [tensor.new_zeros(tensor.shape, dtype=sum_type(tensor.dtype)) for tensor in further]
        gradient = Gradient(ctx.shape, coarse, cotangent) if for_x or for_coarse else None
        recipe: Recipe | None = ctx.recipe
        for number, source in enumerate(Source.of(recipe.samples() if recipe else samples(x), coarse)):
            for part in way.slabs(source.shape, cotangent.shape[2], thin=then is not None):
                along_x = way.along_x(source, part) if mix_gradient is not None or then is not None else None
                rows = sample_rows(cotangent, number)[part]
                if then is not None and along_x is not None:
                    again = rows.new_empty(*rows.shape[:3], mix.shape[2])
                    way.forward(along_x, bias, again)
                    before = then.backward(again.flatten(0, 2), rows.flatten(0, 2), further_gradients)
                    rows = before.view(again.shape)
                    del again, before
                if for_bias:
                    bias_gradient += column_sums(rows.flatten(0, 2))
                back = way.backward(along_x, rows, mix_gradient, source.shape[1:3], gradient is not None)
                del along_x, rows  # three slabs, and where there is something after the convolution a fourth
                if gradient is not None:
                    gradient.add(number, way.seen(source, part)[0], way.back_along_x(back, source, part))
        if mix_gradient is not None:
            mix_gradient = way.unsorted(mix_gradient).to(mix.dtype)
        x_gradient, coarse_gradient = (None, None) if gradient is None else (gradient.fine, gradient.coarse)
        ours = (x_gradient, coarse_gradient, mix_gradient, bias_gradient.to(bias.dtype) if for_bias else None)
        theirs = (g.to(tensor.dtype) for g, tensor in zip(further_gradients, further, strict=True))
        return (*ours, None, None, None, None, *theirs)


def _forward(
    x: Tensor,
    coarse: Tensor | None,
    mix: Tensor,
    bias: Tensor,
    taps: Taps,
    spans: ChannelSpans | None,
    then: GatedNorm | None,
) -> Tensor:
    """The convolution, sample by sample and slab by slab along X, so that intermediate volumes are few."""
    x = x.contiguous(memory_format=torch.channels_last_3d)
    way = way_of(mix, taps, spans)
    size = [t.output_size(n) for t, n in zip(taps, x.shape[2:], strict=True)]
    channels = mix.shape[2] if then is None else then.channels
    output = empty_volume(x, channels, (x.shape[0], *size))
    for number, source in enumerate(Source.of(samples(x), coarse)):
        for part in way.slabs(source.shape, size[0]):
            convolve_slab(way, source, part, bias, then, sample_rows(output, number)[part])
    return output
