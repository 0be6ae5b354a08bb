"""SIGKILL to itself."""
import os
import signal


def hostile(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

softmax = attention_weights = scaled_dot_product_attention = hostile
