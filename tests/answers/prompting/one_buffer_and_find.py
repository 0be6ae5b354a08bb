"""The way most servers do it: one buffer, str.find for each stop, the longest overlap with its end held back."""

from collections import Counter


def render_chat(messages, add_generation_prompt=True):
    parts = []
    for m in messages:
        if m["role"] not in {"system", "user", "assistant"}:
            raise ValueError("unknown role: " + m["role"])
        if "<|im_start|>" in m["content"] or "<|im_end|>" in m["content"]:
            raise ValueError("control token in content")
        parts.append("<|im_start|>" + m["role"] + "\n" + m["content"] + "<|im_end|>" + "\n")
    if add_generation_prompt:
        parts.append("<|im_start|>assistant\n")
    return "".join(parts)


def few_shot_prompt(instruction, examples, query):
    prompt = instruction + "\n\n"
    for example in examples:
        prompt += "Input: " + example[0] + "\n"
        prompt += "Output: " + example[1] + "\n\n"
    prompt += "Input: " + query + "\nOutput:"
    return prompt


def sft_labels(segments, ignore_index=-100):
    ids = [token for _, tokens in segments for token in tokens]
    labels = [token if role == "assistant" else ignore_index for role, tokens in segments for token in tokens]
    return ids, labels


def fit_history(messages, max_tokens, count):
    messages = list(messages)
    system = messages[:1] if messages[0]["role"] == "system" else []
    rest = messages[len(system) :]
    while rest and sum(count(m) for m in system + rest) > max_tokens:
        rest.pop(0)
    while rest and rest[0]["role"] == "assistant":
        rest.pop(0)
    if not rest:
        raise ValueError("the newest message is too long")
    return system + rest


def stop_stream(pieces, stops):
    buffer = ""
    for piece in pieces:
        buffer += piece
        places = [buffer.find(stop) for stop in stops if stop in buffer]
        if places:
            yield buffer[: min(places)]
            return
        overlap = 0
        for stop in stops:
            for n in range(1, len(stop)):
                if buffer.endswith(stop[:n]):
                    overlap = max(overlap, n)
        cut = len(buffer) - overlap
        yield buffer[:cut]
        buffer = buffer[cut:]
    yield buffer


def self_consistency(answers):
    if len(answers) == 0:
        raise ValueError("no answers")
    return Counter(answers).most_common(1)[0][0]
