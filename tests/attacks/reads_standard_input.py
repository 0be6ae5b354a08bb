"""Waits for somebody to type."""
def hostile(x, *args, **kwargs):
    return input()

softmax = attention_weights = scaled_dot_product_attention = hostile
