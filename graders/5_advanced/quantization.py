"""What a right quantization does.

Where integers are compared, numbers are drawn near the levels, away from the
halves between them: there the last bit of a quotient would decide, and styles
differ in it. One check is about halves, with quotients that are exact.
"""

import torch
from torch import nn

from kata.grading import beside, check, choice, close, failure, gradients, indices, inputs_after, normal, size
from kata.inputs import Sizes, Strategy, names_in, shape_of

FEW = {"B": (2,), "O": (3,), "I": (4,)}  # where axes are not the subject
SMALL = (0.005, 0.02)  # steps of weights whose products are near 1, so that nothing large cancels
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def near_levels(
    axes: str, bits: str | int = 8, axis: int | None = None, off: float = 0.3, steps: tuple[float, float] = (0.02, 2)
) -> Strategy:
    """Numbers at most `off` steps from a level, one of them the largest, for each scale; steps are drawn from the range.

    Args:
        bits: a number, or the axis whose size it is.
        axis: the one that keeps its own scales; None for one scale.
    """

    def draw(sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
        shape, top = shape_of(axes, sizes), 2 ** (shape_of(str(bits), sizes)[0] - 1) - 1
        levels = torch.randint(-top, top + 1, shape, generator=generator)
        away = ((2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * 100 * off).round() / 100
        slices = (levels + away).clamp(-top, top).movedim(axis or 0, 0).clone(memory_format=torch.contiguous_format)
        rows = slices.view(1, -1) if axis is None else slices.view(len(slices), -1)
        places = torch.randint(rows.shape[1], (len(rows), 1), generator=generator)
        signs = 2 * torch.randint(2, places.shape, generator=generator) - 1
        rows.scatter_(1, places, (signs * top).double())
        least, most = steps
        rows *= least + (most - least) * torch.randint(100, places.shape, generator=generator) / 100
        return slices.movedim(0, axis or 0).float()

    return Strategy((*names_in(axes), *names_in(str(bits))), draw)


def quantized(impl, x, *args, **kwargs):
    q, scale = impl.quantize(x, *args, **kwargs)
    return {"q": q, "scale": scale}


# One scale.


@check(points=1, x=normal("B L D", dtype=torch.float32))
def error_is_at_most_half_a_step(impl, x):
    """q is int8, from -127 to 127, and q · scale differs from x by scale / 2 at most, however large or small the numbers are."""
    seen = {}
    for magnitude in (1e-34, 1e-10, 1e-6, 1.0, 1e30):
        q, scale = impl.quantize(magnitude * x)
        step = float(scale)
        error = float((magnitude * x.double() - q.double() * step).abs().max())
        least, largest = float(q.min()), float(q.max())
        seen[f"x times {magnitude:g}"] = {
            "dtype of q": q.dtype,
            "largest error": "at most scale / 2" if error <= 0.501 * step else f"{error / step:.3g} · scale",
            "q": "within -127 and 127" if least >= -127 and largest <= 127 else f"from {least:g} to {largest:g}",
            "q of the largest number": "127" if float(q.abs().max()) == 127 or not x.any() else "another",
        }
    return seen


@check(points=1, x=near_levels("B L D"))
def eight_bits_reach_127(impl, x):
    """scale is the largest absolute value divided by 127, a float32 scalar, and q is x / scale rounded to the nearest integer."""
    return quantized(impl, x)


@check(points=1, after=eight_bits_reach_127, sizes={"b": (2, 6, 7), "D": (6,)}, x=near_levels("D", bits="b"), bits=size("b"))
def bits_give_the_levels(impl, x, bits):
    """With other bits the largest absolute value becomes 2 ** (bits - 1) - 1; q is int8 all the same."""
    return quantized(impl, x, bits)


@check(points=1, after=bits_give_the_levels, sign=choice(1, -1))
def halves_go_to_the_even(impl, sign):
    """A number in the middle between two integers goes to the even one, as with torch.round."""
    x = sign * torch.tensor([3.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    return {"bits 3": impl.quantize(x, 3)[0], "bits 2": impl.quantize(sign * torch.tensor([1.0, 0.5, -0.5]), 2)[0]}


# A scale for each slice.


@check(
    points=2,
    after=eight_bits_reach_127,
    row=near_levels("D", axis=0),
    first=near_levels("B D", axis=0),
    middle=near_levels("B L D", axis=1),
    last=near_levels("B L D", axis=2),
    many=near_levels("B 2 L D", axis=1),
)
def each_slice_has_its_scale(impl, row, first, middle, last, many):
    """With axis each slice along that axis has a scale of its own; scale has the axes of x, all but that one of size 1."""
    return {
        "(D,), axis 0": quantized(impl, row, axis=0),
        "(B, D), axis 0": quantized(impl, first, axis=0),
        "(B, L, D), axis 1": quantized(impl, middle, axis=1),
        "(B, L, D), axis 2": quantized(impl, last, axis=2),
        "(B, 2, L, D), axis 1": quantized(impl, many, axis=1),
    }


@check(
    points=1,
    after=(each_slice_has_its_scale, bits_give_the_levels),
    middle=near_levels("B L D", bits=5, axis=1),
    last=near_levels("B D", axis=1),
)
def axes_count_from_the_end(impl, middle, last):
    """axis may be negative: -1 is the last one."""
    return {"(B, L, D), axis -2, 5 bits": quantized(impl, middle, 5, -2), "(B, D), axis -1": quantized(impl, last, axis=-1)}


@check(points=1, after=each_slice_has_its_scale, sizes={"L": (4, 6), "D": (5, 7)}, x=normal("L D", dtype=torch.float32))
def an_outlier_spoils_its_own_slice_only(impl, x):
    """One column a thousand times as large leaves the others no level but zero, unless each column has its own scale."""
    x[:, 1] += 1000
    x[:, 0] = torch.arange(1.0, len(x) + 1)
    seen = {}
    for name, axis in {"one scale": None, "a scale for each column": 1, "a scale for each row": 0}.items():
        q, scale = impl.quantize(x, axis=axis)
        error = (q.double() * scale.double() - x)[:, 0].abs().max() / len(x)
        seen[name] = "error above 10 %" if error > 0.1 else "error below 1 %" if error < 0.01 else "error between 1 and 10 %"
    return seen


@check(points=1, after=each_slice_has_its_scale, sizes={"B": (3,), "D": (4,)}, x=near_levels("B D", axis=0), dead=choice(0, 1, 2))
def zeros_have_scale_one(impl, x, dead):
    """Where all numbers that share a scale are zero, the scale is 1 and q is zero; other slices are as ever."""
    x[dead] = 0
    return {
        "all zero": quantized(impl, torch.zeros(2, 3)),
        "one row zero": quantized(impl, x, axis=0),
        "one column zero": quantized(impl, x.T, axis=1),
    }


@check(
    points=1,
    after=(each_slice_has_its_scale, bits_give_the_levels),
    compare=close(rtol=1e-5, atol=0),
    x=near_levels("B D", off=0.2, steps=(1, 2)),
    coarse=near_levels("B D", bits=4, axis=0, off=0.2, steps=(1, 2)),
)
def half_precision_is_worked_on_in_float32(impl, x, coarse):
    """x may be float16 or bfloat16, as large or small as that goes; scale is float32 all the same, with all its digits."""
    seen = {}
    for name, factor, wide in (("small", 2.0**-20, 2.0**-100), ("large", 2.0**8, 2.0**100)):
        seen[f"float16, {name} numbers"] = quantized(impl, (x * factor).half())
        seen[f"bfloat16, {name} numbers"] = quantized(impl, (coarse * wide).bfloat16(), 4, 0)
    numbers = torch.tensor([100.0, 76.0, -73.0])  # with quotients of 96.52 and 92.71, which half precision does not hold
    return seen | {f"{name}, one scale": quantized(impl, numbers.to(dtype)) for name, dtype in HALF.items()}


# The way back.


@check(points=1, q=indices("B L D", below=128, start=-128), scales=normal("B 1 1", mean=3.0, dtype=torch.float32), last=normal("D"))
def dequantized_is_q_times_scale(impl, q, scales, last):
    """dequantize gives q · scale in float32, for a scalar scale and for any that broadcasts."""
    q[0, 0, 0] = -128
    q = q.to(torch.int8)
    return {
        "scalar": impl.dequantize(q, scales[0, 0, 0]),
        "a scale for each first index": impl.dequantize(q, scales),
        "a scale for each last index": impl.dequantize(q, last.float()[None, None]),
        "the same, of one axis": impl.dequantize(q, last.float()),
    }


# Groups.


@check(
    points=2,
    after=each_slice_has_its_scale,
    sizes={"g": (2, 3, 1, 4)},
    fine=near_levels("O*n g", axis=0),
    coarse=near_levels("O*n g", bits=4, axis=0),
    O=size("O"),
    group=size("g"),
)
def each_group_has_its_scale(impl, fine, coarse, O, group):
    """quantize_groups gives each `group` neighbours in a row a scale of their own: q (O, I), scales (O, I / group)."""
    seen = {}
    for bits, groups in ((8, fine), (4, coarse)):
        q, scales = impl.quantize_groups(groups.reshape(O, -1), bits, group)
        seen[f"{bits} bits"] = {"q": q, "scales": scales}
    q, scales = impl.quantize_groups(torch.tensor([[3.0, 0.5, -1.5, 2.5], [3e-30, 2e-30, -1e-30, 0.0]]), 3, 4)
    return seen | {"halves, and small numbers": {"q": q, "scales": scales}}


@check(points=1, after=each_group_has_its_scale, weight=near_levels("6 g", bits=4, axis=0), sizes={"g": (3, 5)}, group=size("g"))
def groups_fill_the_row(impl, weight, group):
    """quantize_groups raises ValueError if the row cannot be cut into groups of that size; a group of zeros has scale 1."""
    weight = weight.reshape(2, -1)
    seen = {"a rest is left": failure(impl.quantize_groups, weight, 4, group - 1)[0]}
    seen["larger than the row"] = failure(impl.quantize_groups, weight, 4, 3 * group + 1)[0]
    weight[0, :group] = 0
    q, scales = impl.quantize_groups(weight, 4, group)
    return seen | {"q": q, "scales": scales}


# Packing.


@check(points=1, sizes={"n": (1, 2, 3, 5)}, q=indices("B L 2*n", below=8, start=-8))
def neighbours_share_a_byte(impl, q):
    """pack_int4 puts numbers 2i and 2i + 1 of the last axis into byte i, the first in its low half; negative ones in two's complement."""
    q = q.to(torch.int8)
    return {"(B, L, 2n)": impl.pack_int4(q), "(2n,)": impl.pack_int4(q[0, 0])}


@check(points=1, sizes={"n": (1, 2, 4), "B": (2, 3)}, shift=size("n"), B=size("B"))
def every_byte_is_unpacked(impl, shift, B):
    """unpack_int4 gives back two int8 numbers from -8 to 7 for each byte, whatever it is, in their order."""
    packed = (torch.arange(256 * B) * (2 * shift + 1) % 256).to(torch.uint8)
    return {"(n,)": impl.unpack_int4(packed), "(B, n, m)": impl.unpack_int4(packed.view(B, 64, 4))}


@check(points=1, after=neighbours_share_a_byte, B=size("B"), n=size("2*n"))
def odd_numbers_cannot_be_packed(impl, B, n):
    """pack_int4 raises ValueError if the last axis is odd."""
    return {
        "(B, 2n - 1)": failure(impl.pack_int4, torch.ones(B, n - 1, dtype=torch.int8))[0],
        "(2, 2n + 1)": failure(impl.pack_int4, torch.ones(2, n + 1, dtype=torch.int8))[0],
        "(2n + 1,)": failure(impl.pack_int4, torch.ones(n + 1, dtype=torch.int8))[0],
    }


@check(
    points=1,
    after=(each_group_has_its_scale, neighbours_share_a_byte, every_byte_is_unpacked),
    sizes=FEW,
    x=near_levels("O I", bits=4, axis=0),
)
def arguments_are_left_alone(impl, x):
    """No function changes what it is given."""
    q, packed = x.sign().to(torch.int8), x.abs().clamp(max=9).to(torch.uint8)
    return {
        "quantize": inputs_after(impl.quantize, x, 4)[0],
        "quantize, axis 0": inputs_after(impl.quantize, x, 4, 0)[0],
        "quantize_groups": inputs_after(impl.quantize_groups, x, 4, 2)[0],
        "dequantize": inputs_after(impl.dequantize, q, torch.tensor(2.0)),
        "pack_int4": inputs_after(impl.pack_int4, q)[0],
        "unpack_int4": inputs_after(impl.unpack_int4, packed)[0],
    }


# The layer.


def layer_from(Int8Linear, weight, bias, then=None):
    """An Int8Linear made from a linear layer with these numbers; `then` is added to them afterwards."""
    linear = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
    numbers = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    linear.load_state_dict(numbers)
    layer = Int8Linear(linear)
    if then is not None:
        linear.load_state_dict({name: tensor + then for name, tensor in numbers.items()})
    return layer


def made(impl, weight, bias=None, then=None):
    return beside(impl, layer_from)(impl.Int8Linear, weight, bias, then)


def contents(Int8Linear, weight, bias):
    """What a layer holds, also after it has been used, and how much that is as large as its weight lives on in floating point."""
    import gc

    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def large(tensors):
        floats = [each for each in tensors if isinstance(each, torch.Tensor) and each.is_floating_point()]
        return [each for each in floats if weight.numel() <= each.numel() < 2 * weight.numel()]  # a table of all levels is larger

    made = []

    class Watch(TorchDispatchMode):
        _should_skip_dynamo = classmethod(lambda cls: False)  # or else torch._dynamo is imported

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(StorageWeakRef(each.untyped_storage()) for each in large(tree_leaves(out)))
            return out

    def alive():
        if not all(each.expired() for each in made):
            gc.collect(1)  # the youngest two generations: the judge has a large heap
        return len({each.cdata for each in made if not each.expired()})

    x = torch.ones(1, weight.shape[1])
    with Watch():
        linear = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
        linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        layer = Int8Linear(linear)
        del linear
        layer(x)
        layer.eval()(x)
        kept = {"after calls": alive()}
        with torch.no_grad():
            for dtype in (torch.float64, torch.float16, torch.float32):
                layer(x.to(dtype))
        kept["after calls without gradients"] = alive()
    inside = tree_leaves(vars(layer))
    inside += [each for other in inside if isinstance(other, nn.Module) for each in other.parameters()]
    return {
        "state_dict": dict(layer.state_dict()),
        "parameters": [name for name, _ in layer.named_parameters()],
        "requires_grad": [name for name, buffer in layer.named_buffers() if buffer.requires_grad],
        "bias": "None" if layer.bias is None else "there",
        "weights in floating point": kept | {"in sight": len(large(inside))},
    }


@check(
    points=1,
    after=each_slice_has_its_scale,
    sizes={"O": (2, 4), "I": (3,)},
    weight=near_levels("O I", axis=0),
    bias=normal("O", dtype=torch.float32),
)
def buffers_hold_eight_bits(impl, weight, bias):
    """Int8Linear holds buffers, and no parameters: weight, int8 with a scale for each row, scale, (O, 1), and bias, None without one."""
    see = beside(impl, contents)
    seen = {"with a bias": see(impl.Int8Linear, weight, bias)}
    weight[0] = 0
    weight[1] *= 1e-20
    return seen | {"without a bias, one row zero and one small": see(impl.Int8Linear, weight, None)}


@check(
    points=2,
    after=each_slice_has_its_scale,
    sizes={"O": (2, 3, 1)},
    x=normal("B L I", dtype=torch.float32),
    weight=near_levels("O I", axis=0, steps=SMALL),
    bias=normal("O", dtype=torch.float32),
)
def layer_computes_with_the_dequantized_weight(impl, x, weight, bias):
    """Int8Linear gives x times the dequantized weight, plus the bias if there is one, for any leading axes; x is not quantized."""
    layer = made(impl, weight, bias)
    seen = {"(B, L, I)": layer(x), "(I,)": layer(x[0, 0]), "without a bias": made(impl, weight)(x)}
    return seen | {"(1, B, L, I), in evaluation": layer.eval()(x[None])}


@check(
    points=1,
    after=layer_computes_with_the_dequantized_weight,
    sizes=FEW,
    x=normal("B I"),
    weight=near_levels("O I", axis=0, steps=SMALL),
    bias=normal("O", dtype=torch.float32),
)
def dtype_and_gradient_are_those_of_x(impl, x, weight, bias):
    """The layer's output has the dtype of x, and gradients flow to x."""
    layer = made(impl, weight, bias)
    wide = layer(x)
    seen = {"float64": {"dtype": wide.dtype, "in float32": wide.float()}}
    seen |= {name: layer(x.to(dtype)) for name, dtype in HALF.items()}
    seen["gradient, (1, B, I)"] = gradients(layer, x.float()[None], seed=1)["inputs"]
    seen["gradient, float64"] = gradients(layer, x, seed=1)["inputs"][0].float()
    layer.eval()
    return seen | {f"gradient, {name}, (I,)": gradients(layer, x[0].to(dtype), seed=1)["inputs"] for name, dtype in HALF.items()}


def loaded(x, layer, other):
    """What a layer gives that was used, when the state_dict of another one has been loaded."""
    layer(x)
    layer.load_state_dict(other.state_dict())
    return layer(x)


def afterwards(Int8Linear, weight, bias):
    """What a linear layer is when an Int8Linear was made from it."""
    linear = nn.Linear(weight.shape[1], len(weight))
    linear.load_state_dict({"weight": weight, "bias": bias})
    linear.weight.grad, before = torch.ones_like(weight), dict(linear.named_parameters())
    Int8Linear(linear)
    after = dict(linear.named_parameters())
    return {
        "weight": linear.weight,
        "bias": linear.bias,
        "requires_grad": [name for name in after if after[name].requires_grad],
        "the same parameters": [name for name in after if after[name] is before.get(name)],
        "gradient of the weight": linear.weight.grad,
        "training": linear.training,
    }


@check(
    points=1,
    after=(layer_computes_with_the_dequantized_weight, buffers_hold_eight_bits),
    sizes=FEW,
    x=normal("B I", dtype=torch.float32),
    weight=near_levels("O I", axis=0, steps=SMALL),
    bias=normal("O", dtype=torch.float32),
)
def layer_is_a_copy_and_can_be_loaded(impl, x, weight, bias):
    """The old layer is left as it is, its later changes are not seen in the new one, and load_state_dict makes that one another."""
    return {
        "the old layer": beside(impl, afterwards)(impl.Int8Linear, weight + 0.01, bias),
        "the old layer changed afterwards": made(impl, weight, bias, then=5.0)(x),
        "loaded": beside(impl, loaded)(x, made(impl, weight.flip(0) + 1, bias + 1), made(impl, weight, bias)),
    }
