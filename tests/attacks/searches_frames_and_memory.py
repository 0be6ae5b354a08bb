"""Looks for the reference in frames, modules and everything the collector knows."""
import gc
import sys
import types


def candidates():
    frame = sys._getframe()
    while frame:
        yield from list(frame.f_locals.values()) + list(frame.f_globals.values())
        frame = frame.f_back
    for module in list(sys.modules.values()):
        yield from list(vars(module).values()) if hasattr(module, "__dict__") else []
    yield from gc.get_objects()


def hostile(*args, **kwargs):
    for found in candidates():
        if isinstance(found, types.FunctionType) and found.__name__ == "scaled_dot_product_attention" and found is not hostile:
            return found(*args, **kwargs)
        if isinstance(found, types.ModuleType) and "reference" in found.__name__ and hasattr(found, "attention_weights"):
            return found.attention_weights(*args, **kwargs)
    raise LookupError("no reference here")

softmax = attention_weights = scaled_dot_product_attention = hostile
