"""Takes all the memory it can get."""
import torch

kept = []


def hostile(*args, **kwargs):
    while True:
        kept.append(torch.ones(64 * 1024 * 1024))

softmax = attention_weights = scaled_dot_product_attention = hostile
