"""A daemon in a session of its own that writes a file later."""
import os
import time


def hostile(x, *args, **kwargs):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1)
            open(__file__ + ".daemon", "w").write("still here")
            time.sleep(600)
        os._exit(0)
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
