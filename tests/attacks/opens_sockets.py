"""Asks a helper over loopback, and listens for one."""
import socket


def hostile(*args, **kwargs):
    server = socket.create_server(("127.0.0.1", 0))
    return socket.create_connection(server.getsockname())

softmax = attention_weights = scaled_dot_product_attention = hostile
