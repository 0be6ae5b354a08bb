"""Waits for ever without using the processor."""
import time


def hostile(*args, **kwargs):
    time.sleep(1e6)

softmax = attention_weights = scaled_dot_product_attention = hostile
