"""Never answers."""
def hostile(*args, **kwargs):
    while True:
        pass

softmax = attention_weights = scaled_dot_product_attention = hostile
