"""Starts a shell."""
import subprocess


def hostile(x, *args, **kwargs):
    subprocess.Popen(["sh", "-c", f"sleep 1; echo still here > {__file__}.daemon; sleep 600"], start_new_session=True)
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
