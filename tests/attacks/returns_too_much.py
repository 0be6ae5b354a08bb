"""Returns a tensor that looks like a terabyte, and a list that holds itself."""
import torch


def hostile(x, *args, **kwargs):
    if x.ndim == 3:
        return torch.zeros(1).expand(1 << 20, 1 << 18)
    endless = []
    endless.append(endless)
    return endless

softmax = attention_weights = scaled_dot_product_attention = hostile
