"""Another right answer; at least three are wanted, in really different styles."""


def mla(x):
    return x
