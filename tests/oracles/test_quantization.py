"""Oracles of quantization: PyTorch's fake quantization, all levels tried, all bytes written out in bits."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

quantization = solution("quantization")
seeds = st.integers(0, 999)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
bit_widths = st.integers(2, 8)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(shape=shapes, bits=bit_widths, seed=seeds, magnitude=st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=50, deadline=None)
def test_one_scale_is_pytorchs_fake_quantization(shape: list[int], bits: int, seed: int, magnitude: float) -> None:
    x, top = normal(*shape, seed=seed, scale=magnitude), 2 ** (bits - 1) - 1
    q, scale = quantization.quantize(x, bits)
    wanted = torch.fake_quantize_per_tensor_affine(x, x.abs().max().item() / top, 0, -top, top)
    assert q.dtype == torch.int8 and scale.shape == ()
    torch.testing.assert_close(quantization.dequantize(q, scale), wanted, rtol=1e-6, atol=0.0)


@given(shape=shapes, bits=bit_widths, seed=seeds, data=st.data())
@settings(max_examples=50, deadline=None)
def test_scales_of_an_axis_are_pytorchs_fake_quantization(shape: list[int], bits: int, seed: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, top = normal(*shape, seed=seed), 2 ** (bits - 1) - 1
    q, scale = quantization.quantize(x, bits, axis)
    one_by_one = torch.stack([part.abs().max() / top for part in x.unbind(axis)])
    zero_points = torch.zeros(len(one_by_one), dtype=torch.int32)
    wanted = torch.fake_quantize_per_channel_affine(x, one_by_one, zero_points, axis % x.ndim, -top, top)
    assert scale.shape == tuple(size if i == axis % x.ndim else 1 for i, size in enumerate(shape))
    torch.testing.assert_close(quantization.dequantize(q, scale), wanted, rtol=1e-6, atol=0.0)


@given(bits=bit_widths, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_no_other_level_is_nearer_and_no_smaller_scale_will_do(bits: int, seed: int) -> None:
    x, top = normal(20, seed=seed).double(), 2 ** (bits - 1) - 1
    q, scale = quantization.quantize(x.float(), bits)
    levels = torch.arange(-top, top + 1) * scale.double()
    nearest = (x[:, None] - levels).abs().min(1).values
    error = (x - q * scale.double()).abs()
    torch.testing.assert_close(error, nearest, rtol=0.0, atol=1e-6)
    assert error.max() <= 0.5 * scale.double() + 1e-6
    assert q.abs().max() == top and (q.double() * scale.double()).abs().max() >= x.abs().max() - 1e-6


def test_halves_go_to_the_even_integer() -> None:
    x = torch.arange(-126.5, 127.5, 1.0)
    x[0] = 127.0  # so that the scale is 1
    q, scale = quantization.quantize(x)
    assert scale == 1 and q[1:].tolist() == [round(number) for number in x[1:].tolist()]


def test_zeros_have_scale_one_and_no_nan() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, -127.0]])
    for q, scale in (quantization.quantize(0 * x), quantization.quantize(x, axis=0)):
        assert scale.flatten()[0] == 1 and q[0].tolist() == [0, 0]
    q, scales = quantization.quantize_groups(x, 8, 2)
    assert scales.tolist() == [[1.0], [1.0]] and q.tolist() == [[0, 0], [3, -127]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e4])
def test_half_precision_gives_what_the_same_numbers_in_float32_give(dtype: torch.dtype, magnitude: float) -> None:
    x = normal(5, 40, seed=3, scale=magnitude).to(dtype)
    for axis in (None, 0, 1):
        wanted, found = quantization.quantize(x.float(), 8, axis), quantization.quantize(x, 8, axis)
        assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(wanted, found, strict=True))


@given(O=st.integers(1, 4), groups=st.integers(1, 4), group=st.integers(1, 5), bits=bit_widths, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_groups_are_quantized_each_alone(O: int, groups: int, group: int, bits: int, seed: int) -> None:
    weight, top = normal(O, groups * group, seed=seed), 2 ** (bits - 1) - 1
    q, scales = quantization.quantize_groups(weight, bits, group)
    assert q.shape == weight.shape and scales.shape == (O, groups)
    for o in range(O):
        for i in range(groups * group):
            g = i // group
            alone = weight[o, g * group : (g + 1) * group]
            wanted = torch.fake_quantize_per_tensor_affine(alone, alone.abs().max().item() / top, 0, -top, top)
            torch.testing.assert_close(q[o, i] * scales[o, g], wanted[i - g * group], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("columns, group", [(6, 4), (3, 6), (4, 3)])
def test_groups_must_fill_the_row(columns: int, group: int) -> None:
    with pytest.raises(ValueError, match=rf"{columns}.*{group}"):
        quantization.quantize_groups(torch.ones(12, columns), 4, group)


def bits_of(number: int) -> str:
    """Four bits, two's complement, written out."""
    return f"{number if number >= 0 else 16 + number:04b}"


def test_all_pairs_are_packed_and_unpacked() -> None:
    numbers = torch.arange(-8, 8, dtype=torch.int8)
    pairs = torch.cartesian_prod(numbers, numbers)  # (256, 2)
    packed = quantization.pack_int4(pairs)
    assert packed.dtype == torch.uint8
    assert packed[:, 0].tolist() == [int(bits_of(high) + bits_of(low), 2) for low, high in pairs.tolist()]
    assert sorted(packed[:, 0].tolist()) == list(range(256))
    unpacked = quantization.unpack_int4(packed)
    assert unpacked.dtype == torch.int8 and torch.equal(unpacked, pairs)


@given(lead=st.lists(st.integers(1, 3), max_size=3), n=st.integers(1, 5), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_packing_is_undone_in_any_shape(lead: list[int], n: int, seed: int) -> None:
    q = torch.randint(-8, 8, (*lead, 2 * n), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = quantization.pack_int4(q)
    assert packed.shape == (*lead, n)
    assert torch.equal(quantization.unpack_int4(packed), q)
    with pytest.raises(ValueError):
        quantization.pack_int4(q[..., 1:])


@given(I=st.integers(1, 6), O=st.integers(1, 5), lead=st.lists(st.integers(1, 3), max_size=2), bias=st.booleans(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_layer_equals_a_linear_layer_with_rounded_weights(I: int, O: int, lead: list[int], bias: bool, seed: int) -> None:
    linear = nn.Linear(I, O, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(normal(O, I, seed=seed))
    layer = quantization.Int8Linear(linear)
    x = normal(*lead, I, seed=seed + 1).requires_grad_()
    scales = linear.weight.detach().abs().amax(1) / 127
    rounded = torch.fake_quantize_per_channel_affine(linear.weight.detach(), scales, torch.zeros(O, dtype=torch.int32), 0, -127, 127)
    outs = layer(x), F.linear(x, rounded, linear.bias)
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*[torch.autograd.grad(out.square().sum(), x)[0] for out in outs])


def test_layer_is_saved_loaded_copied_and_moved_like_any_other() -> None:
    linear, other = nn.Linear(6, 4), nn.Linear(6, 4)
    layer, target = quantization.Int8Linear(linear), quantization.Int8Linear(other)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file))
    x = normal(3, 6, seed=0)
    torch.testing.assert_close(target(x), layer(x))
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
    assert list(layer.parameters()) == [] and not layer(x).requires_grad
    assert sum(buffer.nbytes for buffer in layer.buffers()) == 4 * 6 + 4 * 4 + 4 * 4
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert layer(x.to(dtype)).dtype == dtype
        torch.testing.assert_close(layer(x.to(dtype)).float(), layer(x), atol=5e-2, rtol=0.0)


def test_finer_scales_lose_less_to_an_outlier() -> None:
    weight = normal(64, 256, seed=0)
    weight[3, 17] = 100.0

    def error(numbers: Tensor) -> float:
        return float((numbers - weight).square().mean())

    tensor, row = (error(quantization.dequantize(*quantization.quantize(weight, 4, axis))) for axis in (None, 0))
    q, scales = quantization.quantize_groups(weight, 4, 32)
    group = error(q * scales.repeat_interleave(32, dim=1))
    assert tensor > 0.9 and row < tensor / 10 and group < row / 2  # with one scale nearly all numbers become zero
