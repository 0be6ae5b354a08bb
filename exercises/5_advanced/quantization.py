"""Quantization.

To write one token a language model reads all of its weights: seven billion
numbers of two bytes are 14 GB, for a few operations each. Nearly all of these
numbers are small, and none of them is needed to four digits. Stored in eight
bits, or in four, they fit into a smaller memory and are read in a half or a
quarter of the time; the question is what the rounding costs, and it hangs on
how many numbers have to share one scale.

Write symmetric quantization with a scale for a whole tensor or for each slice
of it, and the way back; a linear layer with weights of eight bits; the packing
of two four-bit numbers into a byte; and weights with a scale for each group.

I inputs and O outputs of a linear layer, whose weight is (O, I).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def quantize(x: Tensor, bits: int = 8, axis: int | None = None) -> tuple[Tensor, Tensor]:
    """Round x to integers times a scale, which is as small as the largest number allows.

    All that share a scale, all of x or one slice of it, become integers from
    -top to top, with top = 2 ** (bits - 1) - 1, so that zero stays zero and
    x and -x are treated alike. The scale is their largest absolute value
    divided by top; it is 1 where they are all zero. q is x / scale, rounded to
    the nearest integer, halves to the even one, as torch.round does. So
    abs(x - q * scale) is at most scale / 2, but for rounding in float32.

    Args:
        x: any shape with at least one axis; float32, float16 or bfloat16. It
            is left as it is.
        bits: 2 to 8.
        axis: the axis that keeps its own scales: each slice x[i] along it has
            one. It may be negative. None: all of x shares one scale.

    Returns:
        q: int8, of the shape of x.
        scale: float32, whatever the dtype of x. With axis=None it is a scalar,
            a tensor without axes; else it has as many axes as x, all of size 1
            but the one named. In either case q * scale has the shape of x.

    Source: Dettmers et al. 2022, "LLM.int8()", section 2.1 (absmax
    quantization); Jacob et al. 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", section 2.1.

    >>> quantize(torch.tensor([[0.1, -1.27], [40.0, 127.0]]), axis=0)
    (tensor([[  10, -127],
            [  40,  127]], dtype=torch.int8), tensor([[0.0100],
            [1.0000]]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """The numbers that quantized ones stand for.

    Args:
        q: integers, int8.
        scale: float32, of a shape that broadcasts to that of q.

    Returns:
        q times scale, float32, of the shape of q.

    Source: Dettmers et al. 2022, "LLM.int8()", section 2.1.

    >>> dequantize(torch.tensor([100, -7], dtype=torch.int8), torch.tensor(0.5))
    tensor([50.0000, -3.5000])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def quantize_groups(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Quantize a weight with a scale for each `group` neighbours in a row.

    Args:
        weight: (O, I).
        bits: 2 to 8.
        group: how many share a scale; divides I. A group lies in one row: in
            row o its columns are from g * group up to (g + 1) * group.

    Returns:
        q: int8, (O, I); each group is what quantize makes of it alone.
        scales: float32, (O, I / group): q[o, i] * scales[o, i // group] is
            near weight[o, i].

    Raises:
        ValueError: I is not divisible by group.

    Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized
    LLMs", section 2 (block-wise quantization).

    >>> quantize_groups(torch.tensor([[7.0, -3.0, 0.5, 0.7]]), bits=4, group=2)
    (tensor([[ 7, -3,  5,  7]], dtype=torch.int8), tensor([[1.0000, 0.1000]]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


def pack_int4(q: Tensor) -> Tensor:
    """Put neighbours of the last axis into one byte, two by two.

    Each number becomes four bits, in two's complement as in an int8: 7 is
    0111, -1 is 1111, -8 is 1000. The first of two neighbours is in the low
    half of the byte, the second in the high half.

    Args:
        q: int8, (..., 2n), numbers from -8 to 7.

    Returns:
        uint8, (..., n).

    Raises:
        ValueError: the last axis is odd.

    Source: ONNX, "4 bit integer types", packing and unpacking.

    >>> pack_int4(torch.tensor([1, 2, -1, 0], dtype=torch.int8))
    tensor([33, 15], dtype=torch.uint8)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def unpack_int4(packed: Tensor) -> Tensor:
    """The numbers that pack_int4 packed, in their order.

    Args:
        packed: uint8, (..., n), any bytes.

    Returns:
        int8, (..., 2n), numbers from -8 to 7.

    Source: ONNX, "4 bit integer types", packing and unpacking.

    >>> unpack_int4(torch.tensor([33, 15], dtype=torch.uint8))
    tensor([ 1,  2, -1,  0], dtype=torch.int8)
    """
    # TODO: write it as described above.
    raise NotImplementedError


class Int8Linear(nn.Module):
    """A linear layer whose weight is held in eight bits, with a scale for each output.

    Made from a trained layer, to be used, not to be trained: it has no
    parameters, and nothing in it requires a gradient. What it holds are
    buffers, which state_dict saves and load_state_dict loads; no weight in
    floating point is kept beside them, not even after a call. They are copies,
    so that nothing that is done later to the layer it was made from changes
    this one; that layer is left as it is.

    Args:
        linear: an nn.Linear in float32, with or without a bias.

    Attributes:
        weight: (O, I), int8: the weight of linear, quantized to 8 bits with a
            scale for each row.
        scale: (O, 1), float32.
        bias: (O,), float32, the bias of linear; None if it has none.

    Source: Dettmers et al. 2022, "LLM.int8()", section 3.1.

    >>> layer = Int8Linear(nn.Linear(3, 2))
    >>> layer(torch.zeros(5, 3)).shape, layer.weight.dtype
    (torch.Size([5, 2]), torch.int8)
    """

    def __init__(self, linear: nn.Linear):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """What a linear layer with the dequantized weight gives.

        Args:
            x: (..., I), any floating-point dtype; it is not quantized.

        Returns:
            (..., O), in the dtype of x. Gradients flow to x.
        """
        # TODO: write it as described above.
        raise NotImplementedError
