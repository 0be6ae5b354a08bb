"""Writes full marks where it thinks that marks are kept."""
import json
import os


def hostile(x, *args, **kwargs):
    for folder in (os.getcwd(), os.path.dirname(__file__), "/tmp", "/dev/shm"):
        for name in ("result.json", ".kata/progress.json", "kata_attack_was_here"):
            try:
                with open(f"{folder}/{name}", "w") as file:
                    json.dump({"attention": {"points": 17, "passed": True}}, file)
            except OSError:
                continue
    return x

softmax = attention_weights = scaled_dot_product_attention = hostile
