"""The two ways in which a separable convolution runs over a few planes, forward and back.

Volumes are ``[X, Y, Z, C]`` here, one sample with its channels last in memory; :mod:`.separable` says what is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .axes import AxisTaps, adjoint, along
from .layout import sum_type
from .sources import Source
from .spans import ChannelSpans

# Moments (a, b, c) along x, y, z of the ten products, in the order in which every basis and every mix lists them.
MOMENTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (0, 1, 1), (1, 0, 1))
_INDEX = {moment: index for index, moment in enumerate(MOMENTS)}
# Moments (a, b) along x and y; those that moment c along z goes with are the first 6, 3 and 1.
_PAIRS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
_PAIRS_WITH = (6, 3, 1)
_BY_Z = [_INDEX[a, b, c] for c in range(3) for a, b in _PAIRS[: _PAIRS_WITH[c]]]
# Elements of an intermediate volume, for each thread up to a number of them: on one, 2^18 to 2^20 are equally fast, and
# on two a step in slabs twice as large takes a tenth less (benchmarks/speed_log.md), for 4 MB of each such volume.
SLAB_ELEMENTS = 2**19
_MOST_SHARES = 4
# Thinner slabs would spend more on the planes that neighbours share than they gain.
_THINNEST_SLAB = 4
# So few channels waste the vector registers of a matrix product each, but fill them when the ten moments go into one.
_FEW_CHANNELS = 4

Taps = tuple[AxisTaps, AxisTaps, AxisTaps]


@dataclass(frozen=True)
class Way:
    """How one convolution runs: everything but the volumes. Volumes are ``[X, Y, Z, C]``.

    Attributes:
        mix: ``[10, C_in, C_out]`` with the input's channels in the order of ``spans``.
        taps: of the three axes.
        spans: which channels each moment needs.
    """

    mix: Tensor
    taps: Taps
    spans: ChannelSpans

    def slabs(self, shape: tuple[int, ...], planes: int, thin: bool = False) -> list[slice]:
        """Cut so many planes of the output across X into slabs.

        Args:
            shape: of a sample, ``(X, Y, Z, C_in)``.
            planes: of the output.
            thin: as for one thread, whatever their number is: where memory is what counts.
        """
        entering = math.prod(shape[1:]) * self.taps[0].stride
        leaving = math.prod(t.output_size(n) for t, n in zip(self.taps[1:], shape[1:3], strict=True)) * self.widest()
        shares = 1 if thin else min(torch.get_num_threads(), _MOST_SHARES)
        step = max(_THINNEST_SLAB, shares * SLAB_ELEMENTS // max(entering, leaving, 1))
        return [slice(start, min(start + step, planes)) for start in range(0, planes, step)]

    def widest(self) -> int:
        """Most channels of a volume on the grid of the output; by default those of the output itself."""
        return self.mix.shape[2]

    def reach(self, part: slice) -> tuple[int, int]:
        """First plane, and one past the last, of a sample that planes of the output see; also outside of it."""
        axis = self.taps[0]
        first = part.start * axis.stride - axis.padding
        return first, first + (part.stop - 1 - part.start) * axis.stride + axis.length

    def seen(self, source: Source, part: slice) -> tuple[int, int]:
        """The same, within the sample."""
        first, last = self.reach(part)
        return max(first, 0), min(last, source.shape[0])

    def band(self, part: slice, low: int, high: int) -> Tensor:
        """``[3, n, high - low]``: what each plane of a sample gives to each plane of a part of the output."""
        axis = self.taps[0]
        device = axis.kernels.device
        starts = torch.arange(part.start, part.stop, device=device) * axis.stride - axis.padding
        tap = torch.arange(low, high, device=device) - starts[:, None]
        outside = (tap < 0) | (tap >= axis.length)
        return axis.kernels[:, tap.clamp(0, axis.length - 1)].masked_fill(outside, 0)

    def along_x(self, source: Source, part: slice) -> list[Tensor]:
        """Planes of a sample convolved along X with each moment, each with the channels of its span.

        The planes of a slab times a band matrix: one product gives all three moments, four times as fast as convolving.
        """
        low, high = self.seen(source, part)
        slab, axis = self.spans.sort(source.planes(low, high)), self.taps[0]
        if _convolved(slab):
            first, last = self.reach(part)
            missing = (0, 0, 0, 0, 0, 0, low - first, last - high)
            slab = F.pad(slab, missing) if any(missing) else slab
            parts = [_channels(slab, span) for span in self.spans.x]
            return [along(x, kernel, 0, axis.stride) for x, kernel in zip(parts, axis.kernels, strict=True)]
        band = self.band(part, low, high)
        if self.spans.trivial:
            return list((band.flatten(0, 1) @ slab.flatten(1)).view(3, -1, *slab.shape[1:]))
        grid = slab.shape[1:3]
        return [
            (matrix @ _channels(slab, span).flatten(1)).view(-1, *grid, span.stop - span.start)
            for matrix, span in zip(band, self.spans.x, strict=True)
        ]

    def back_along_x(self, parts: list[Tensor], source: Source, part: slice) -> Tensor:
        """The adjoint of :meth:`along_x` onto the planes of the sample that were seen; frees the parts on the way."""
        (low, high), (first, last), axis = self.seen(source, part), self.reach(part), self.taps[0]
        grid, convolved = parts[0].shape[1:3], _convolved(parts[0])
        total = parts[0].new_zeros(high - low, *grid, self.mix.shape[1])
        band = self.band(part, low, high)
        for matrix, kernel, span in zip(band, axis.kernels, self.spans.x, strict=True):
            one = parts.pop(0)
            if convolved:
                term = adjoint(one, kernel, 0, axis.stride, 0, last - first)[low - first : high - first]
                _add_channels(total, span, term)
            elif self.spans.trivial:
                total.flatten(1).addmm_(matrix.T, one.flatten(1))
            else:
                _add_channels(total, span, (matrix.T @ one.flatten(1)).view(high - low, *grid, -1))
        return self.spans.unsort(total)

    def unsorted(self, mix_gradient: Tensor) -> Tensor:
        """A gradient of ``mix`` with the channels in the order of the input."""
        return mix_gradient if self.spans.trivial else mix_gradient[:, self.spans.places]


class MixBefore(Way):
    """Channels are mixed before the convolutions along Z."""

    def forward(self, along_x: list[Tensor], bias: Tensor, target: Tensor) -> None:
        """Set ``target`` to ``sum_c Z_c (sum_ab (Y_b along_x_a) M_abc)``."""
        _, y, z = self.taps
        mixed: list[Tensor | None] = [None, None, None]  # by moment along Z, whose convolution is still to come
        shape: tuple[int, ...] = ()
        for a, b in _PAIRS:
            span = self.spans.xy[a, b]
            inner = _within(span, self.spans.x[a])
            node = along(_channels(along_x[a], inner), y.kernels[b], 1, y.stride, y.padding)
            shape, rows = node.shape[:3], node.view(-1, node.shape[3])
            for c in range(3 - a - b):
                matrix = self.mix[_INDEX[a, b, c], span]
                part = mixed[c]
                mixed[c] = rows @ matrix if part is None else part.addmm_(rows, matrix)
        terms = []
        for c, part in enumerate(mixed):
            assert part is not None
            image = part.view(*shape, -1)
            terms.append(along(image, z.kernels[c], 2, z.stride, z.padding, bias if c == 0 else None))
        torch.add(terms[0].add_(terms[1]), terms[2], out=target)

    def backward(
        self,
        along_x: list[Tensor] | None,
        cotangent: Tensor,
        mix_gradient: Tensor | None,
        size: tuple[int, ...],
        for_x: bool,
    ) -> list[Tensor]:
        """From the cotangent of some planes back to before the convolutions along Y, by moment along X."""
        _, y, z = self.taps
        planes = len(cotangent)
        widths = [span.stop - span.start for span in self.spans.x]
        mixed = [cotangent.new_empty(planes * size[0] * size[1], width) for width in widths] if for_x else []
        for c in range(3):
            along_z = adjoint(cotangent, z.kernels[c], 2, z.stride, z.padding, size[1])
            for b in range(3 - c):
                rows = adjoint(along_z, y.kernels[b], 1, y.stride, y.padding, size[0]).view(-1, cotangent.shape[3])
                for a in range(3 - b - c):
                    index, span = _INDEX[a, b, c], self.spans.xy[a, b]
                    inner = _within(span, self.spans.x[a])
                    if mix_gradient is not None and along_x is not None:
                        known = along_x[a].view(-1, widths[a])
                        mix_gradient[index, span] += _inner(known, inner, rows)
                    if not for_x:
                        continue
                    if b == c == 0:  # the first to come
                        if inner != slice(0, widths[a]):
                            mixed[a].zero_()
                        mixed[a][:, inner].addmm_(rows, self.mix[index, span].T, beta=0)
                    else:
                        mixed[a][:, inner].addmm_(rows, self.mix[index, span].T)
        return [part.view(planes, *size, -1) for part in mixed]


class MixAfter(Way):
    """Channels are mixed after all convolutions; every moment needs every channel."""

    def widest(self) -> int:
        """Those of the output or of all responses."""
        return max(self.mix.shape[2], len(MOMENTS) * self.mix.shape[1])

    def _matrix(self) -> Tensor:
        """``[10 C_in, C_out]`` in the order of :meth:`_responses`."""
        return self.mix[_BY_Z].flatten(0, 1)

    def _responses(self, along_x: list[Tensor]) -> Tensor:
        """The ten responses at each voxel: ``[X, Y, Z, 10 C_in]``, by moment along Z, then in the order of pairs."""
        _, y, z = self.taps
        channels = along_x[0].shape[3]
        nodes = [along(along_x[a], y.kernels[b], 1, y.stride, y.padding) for a, b in _PAIRS]
        pairs = torch.cat(nodes, 3)
        parts = [
            along(_channels(pairs, slice(0, count * channels)), z.kernels[c], 2, z.stride, z.padding)
            for c, count in enumerate(_PAIRS_WITH)
        ]
        return torch.cat(parts, 3)

    def forward(self, along_x: list[Tensor], bias: Tensor, target: Tensor) -> None:
        """Set ``target`` to the mixture of the ten responses."""
        rows = self._responses(along_x).flatten(0, 2)
        torch.addmm(bias, rows, self._matrix(), out=target.flatten(0, 2))

    def backward(
        self,
        along_x: list[Tensor] | None,
        cotangent: Tensor,
        mix_gradient: Tensor | None,
        size: tuple[int, ...],
        for_x: bool,
    ) -> list[Tensor]:
        """As :meth:`MixBefore.backward`."""
        _, y, z = self.taps
        channels, shape = self.mix.shape[1], cotangent.shape
        rows = cotangent.flatten(0, 2)
        if mix_gradient is not None and along_x is not None:
            responses = self._responses(along_x).flatten(0, 2)
            product = _inner(responses, slice(0, 10 * channels), rows).view(10, channels, shape[3])
            mix_gradient[_BY_Z] += product
        if not for_x:
            return []
        back = (rows @ self._matrix().T).view(*shape[:3], -1)
        start = 0
        pairs: Tensor | None = None
        for c, count in enumerate(_PAIRS_WITH):
            part = _channels(back, slice(start, start + count * channels))
            start += count * channels
            part = adjoint(part, z.kernels[c], 2, z.stride, z.padding, size[1])
            if pairs is None:
                pairs = part
            else:
                _add_channels(pairs, slice(0, count * channels), part)
        assert pairs is not None
        result: list[Tensor | None] = [None, None, None]
        for number, (a, b) in enumerate(_PAIRS):
            node = _channels(pairs, slice(number * channels, (number + 1) * channels))
            node = adjoint(node, y.kernels[b], 1, y.stride, y.padding, size[0])
            known = result[a]
            result[a] = node if known is None else known.add_(node)
        return [part for part in result if part is not None]


def way_of(mix: Tensor, taps: Taps, spans: ChannelSpans | None) -> MixBefore | MixAfter:
    """The cheaper way for a convolution; without spans every moment sees every channel."""
    channels = mix.shape[1]
    if taps[2].stride > 1 or channels <= _FEW_CHANNELS:
        return MixAfter(mix, taps, ChannelSpans.all(channels))
    if spans is None or spans.trivial:
        return MixBefore(mix, taps, ChannelSpans.all(channels))
    return MixBefore(mix[:, spans.order], taps, spans)


def _channels(volume: Tensor, span: slice) -> Tensor:
    """Some channels of ``[X, Y, Z, C]``, next to each other in memory."""
    return volume if span == slice(0, volume.shape[3]) else volume[..., span].contiguous()


def _within(span: slice, outer: slice) -> slice:
    """A span as counted from the beginning of one that holds it."""
    return slice(span.start - outer.start, span.stop - outer.start)


def _add_channels(total: Tensor, span: slice, part: Tensor) -> None:
    """Add to some channels of ``[X, Y, Z, C]``."""
    if part.dtype == torch.float32 or span == slice(0, total.shape[3]):
        total[..., span] += part
    else:  # PyTorch adds 16-bit numbers that lie apart one by one
        total[..., span] = part.add_(total[..., span].contiguous())


def _convolved(volume: Tensor) -> bool:
    """Whether to convolve along X in place of multiplying: 16-bit products on CPUs take 40 MB for themselves."""
    return volume.device.type == "cpu" and volume.element_size() == 2


def column_sums(rows: Tensor) -> Tensor:
    """``rows.sum(0)`` as a product, which is five times as fast on a CPU."""
    return torch.mv(rows.T, rows.new_ones(rows.shape[0]))


def _inner(left: Tensor, columns: slice, right: Tensor) -> Tensor:
    """``left[:, columns]^T right`` for two tall matrices, in blocks: as one product it would run on a single core."""
    block = 512
    whole = left.shape[0] // block * block
    if not whole:
        return (left[:, columns].T @ right).to(sum_type(left.dtype))
    blocks = left[:whole].view(-1, block, left.shape[1])[..., columns]
    product = torch.bmm(blocks.mT, right[:whole].view(-1, block, right.shape[1])).sum(0, dtype=sum_type(left.dtype))
    return product if whole == left.shape[0] else product + left[whole:, columns].T @ right[whole:]
