"""Replies with lists that are nested a hundred thousand deep."""
import os
import struct

from msgpack import packb


def hostile(x, *args, **kwargs):
    head = packb([{}, b"\x91" * 100_000 + b"\x90"])
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<II", len(head), 0) + head)
        except OSError:
            continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
