"""Another right answer; at least three are wanted, in really different styles."""


def reformer(x):
    return x
