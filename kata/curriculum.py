"""The journey: `curriculum.toml`, read and validated."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli

ROOT = Path(__file__).resolve().parent.parent
FILE = "curriculum.toml"

LESSON_KEYS: dict[str, type] = {
    "path": str,
    "title": str,
    "summary": str,
    "minutes": int,
    "papers": list,
    "prerequisites": list,
}
TOPIC_KEYS: dict[str, type] = {**LESSON_KEYS, "hints": list, "off_limits": list}
OPTIONAL_KEYS: dict[str, type] = {"files": bool}
RULE_KEYS: dict[str, type] = {"names": list, "why": str}


class CurriculumError(Exception):
    """The curriculum, or a request for a topic, is not legal; the text says what is."""


@dataclass(frozen=True)
class Lesson:
    """Something to read. Its files share one key, the path, in every tree."""

    root: Path = field(repr=False)
    path: str  # "1_foundations/attention"
    number: str  # "1.2", its place in the journey
    chapter: str
    title: str
    summary: str
    minutes: int
    papers: tuple[str, ...]
    prerequisites: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.split("/")[1]

    @property
    def lesson(self) -> Path:
        return self.root / "lessons" / f"{self.path}.md"

    @property
    def notebook(self) -> Path:
        return self.root / "exercises" / Path(self.path).parent / f"{self.number} {self.title}.ipynb"


@dataclass(frozen=True)
class Topic(Lesson):
    """One kata, and its lesson."""

    hints: tuple[str, ...]
    off_limits: tuple[tuple[str, str], ...]  # (name, why)
    files: bool = False  # whether an answer gets a folder to write to

    @property
    def exercise(self) -> Path:
        return self.root / "exercises" / f"{self.path}.py"

    @property
    def solution(self) -> Path:
        return self.root / "solutions" / f"{self.path}.py"

    @property
    def mistakes(self) -> Path:
        return self.root / "solutions" / f"{self.path}.mistakes.toml"

    @property
    def grader(self) -> Path:
        return self.root / "graders" / f"{self.path}.py"

    @property
    def recorded(self) -> Path:
        return self.root / "recorded" / f"{self.path}.outcomes"


@dataclass(frozen=True)
class Curriculum:
    """All topics, in the order of the journey, and the overviews, which end chapters."""

    topics: tuple[Topic, ...]
    overviews: tuple[Lesson, ...] = ()

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """All there is to read, chapter by chapter."""
        return tuple(sorted((*self.topics, *self.overviews), key=lambda lesson: lesson.number.split(".")[0]))

    def lesson(self, name: str) -> Lesson:
        """The topic or the overview of this name, or path.

        Raises:
            CurriculumError: there is none.
        """
        return next((each for each in self.overviews if name in (each.name, each.path)), None) or self.find(name)

    def find(self, name: str) -> Topic:
        """The topic called "attention" or "1_foundations/attention".

        Raises:
            CurriculumError: there is none.
        """
        for topic in self.topics:
            if name in (topic.name, topic.path):
                return topic
        if any(name in (each.name, each.path) for each in self.overviews):
            raise CurriculumError(f"{name!r} is an overview, with nothing to write; `make notebook TOPIC={name}` opens it.")
        near = difflib.get_close_matches(name, [topic.name for topic in self.topics], n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise CurriculumError(f"no topic {name!r}{hint} `make list` shows all {len(self.topics)}.")

    def after(self, topic: Topic) -> Topic | None:
        """The next topic of the journey."""
        place = self.topics.index(topic) + 1
        return self.topics[place] if place < len(self.topics) else None


def load_curriculum(root: Path = ROOT) -> Curriculum:
    """Read and validate the curriculum.

    Raises:
        CurriculumError: the file, the key and what is legal.
    """
    file = root / FILE
    try:
        data = tomli.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CurriculumError(f"{FILE} cannot be read: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CurriculumError(f"{FILE} is not legal TOML: {error}") from error
    require_keys(FILE, data, {"chapters": dict, "off_limits": list, "topic": list}, {"overview": list})
    everywhere = rules_of(f"{FILE}: off_limits", data["off_limits"])
    topics: list[Topic] = []
    for place, entry in enumerate(data["topic"]):
        where = place_of("topic", place, entry)
        require_keys(where, entry, TOPIC_KEYS, OPTIONAL_KEYS)
        topics.append(topic_of(root, where, entry, data["chapters"], everywhere, topics))
    if not topics:
        raise CurriculumError(f"{FILE}: topic: at least one [[topic]] is needed")
    overviews: list[Lesson] = []
    for place, entry in enumerate(data.get("overview", [])):
        where = place_of("overview", place, entry)
        require_keys(where, entry, LESSON_KEYS)
        overviews.append(Lesson(**lesson_of(root, where, entry, data["chapters"], [*topics, *overviews])))
    return Curriculum(tuple(topics), tuple(overviews))


def place_of(kind: str, place: int, entry: Any) -> str:
    """Where an entry stands, for messages."""
    path = entry.get("path") if isinstance(entry, dict) else None
    return f"{FILE}: {kind} {path or place + 1}"


def topic_of(
    root: Path,
    where: str,
    entry: dict[str, Any],
    chapters: dict[str, str],
    everywhere: tuple[tuple[str, str], ...],
    earlier: list[Topic],
) -> Topic:
    """One entry, checked against the topics before it."""
    lesson = lesson_of(root, where, entry, chapters, earlier)
    hints = texts(where, entry, "hints")
    if not hints:
        raise CurriculumError(f"{where}: hints: at least one is needed")
    return Topic(
        **lesson,
        hints=hints,
        off_limits=rules_of(f"{where}: off_limits", entry["off_limits"]) + everywhere,
        files=entry.get("files", False),
    )


def lesson_of(root: Path, where: str, entry: dict[str, Any], chapters: dict[str, str], earlier: Sequence[Lesson]) -> dict[str, Any]:
    """What a lesson is made of, checked against those before it."""
    path = entry["path"]
    folder, _, name = path.partition("/")
    if folder not in chapters or not name.isidentifier():
        legal = ", ".join(f"{chapter}/NAME" for chapter in chapters)
        raise CurriculumError(f"{where}: path is {path!r}; legal: {legal}")
    names = [lesson.name for lesson in earlier]
    if name in names:
        raise CurriculumError(f"{where}: path: the name {name!r} is taken by {earlier[names.index(name)].path}")
    if entry["minutes"] < 1:
        raise CurriculumError(f"{where}: minutes is {entry['minutes']}; legal: 1 or more")
    prerequisites = texts(where, entry, "prerequisites")
    for other in prerequisites:
        if other not in names:
            legal = ", ".join(names) or "none, this is the first topic"
            raise CurriculumError(f"{where}: prerequisites: {other!r} is no earlier topic; legal: {legal}")
    same_chapter = [lesson for lesson in earlier if lesson.path.startswith(folder + "/")]
    return {
        "root": root,
        "path": path,
        "number": f"{folder.split('_')[0]}.{len(same_chapter)}",
        "chapter": chapters[folder],
        "title": entry["title"],
        "summary": entry["summary"],
        "minutes": entry["minutes"],
        "papers": texts(where, entry, "papers"),
        "prerequisites": prerequisites,
    }


def texts(where: str, entry: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts, none of them empty."""
    if not all(isinstance(item, str) and item.strip() for item in entry[key]):
        raise CurriculumError(f"{where}: {key}: legal is a list of texts that are not empty")
    return tuple(entry[key])


def rules_of(where: str, rules: list[Any]) -> tuple[tuple[str, str], ...]:
    """(name, why) pairs, one for each name."""
    pairs: list[tuple[str, str]] = []
    for rule in rules:
        require_keys(where, rule, RULE_KEYS)
        for name in rule["names"]:
            if not isinstance(name, str) or not name.startswith(("torch.", "aten::")):
                raise CurriculumError(f"{where}: names: {name!r}; legal: a dotted name below torch, or aten::operator")
            pairs.append((name, rule["why"]))
    return tuple(pairs)


def require_keys(where: str, entry: Any, keys: dict[str, type], optional: Mapping[str, type] = MappingProxyType({})) -> None:
    """Exactly these keys, of these types, and the optional ones where they stand.

    Raises:
        CurriculumError: the key that is missing, unknown or of another type.
    """
    if not isinstance(entry, dict):
        raise CurriculumError(f"{where}: a table with {', '.join(keys)} is wanted, {entry!r} stands there")
    known = {**keys, **optional}
    for key in entry.keys() - known.keys():
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise CurriculumError(f"{where}: unknown key {key!r}; {hint}legal: {', '.join(known)}")
    for key, kind in known.items():
        if key not in entry:
            if key in optional:
                continue
            raise CurriculumError(f"{where}: {key} is missing")
        if type(entry[key]) is not kind:
            kinds = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
            raise CurriculumError(f"{where}: {key} is {entry[key]!r}; legal: {kinds[kind]}")
