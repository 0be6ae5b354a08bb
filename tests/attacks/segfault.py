"""Reads the address zero."""
import ctypes


def hostile(*args, **kwargs):
    ctypes.string_at(0)

softmax = attention_weights = scaled_dot_product_attention = hostile
