"""stop_stream keeps the places at which a stop may have begun and yields single characters; recursion for the history."""

import itertools


def check(message):
    if message["role"] != "system" and message["role"] != "user" and message["role"] != "assistant":
        raise ValueError("role")
    pieces = message["content"].split("<|im_")
    if any(piece.startswith(("start|>", "end|>")) for piece in pieces[1:]):
        raise ValueError("content")


def render_chat(messages, add_generation_prompt=True):
    if not messages:
        return "<|im_start|>assistant\n" if add_generation_prompt else ""
    *earlier, last = messages
    check(last)
    text = "<|im_start|>{}\n{}<|im_end|>\n".format(last["role"], last["content"])
    return render_chat(earlier, False) + text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def few_shot_prompt(instruction, examples, query):
    return f"{instruction}\n\n" + "".join("Input: {}\nOutput: {}\n\n".format(*pair) for pair in examples) + f"Input: {query}\nOutput:"


def sft_labels(segments, ignore_index=-100):
    ids = [*itertools.chain.from_iterable(tokens for _, tokens in segments)]
    labels = ids[:]
    at = 0
    for role, tokens in segments:
        if role != "assistant":
            for i in range(at, at + len(tokens)):
                labels[i] = ignore_index
        at += len(tokens)
    return ids, labels


def run(messages, left, count):
    """The longest run at the end that fits and begins with the user, or None."""
    if not messages or count(messages[-1]) > left:
        return None
    longer = run(messages[:-1], left - count(messages[-1]), count)
    if longer is not None:
        return longer + messages[-1:]
    return messages[-1:] if messages[-1]["role"] == "user" else None


def fit_history(messages, max_tokens, count):
    if messages[0]["role"] == "system":
        rest = fit_history(messages[1:], max_tokens - count(messages[0]), count)
        return messages[:1] + rest
    for start in range(len(messages)):
        fitting = run(messages[start:], max_tokens, count)
        if fitting is not None and fitting[-1] is messages[-1]:
            return fitting
    raise ValueError("does not fit")


def stop_stream(pieces, stops):
    held = []
    candidates = []  # (place in held, stop)
    for piece in pieces:
        for character in piece:
            candidates += [(len(held), stop) for stop in stops]
            held.append(character)
            candidates = [(place, stop) for place, stop in candidates if stop[len(held) - 1 - place] == character]
            complete = [place for place, stop in candidates if len(stop) == len(held) - place]
            if complete:
                yield from held[: min(complete)]
                return
            safe = min((place for place, _ in candidates), default=len(held))
            yield from held[:safe]
            held = held[safe:]
            candidates = [(place - safe, stop) for place, stop in candidates]
    yield from held


def self_consistency(answers):
    best, votes = None, 0
    for i, answer in enumerate(answers):
        if answer in answers[:i]:
            continue
        n = sum(other == answer for other in answers)
        if n > votes:
            best, votes = answer, n
    if best is None:
        raise ValueError("no answers at all")
    return best
