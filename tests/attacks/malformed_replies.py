"""Writes sizes that are lies and headers that are none."""
import os
import struct

JUNK = [
    struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF),
    struct.pack("<II", 5, 0) + b"\x91\x91\x91\x91\xc1",
    struct.pack("<II", 1, 1 << 27) + b"\x90",
    b"\x80\x04cos\nsystem\n(S'true'\ntR.",
]
calls = 0


def hostile(x, *args, **kwargs):
    global calls
    calls += 1
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, JUNK[calls % len(JUNK)])
        except OSError:
            continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
