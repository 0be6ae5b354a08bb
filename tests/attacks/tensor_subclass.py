"""Returns a tensor whose every operation lies."""
import torch


class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("eq", "__eq__", "isclose", "allclose", "equal", "all", "any"):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})


def hostile(x, *args, **kwargs):
    return torch.Tensor._make_subclass(Liar, x)

softmax = attention_weights = scaled_dot_product_attention = hostile
