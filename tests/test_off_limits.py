"""What is off limits is told before running, by call and line, and refused while running, however it is reached."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from rooms import ROOMS, TOPICS

from kata.guard import resolve
from kata.loading import parsed
from kata.offlimits import scan
from kata.verdict import Verdict

ROOM = ROOMS["attention"]
RULES = ROOM.topic.off_limits
CONTRACT = ["softmax", "attention_weights", "scaled_dot_product_attention"]
Grade = Callable[..., Verdict]


def found(source: str) -> list[tuple[int, str]]:
    return [(use.line, use.name) for use in scan(ast.parse(source), RULES, CONTRACT)]


@pytest.mark.parametrize(
    "source, line, name",
    [
        ("import torch\ndef softmax(x, dim):\n    return torch.softmax(x, dim)", 3, "torch.softmax"),
        ("import torch as t\ndef softmax(x, dim):\n    return t.softmax(x, dim)", 3, "torch.softmax"),
        ("import torch.nn.functional as F\ndef softmax(x, dim):\n    return F.softmax(x, dim)", 3, "torch.nn.functional.softmax"),
        ("from torch.nn import functional\ndef softmax(x, dim):\n    return functional.softmax(x, dim)", 3, "torch.nn.functional.softmax"),
        ("from torch.nn.functional import softmax as s\ndef softmax(x, dim):\n    return s(x, dim)", 3, "torch.nn.functional.softmax"),
        (
            "from torch.nn.functional import *\ndef attention_weights(q, k):\n    return softmin(q @ k.mT, -1)",
            3,
            "torch.nn.functional.softmin",
        ),
        ("import torch\ndef softmax(x, dim):\n    return getattr(torch, 'softmax')(x, dim)", 3, "torch.softmax"),
        ("import torch\ndef softmax(x, dim):\n    return torch.Tensor.softmax(x, dim)", 3, "torch.Tensor.softmax"),
        (
            "from torch import nn\nclass A:\n    s = nn.Softmax(-1)\ndef softmax(x, dim):\n    return A.s(x)",
            3,
            "torch.nn.Softmax",
        ),
        ("import torch\nsoft = torch.softmax\ndef softmax(x, dim):\n    return soft(x, dim)", 2, "torch.softmax"),
        (
            "import torch\ndef helper(x):\n    return torch.log_softmax(x, 0).exp()\ndef softmax(x, dim):\n    return helper(x)",
            3,
            "torch.log_softmax",
        ),
        ("import torch\ndef softmax(x, dim):\n    return torch._C._nn.softmax(x)", 3, "torch._C"),
        ("import torch\ndef softmax(x, dim):\n    return torch.ops.aten._softmax(x, dim, False)", 3, "torch.ops"),
    ],
    ids=range(13),
)
def test_scan_tells_call_and_line(source: str, line: int, name: str) -> None:
    assert (line, name) in found(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ndef softmax(x, dim):\n    '''Like torch.softmax.'''\n    return x  # not torch.softmax",
        "def softmax(x, dim):\n    return x\ndef attention_weights(q, k):\n    return softmax(q @ k.mT, -1)",
        "import torch\ndef softmax(x, dim):\n    return x\nif __name__ == '__main__':\n    print(torch.softmax(x, 0))",
        "import torch\ndef softmax(x, dim):\n    return x\ndef test_softmax():\n    assert softmax(x, 0) == torch.softmax(x, 0)",
        "class A:\n    def softmax(self, x):\n        return x\ndef softmax(x, dim):\n    return A().softmax(x)",
        "import torch\ndef softmax(x, dim):\n    return torch.exp(x - torch.logsumexp(x, dim, keepdim=True))",
        "import torch\ndef softmax(x, dim):\n    return torch.classes.there.is_none",  # which PyTorch answers with a RuntimeError
    ],
    ids=range(7),
)
def test_scan_leaves_right_answers_alone(source: str) -> None:
    assert found(source) == []


def test_scan_ends_soon_whatever_it_reads() -> None:
    source = "import torch\ndef softmax(x, dim):\n" + f"    torch{'.functional.torch' * 200}\n" * 3
    began = time.process_time()
    assert found(source) == []
    assert time.process_time() - began < 2.0


def test_any_number_of_threads_may_read_answers() -> None:
    source = ROOMS["transformer"].solution
    raised: list[BaseException] = []

    def read(frames: int) -> None:
        if frames:
            return read(frames - 1)
        try:
            for _ in range(40):
                parsed(source)
        except BaseException as error:
            raised.append(error)

    def dawdle(phase: str, info: dict[str, Any]) -> None:  # in the middle of a tree, so that the other thread has its turn
        for _ in range(200):
            pass

    interval = sys.getswitchinterval()
    gc.callbacks.append(dawdle)
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read, args=(frames,)) for frames in (0, 12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.callbacks.remove(dawdle)
    assert raised == []


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_name_off_limits_exists_and_the_solution_uses_none(topic) -> None:
    for name, why in topic.off_limits:
        assert why.strip()
        if not name.startswith("aten::"):
            resolve(name)
    assert scan(ast.parse(ROOMS[topic.name].solution), topic.off_limits, []) == []


def test_a_call_that_is_off_limits_is_told_and_nothing_is_run(verdict_on: Grade) -> None:
    source = ROOM.solution.replace("top = x.amax(dim, keepdim=True).detach()", "return torch.softmax(x, dim)") + "\nprint('ran')\n"
    verdict = verdict_on("attention", source)
    assert verdict.points == 0
    line = 1 + source[: source.index("return torch.softmax")].count("\n")
    assert f"line {line}: torch.softmax — the softmax is what you are here to write" in verdict.results[0].message
    assert verdict.printed == ""


@pytest.mark.parametrize(
    "expression",
    [
        "x.softmax(dim)",
        "(lambda f: f(x, dim))(vars(torch)['softmax'])",
        "vars(torch.nn)['Softmax'](dim)(x)",
        "x.log_softmax(dim).exp()",
        "vars(torch.nn.functional)['soft' + 'min'](-x, dim=dim)",
        "getattr(getattr(torch, 'o' + 'ps').aten, '_softmax')(x, dim, False)",
        "getattr(x, 'soft' + 'max')(dim)",
    ],
)
def test_guard_refuses_what_no_scan_can_see(expression: str, verdict_on: Grade) -> None:
    source = ROOM.solution.replace("top = x.amax(dim, keepdim=True).detach()", f"return {expression}")
    result = verdict_on("attention", source).results[0]
    assert result.status == "failed"
    line = 1 + source[: source.index(expression)].count("\n")
    assert f"is off limits (line {line}): the softmax is what you are here to write" in result.message


def test_catching_the_refusal_does_not_help(verdict_on: Grade) -> None:
    source = ROOM.solution.replace(
        "top = x.amax(dim, keepdim=True).detach()",
        "try:\n        x.softmax(dim)\n    except Exception:\n        pass\n    top = x.amax(dim, keepdim=True).detach()",
    )
    verdict = verdict_on("attention", source)
    assert verdict.points == 0
    assert "`torch.Tensor.softmax` is off limits" in verdict.results[0].message


def test_fused_attention_is_refused_under_every_name(verdict_on: Grade) -> None:
    source = ROOM.solution.replace(
        "return attention_weights(q, k, mask) @ v", "return vars(torch.nn.functional)['scaled_dot_product' + '_attention'](q, k, v, mask)"
    )
    verdict = verdict_on("attention", source)
    status = {result.name: result.message for result in verdict.results}
    assert "attention is what you are here to write" in status["output_is_the_weighted_mean"]
