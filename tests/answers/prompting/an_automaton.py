"""stop_stream as an iterator object with one Knuth-Morris-Pratt automaton for each stop string, fed character by character."""

from collections import deque
from collections.abc import Iterator
from typing import Any


class Chat(str):
    def turn(self, role: str, content: str) -> "Chat":
        if role not in ["system", "user", "assistant"]:
            raise ValueError(f"no such role: {role}")
        for token in ("<|im_start|>", "<|im_end|>"):
            if content.find(token) != -1:
                raise ValueError(f"{token} is not allowed in a message")
        return Chat(f"{self}<|im_start|>{role}\n{content}<|im_end|>\n")


def render_chat(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    chat = Chat()
    for message in messages:
        chat = chat.turn(**message)
    return str(chat) + add_generation_prompt * "<|im_start|>assistant\n"


def few_shot_prompt(instruction: str, examples: list[tuple[str, str]], query: str) -> str:
    lines = [instruction, ""]
    for x, y in examples:
        lines += [f"Input: {x}", f"Output: {y}", ""]
    return "\n".join([*lines, f"Input: {query}", "Output:"])


def sft_labels(segments: list[tuple[str, list[int]]], ignore_index: int = -100) -> tuple[list[int], list[int]]:
    ids, labels = [], []
    for role, tokens in segments:
        learned = role == "assistant"
        for token in tokens:
            ids.append(token)
            labels.append(token if learned else ignore_index)
    return ids, labels


def fit_history(messages: list[dict[str, str]], max_tokens: int, count: Any) -> list[dict[str, str]]:
    queue: deque[dict[str, str]] = deque()
    kept: list[dict[str, str]] = []
    budget = max_tokens
    system = None
    for i, message in enumerate(messages):
        if i == 0 and message["role"] == "system":
            system = message
            budget -= count(message)
    for message in reversed(messages):
        if message is system:
            break
        budget -= count(message)
        if budget < 0:
            break
        queue.appendleft(message)
        if message["role"] == "user":
            kept = list(queue)
    if not kept:
        raise ValueError("too long")
    return kept if system is None else [system, *kept]


class Automaton:
    def __init__(self, word: str):
        self.word, self.state = word, 0
        self.fall = [0] * len(word)
        k = 0
        for i in range(1, len(word)):
            while k and word[i] != word[k]:
                k = self.fall[k - 1]
            k += word[i] == word[k]
            self.fall[i] = k

    def step(self, character: str) -> bool:
        while self.state and self.word[self.state] != character:
            self.state = self.fall[self.state - 1]
        self.state += self.word[self.state] == character
        return self.state == len(self.word)


class Stream(Iterator[str]):
    def __init__(self, pieces: Any, stops: Any):
        self.pieces, self.automata = iter(pieces), [Automaton(stop) for stop in stops]
        self.held, self.over = "", False

    def __next__(self) -> str:
        if self.over:
            raise StopIteration
        try:
            piece = next(self.pieces)
        except StopIteration:
            self.over = True
            return self.held
        out = ""
        for character in piece:
            self.held += character
            complete = [automaton for automaton in self.automata if automaton.step(character)]
            if complete:
                self.over = True
                return out + self.held[: -max(len(automaton.word) for automaton in complete)]
            keep = max((automaton.state for automaton in self.automata), default=0)
            cut = len(self.held) - keep
            out, self.held = out + self.held[:cut], self.held[cut:]
        return out


def stop_stream(pieces: Any, stops: Any) -> Stream:
    return Stream(pieces, stops)


def self_consistency(answers: list[str]) -> str:
    if answers == []:
        raise ValueError("an empty list has no majority")
    ranked = sorted(set(answers), key=lambda answer: (-answers.count(answer), answers.index(answer)))
    return ranked[0]
