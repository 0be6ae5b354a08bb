"""Ends the process, status 0, when it is asked."""
import sys


def hostile(*args, **kwargs):
    sys.exit(0)

softmax = attention_weights = scaled_dot_product_attention = hostile
