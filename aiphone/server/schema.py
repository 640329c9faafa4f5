"""Descriptions of JSON values, used twice: to check what comes in and to write the OpenAPI document.

A ``Field`` says everything about one member of an object; a ``Schema`` is an ordered set of them. ``check`` returns the
value with defaults filled in, or raises ``Invalid`` with one ``Problem`` for each field that is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["string", "integer", "number", "boolean", "object", "array", "any"]

REQUIRED: Any = object()
"""Default of a field that must be given."""

ITEM_LENGTH = 253
"""Most characters of a string in a list."""

LINE = r"[^\x00-\x1f\x7f]*"
"""Text in one line: no control characters, which could break out of a SIP header or steer a terminal."""
TEXT = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*"
"""Text of several lines."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong: its name, what is wrong, and what would be right."""

    field: str
    problem: str
    expected: str

    def as_json(self) -> dict[str, str]:
        """The form it has in an error answer."""
        return {"field": self.field, "problem": self.problem, "expected": self.expected}


class Invalid(Exception):  # noqa: N818 - it is what the value is
    """A value does not fit its schema. ``problems`` names every field that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{p.field}: {p.problem}, expected {p.expected}" for p in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Field:
    """One member of an object."""

    name: str
    kind: Kind
    help: str
    default: Any = REQUIRED
    low: float | None = None
    """Smallest number, or fewest characters."""
    high: float | None = None
    """Largest number, or most characters or items."""
    pattern: str = LINE
    """A regular expression for the whole string; ``expected`` says the same for people."""
    expected: str = ""
    choices: tuple[str, ...] = ()
    nullable: bool = False
    write_only: bool = False
    read_only: bool = False
    """Only in answers: sent in, it is ignored, so that what was got may be put back."""
    of: Schema | None = None
    """Members of an object, or of each item of an array."""
    items: Kind = "string"
    """Kind of an array's items that are no objects."""

    def wanted(self) -> str:
        """What would be right, for people."""
        if self.expected:
            return self.expected
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind == "boolean":
            return "true or false"
        if self.kind in ("integer", "number"):
            noun = "a whole number" if self.kind == "integer" else "a number"
            return noun if self.low is None or self.high is None else f"{noun} from {self.low:g} to {self.high:g}"
        if self.kind == "string":
            if self.high is None:
                return "text"
            return (
                f"text of {self.low:g} to {self.high:g} characters"
                if self.low
                else f"text of at most {self.high:g} characters"
            )
        return "an object" if self.kind == "object" else "a list"

    def check(self, value: Any) -> Any:
        """The value, or ``Invalid``."""
        if value is None and self.nullable:
            return None
        problem = self._problem(value)
        if problem:
            raise Invalid([Problem(self.name, problem, self.wanted())])
        if self.kind == "number":
            return float(value)
        if self.kind == "integer":
            return int(value)
        return value

    def _problem(self, value: Any) -> str:
        match self.kind:
            case "string":
                return self._text_problem(value)
            case "boolean":
                return "" if isinstance(value, bool) else f"is {_kind_of(value)}"
            case "integer" | "number":
                return self._number_problem(value)
            case "array":
                if not isinstance(value, list):
                    return f"is {_kind_of(value)}"
                if self.high is not None and len(value) > self.high:
                    return f"has {len(value)} items"
                return self._items_problem(value)
            case "object":
                return "" if isinstance(value, dict) else f"is {_kind_of(value)}"
            case _:
                return ""

    def _items_problem(self, value: list[Any]) -> str:
        item = Field(self.name, self.items, "", pattern=self.pattern, high=ITEM_LENGTH)
        return next((problem for each in value if (problem := item._problem(each))), "")

    def _text_problem(self, value: Any) -> str:
        if not isinstance(value, str):
            return f"is {_kind_of(value)}"
        if self.choices:
            return "" if value in self.choices else f"is '{_short(value)}'"
        if self.low and not value:
            return "is empty"
        if self.low is not None and len(value) < self.low:
            return f"has only {len(value)} characters"
        if self.high is not None and len(value) > self.high:
            return f"has {len(value)} characters"
        if re.fullmatch(TEXT, value) is None or any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            return "has a control character in it"
        if re.fullmatch(self.pattern, value) is None:
            return "does not fit" if self.write_only else f"is '{_short(value)}'"
        return ""

    def _number_problem(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"is {_kind_of(value)}"
        if isinstance(value, float) and not math.isfinite(value):
            return "is not a finite number"
        if self.kind == "integer" and value != int(value):
            return f"is {value:g}"
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            return f"is {_short(str(value))}"
        return ""

    def document(self, *, answer: bool) -> dict[str, Any]:
        """This field as JSON Schema; answers may hold what others wrote, so their text and numbers are not bounded."""
        schema: dict[str, Any] = {}
        if self.kind == "object" and self.of is not None:
            schema = {"$ref": f"#/components/schemas/{self.of.name}"}
        elif self.kind == "array":
            of = {"$ref": f"#/components/schemas/{self.of.name}"} if self.of else {"type": self.items}
            schema = {"type": "array", "items": of}
            if self.of is None and self.items == "string" and not answer:
                schema["items"] = {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": ITEM_LENGTH}
            if self.high is not None and not answer:
                schema["maxItems"] = int(self.high)
        elif self.kind != "any":
            schema = {"type": self.kind}
        if self.choices:
            schema["enum"] = list(self.choices)
        elif answer:
            pass
        elif self.kind == "string":
            schema |= _lengths(self.low, self.high) | {"pattern": f"^(?:{self.pattern})$"}
        elif self.kind in ("integer", "number"):
            whole = int if self.kind == "integer" else float
            schema |= {} if self.low is None else {"minimum": whole(self.low)}
            schema |= {} if self.high is None else {"maximum": whole(self.high)}
        if self.nullable:
            schema = (
                {"anyOf": [schema, {"type": "null"}]} if "$ref" in schema else schema | {"type": [self.kind, "null"]}
            )
        schema["description"] = self.help
        if self.default is not REQUIRED and self.default is not None:
            schema["default"] = self.default
        if self.write_only:
            schema["writeOnly"] = True
        if self.read_only:
            schema["readOnly"] = True
        return schema


@dataclass(frozen=True, slots=True)
class Schema:
    """An object: its name in the document and its fields."""

    name: str
    help: str
    fields: tuple[Field, ...]
    open: bool = False
    """Members that are not listed are allowed (only in answers)."""

    def fixed(self, name: str, *names: str) -> Schema:
        """The same under another name, with these members ignored when they are sent: the path says them."""
        fields = tuple(replace(field, read_only=True) if field.name in names else field for field in self.fields)
        return Schema(name, self.help, fields, self.open)

    def check(self, body: Any, *, partial: bool = False) -> dict[str, Any]:
        """The members with defaults filled in; with ``partial`` only those that were given. Raises ``Invalid``."""
        if not isinstance(body, dict):
            raise Invalid([Problem("(body)", f"is {_kind_of(body)}", "a JSON object")])
        known = {field.name: field for field in self.fields}
        problems = [
            Problem(
                _short(name), "is not known here", "one of " + ", ".join(n for n, f in known.items() if not f.read_only)
            )
            for name in body
            if name not in known
        ]
        result: dict[str, Any] = {}
        for field in self.fields:
            if field.read_only:
                continue
            if field.name not in body:
                if partial:
                    continue
                if field.default is REQUIRED:
                    problems.append(Problem(field.name, "is missing", field.wanted()))
                else:
                    result[field.name] = field.default
                continue
            try:
                result[field.name] = field.check(body[field.name])
            except Invalid as error:
                problems += error.problems
        if problems:
            raise Invalid(problems)
        return result

    def document(self, *, answer: bool) -> dict[str, Any]:
        """This object as JSON Schema: as it is sent in, or as it comes in an answer."""
        fields = [field for field in self.fields if not (field.write_only if answer else field.read_only)]
        ignored = [] if answer else [field for field in self.fields if field.read_only]
        schema: dict[str, Any] = {
            "type": "object",
            "description": self.help,
            "properties": {field.name: field.document(answer=answer) for field in fields}
            | {field.name: {} for field in ignored},
            "additionalProperties": self.open,
        }
        required = [
            field.name for field in fields if field.default is REQUIRED or (answer and field.default is not None)
        ]
        if required:
            schema["required"] = required
        return schema


def check_query(fields: Sequence[Field], given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Query parameters, read from their text by each field's kind. Raises ``Invalid``."""
    known = {field.name: field for field in fields}
    problems = [
        Problem(_short(name), "is not a parameter here", "one of " + (", ".join(known) or "none"))
        for name in given
        if name not in known
    ]
    result: dict[str, Any] = {}
    for field in fields:
        texts = given.get(field.name)
        if not texts:
            result[field.name] = None if field.default is REQUIRED else field.default
            continue
        try:
            result[field.name] = field.check(_from_text(field, texts[-1]))
        except Invalid as error:
            problems += error.problems
    if problems:
        raise Invalid(problems)
    return result


def _from_text(field: Field, text: str) -> Any:
    try:
        if field.kind == "integer":
            return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
        if field.kind == "number":
            return float(text) if re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,3})?", text) else text
    except ValueError:
        return text
    if field.kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text


def _lengths(low: float | None, high: float | None) -> dict[str, int]:
    lengths = {} if not low else {"minLength": int(low)}
    return lengths if high is None else lengths | {"maxLength": int(high)}


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "something else")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"
