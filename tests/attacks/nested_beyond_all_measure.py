"""Replies with JSON that is nested a hundred thousand deep."""
import os
import struct


def hostile(x, *args, **kwargs):
    head = b"[" * 100_000 + b"]" * 100_000
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<II", len(head), 0) + head)
        except OSError:
            continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
