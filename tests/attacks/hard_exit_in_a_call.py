"""Ends the process without a trace, status 0."""
import os


def hostile(*args, **kwargs):
    os._exit(0)

softmax = attention_weights = scaled_dot_product_attention = hostile
