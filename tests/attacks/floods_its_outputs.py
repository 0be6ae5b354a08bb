"""Prints without end."""
import sys


def hostile(x, *args, **kwargs):
    while True:
        print("passed " * 1000)
        print("passed " * 1000, file=sys.stderr)

softmax = attention_weights = scaled_dot_product_attention = hostile
