"""Replies with a layout of a tensor that no memory holds."""
import json
import os
import struct


def hostile(x, *args, **kwargs):
    head = json.dumps([{"result": {"tensor": 0}}, [["float64", [1 << 20, 1 << 20, 1 << 20]]]]).encode()
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<II", len(head), 1 << 20) + head)
        except OSError:
            continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
