"""Patterns for what can be said by patterns; templates for the rest."""

import itertools
import re
from string import Template

TURN = Template("<|im_start|>$role\n$content<|im_end|>\n")
SHOT = Template("Input: $x\nOutput:$y")


def render_chat(messages, add_generation_prompt=True):
    for message in messages:
        if not re.fullmatch("system|user|assistant", message["role"]):
            raise ValueError(message["role"])
        if re.search(r"<\|im_(start|end)\|>", message["content"]):
            raise ValueError(message["content"])
    turns = "".join(map(TURN.substitute, messages))
    return turns + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def few_shot_prompt(instruction, examples, query):
    blocks = itertools.chain([instruction], (SHOT.substitute(x=x, y=" " + y) for x, y in examples), [SHOT.substitute(x=query, y="")])
    return "\n\n".join(blocks)


def sft_labels(segments, ignore_index=-100):
    pairs = [(i, i if role == "assistant" else ignore_index) for role, ids in segments for i in ids]
    return [i for i, _ in pairs], [label for _, label in pairs]


def fit_history(messages, max_tokens, count):
    has_system = messages[0]["role"] == "system"
    head, tail = messages[:has_system], messages[has_system:]
    for start, message in enumerate(tail):
        kept = [*head, *tail[start:]]
        if message["role"] == "user" and sum(map(count, kept)) <= max_tokens:
            return kept
    raise ValueError(f"nothing fits into {max_tokens}")


def stop_stream(pieces, stops):
    if not stops:
        yield from pieces
        return
    whole = re.compile("|".join(re.escape(stop) for stop in sorted(stops, key=len)))
    beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
    at_the_end = re.compile("(?:" + "|".join(map(re.escape, sorted(beginnings, key=len, reverse=True))) + r")\Z") if beginnings else None
    waiting = ""
    for piece in pieces:
        waiting += piece
        found = whole.search(waiting)
        if found:
            yield waiting[: found.start()]
            return
        partial = at_the_end and at_the_end.search(waiting)
        cut = partial.start() if partial else len(waiting)
        if cut:
            yield waiting[:cut]
        waiting = waiting[cut:]
    if waiting:
        yield waiting


def self_consistency(answers):
    if not answers:
        raise ValueError("nobody answered")
    return max(dict.fromkeys(answers), key=answers.count)
