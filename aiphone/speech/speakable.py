"""Text made speakable: what a model writes for the eye, as a person would read it aloud.

For every language: markdown, links, emoji and table lines go, what they mark stays. For English also: titles
and abbreviations, money, units, times of day, telephone numbers, ranges. Plain numbers, ordinals, years and
e-mail addresses are left as they are, because the phonemiser reads them well ("21st", "1,250", "50%",
"example.com").

Abbreviations matter for more than their sound: at a dot the phonemiser ends the sentence, so that "Dr. Smith"
would be spoken as two.
"""

# Typographic punctuation is this module's subject.
# ruff: noqa: RUF001

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable

_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_KEPT_SYMBOLS = frozenset("°©")
_JOINERS = frozenset("\u200b\u200c\u200d\u2060\ufe0e\ufe0f\u20e3")


def speakable(text: str, language: str = "en") -> str:
    """``text`` ready for a voice of ``language`` (a tag such as ``en-us``); empty when nothing can be said."""
    text = html.unescape(_apply(_MARKUP, text)).strip()
    text = "".join(character for character in text if not _is_picture(character))
    if language.lower().startswith("en"):
        text = _apply(_ENGLISH, text)
    text = _apply(_TIDY, text).strip()
    return text if any(character.isalnum() for character in text) else ""


def _apply(rules: tuple[_Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _is_picture(character: str) -> bool:
    """Emoji, dingbats and what glues them together."""
    if character in _KEPT_SYMBOLS:
        return False
    if character in _JOINERS or 0x1F3FB <= ord(character) <= 0x1F3FF:
        return True
    return unicodedata.category(character) in ("So", "Cs", "Co", "Cn")


# ---------------------------------------------------------------------------------------------- all languages


def _address(match: re.Match[str]) -> str:
    """A web address without what nobody reads aloud; the dot or comma behind it belongs to the sentence."""
    whole = match.group()
    bare = whole.rstrip(".,;:!?)")
    tail = whole[len(bare) :]
    host, _, path = re.sub(r"^(?:https?://)?(?:www\.)?", "", bare, flags=re.I).partition("/")
    path = re.split(r"[?#]", path)[0].strip("/")
    if path and len(path) <= 20 and re.fullmatch(r"[\w/-]+", path):
        host += " slash " + path.replace("/", " slash ").replace("-", " ").replace("_", " ")
    return host + tail


_MARKUP: tuple[_Rule, ...] = (
    (re.compile(r"```[^\n]*\n?"), ""),
    (re.compile(r"!?\[([^\]]*)\]\((?:[^()\s]|\([^()]*\))*\)"), r"\1"),  # links and pictures
    (re.compile(r"<((?:https?://|mailto:)[^>\s]+)>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>]{0,80}>"), " "),  # HTML
    (re.compile(r"(?:https?://|www\.)[^\s<>\"'*`]+", re.I), _address),
    (re.compile(r"^[ \t]*(?:#{1,6}|>+)[ \t]+", re.M), ""),
    (re.compile(r"^[ \t]*[-*+•·][ \t]+(?:\[[ xX]\][ \t]+)?", re.M), ""),
    (re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$", re.M), ""),
    (re.compile(r"^[ \t]*\|?[ \t:|-]+\|[ \t:|-]*$", re.M), ""),  # the ruler of a table
    (re.compile(r"^[ \t]*\|(.*)\|[ \t]*$", re.M), r"\1"),
    (re.compile(r"[ \t]*\|[ \t]*"), ", "),
    (re.compile(r"^([ \t]*\(?\d{1,3})[.)][ \t]+", re.M), r"\1, "),  # "1. Apples": one, apples
    (re.compile(r"(?<=\d) ?[*×] ?(?=\d)|(?<=\d) x (?=\d)"), " × "),
    (re.compile(r"\*+|~~|`+"), ""),
    (re.compile(r"(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)"), ""),
    (re.compile(r"(?<!\S)[:;8=][-']?[)(DPp](?!\w)"), ""),  # :-)
)

_TIDY: tuple[_Rule, ...] = (
    (re.compile(r"(?<=\S)[ \t]*\n+[ \t]*(?=\S)"), "\n"),
    (re.compile(r"(?<=[.!?:;,…])\n"), " "),
    (re.compile(r"\n"), ". "),
    (re.compile(r"\s*[—–]\s*|\s+--?\s+"), ", "),
    (re.compile(r"\s+"), " "),
    (re.compile(r" +(?=[,.;:!?](?:\s|$))"), ""),
    (re.compile(r",(?:\s*,)+"), ","),
    (re.compile(r",\s*(?=[.!?])"), ""),
    (re.compile(r"^[\s,;:.]+(?=\w)"), ""),
    (re.compile(r"\(\s*\)|\[\s*\]"), ""),
)


# --------------------------------------------------------------------------------------------------- English

_TITLES = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor", "St": "Saint",
    "Mt": "Mount", "Ft": "Fort", "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant", "Gen": "General",
    "Rev": "Reverend", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative",
}  # fmt: skip
_AFTER_NAMES = {"Jr": "Junior", "Sr": "Senior", "Inc": "Incorporated", "Ltd": "Limited", "Co": "Company",
                "Corp": "Corporation", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "St": "Street"}  # fmt: skip
_ABBREVIATIONS = {
    "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "approx.": "approximately", "etc.": "et cetera",
    "dept.": "department", "appt.": "appointment", "apt.": "apartment", "tel.": "telephone", "w/o": "without",
    "w/": "with", "b/c": "because",
}  # fmt: skip
_NEVER_LAST = frozenset(("e.g.", "i.e.", "vs.", "approx.", "w/o", "w/", "b/c"))
"""Those that no sentence ends with: the capital after them is a name's."""
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
_MONTH_ABBREVIATIONS = {month[:3]: month for month in _MONTHS} | {"Sept": "September"}

_UNITS = {
    "km/h": "kilometers an hour", "kmh": "kilometers an hour", "mph": "miles an hour", "km": "kilometers",
    "cm": "centimeters", "mm": "millimeters", "m": "meters", "kg": "kilograms", "mg": "milligrams", "g": "grams",
    "lbs": "pounds", "lb": "pounds", "oz": "ounces", "ft": "feet", "yd": "yards", "mi": "miles",
    "ml": "milliliters", "mL": "milliliters", "l": "liters", "L": "liters", "kWh": "kilowatt hours",
    "kW": "kilowatts", "W": "watts", "V": "volts", "KB": "kilobytes", "kB": "kilobytes", "MB": "megabytes",
    "GB": "gigabytes", "TB": "terabytes", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz",
    "Hz": "hertz", "ms": "milliseconds", "hrs": "hours", "hr": "hours", "h": "hours", "mins": "minutes",
    "min": "minutes", "secs": "seconds", "sec": "seconds", "s": "seconds", "°C": "degrees Celsius",
    "°F": "degrees Fahrenheit", "°": "degrees",
}  # fmt: skip
_SINGULAR = {"feet": "foot", "degrees": "degree", "hertz": "hertz"}
_SCALES = {"K": "thousand", "k": "thousand", "M": "million", "m": "million", "B": "billion", "bn": "billion",
           "T": "trillion"}  # fmt: skip
_MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", "")}
_FRACTIONS = {"24/7": "24 7", "1/2": "one half", "1/3": "one third", "2/3": "two thirds", "1/4": "one quarter",
              "3/4": "three quarters", "½": "one half", "¼": "one quarter", "¾": "three quarters"}  # fmt: skip


_DECADES = {"2": "twenties", "3": "thirties", "4": "forties", "5": "fifties", "6": "sixties", "7": "seventies",
            "8": "eighties", "9": "nineties"}  # fmt: skip


def _one_of(words: dict[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _plural(word: str) -> str:
    return {"penny": "pence", "yen": "yen"}.get(word, word + "s")


def _money(match: re.Match[str]) -> str:
    sign, whole, cents, scale = match["sign"], match["whole"], match["cents"], match["scale"]
    large, small = _MONEY[sign]
    if scale:
        return f"{whole}{'.' + cents if cents else ''} {_SCALES.get(scale, scale)} {_plural(large)}"
    amount = f"{whole} {large if whole == '1' else _plural(large)}"
    if not cents or not small:
        return amount
    if len(cents) != 2:
        return f"{whole}.{cents} {_plural(large)}"
    if cents == "00":
        return amount
    number = str(int(cents))
    rest = f"{number} {small if number == '1' else _plural(small)}"
    return rest if whole == "0" else f"{amount} and {rest}"


def _unit(match: re.Match[str]) -> str:
    number, unit = match["number"], _UNITS[match["unit"]]
    if number == "1":
        first, _, rest = unit.partition(" ")
        first = _SINGULAR.get(first, first.removesuffix("s"))
        unit = f"{first} {rest}".strip()
    return f"{number} {unit}"


def _stop(match: re.Match[str]) -> str:
    """The dot of an abbreviation, kept where it ends the sentence as well."""
    ends = match.group().endswith(".") and re.match(r"\s*$|\s+[A-Z]", match.string[match.end() :])
    return "." if ends else ""


def _time(match: re.Match[str]) -> str:
    hour, minute, half = str(int(match["hour"])), match["minute"] or "00", match["half"]
    if minute == "00":
        said = hour if half else f"{hour} o'clock"
    elif minute.startswith("0"):
        said = f"{hour} oh {minute[1]}"
    else:
        said = f"{hour} {minute}"
    return f"{said} {half.upper()} M{_stop(match)}" if half else said


def _decade(match: re.Match[str]) -> str:
    return f"{match['century'] or ''} {_DECADES[match['tens']]}".strip()


def _digits(match: re.Match[str]) -> str:
    """A telephone number: digit by digit, with a pause between its groups."""
    groups = re.findall(r"\d+", match.group())
    said = ", ".join(" ".join(group) for group in groups)
    return f"plus {said}" if match.group().startswith("+") else said


def _initials(match: re.Match[str]) -> str:
    """ "U.S." letter by letter."""
    return " ".join(match.group().replace(".", "").upper()) + _stop(match)


def _abbreviation(match: re.Match[str]) -> str:
    short = match.group().lower()
    return _ABBREVIATIONS[short] + ("" if short in _NEVER_LAST else _stop(match))


def _date(match: re.Match[str]) -> str:
    month, day = int(match["month"]), int(match["day"])
    if month > 12 >= day and "/" in match.group():
        month, day = day, month  # 22/11/2026 is no American date
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        return match.group()
    return f"{_MONTHS[month - 1]} {day}, {match['year']}"


def _spelt_out(match: re.Match[str]) -> str:
    """A number that begins with a zero, which is a code: digit by digit."""
    return " ".join(match.group())


def _fraction(match: re.Match[str]) -> str:
    return _FRACTIONS.get(match.group(), match.group().replace("/", " over "))


_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NOT_IN_NUMBER = r"(?<![\w.,$£€¥])"
_HALF = r"(?P<half>[aApP])(?:m|M|\.[mM])(?!\w)\.?"

_ENGLISH: tuple[_Rule, ...] = (
    (re.compile(r"[’‘]"), "'"),
    (re.compile(r"[“”„]"), '"'),
    # Dates and telephone numbers first: they hold what would be ranges and decimals.
    (re.compile(r"\b(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)\b"), _date),
    (re.compile(r"(?<![\d/])(?P<month>\d\d?)/(?P<day>\d\d?)/(?P<year>\d{4})(?![\d/])"), _date),
    (re.compile(r"(?<![\d.])(?P<day>\d\d?)\.(?P<month>\d\d?)\.(?P<year>\d{4})(?![\d.]*\d)"), _date),
    (re.compile(_NOT_IN_NUMBER + r"0\d{2,4}[ .-]\d{3,4}[ .-]\d{3,4}(?!\w|[.,]\d)"), _digits),
    (
        re.compile(
            _NOT_IN_NUMBER + r"(?:\+\d{1,3}[ .-]?|1[ .-])?(?:\(\d{2,4}\) ?|\d{2,4}[ .-])?\d{3}[ .-]\d{4}(?!\w|[.,]\d)"
        ),
        _digits,
    ),
    (re.compile(_NOT_IN_NUMBER + r"\+\d[\d .()-]{6,}\d(?!\w)"), _digits),
    (re.compile(_NOT_IN_NUMBER + r"\d{7,15}(?!\w|[.,]\d)"), _digits),
    (
        re.compile(
            r"(?P<sign>[$£€¥]) ?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<cents>\d+))?"
            r"(?: ?(?P<scale>million|billion|trillion|thousand|[KkMmBT]|bn)\b)?"
        ),
        _money,
    ),
    (re.compile(r"(?<![\w.])(\d+) ?¢"), lambda match: f"{match[1]} cent{'' if match[1] == '1' else 's'}"),
    (re.compile(r"\b[vV](?=\d+\.\d)"), "version "),
    (re.compile(r"(?<![\w.])\d+(?:\.\d+){2,}(?![\w]|\.\d)"), lambda match: match.group().replace(".", " dot ")),
    (re.compile(_NOT_IN_NUMBER + r"(?<![:/-])0\d+(?![\w:/-]|[.,]\d)"), _spelt_out),
    # Times of day.
    (
        re.compile(rf"\b(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::[0-5]\d)?(?! ?[\d:])(?: ?{_HALF})?(?![\w:])"),
        _time,
    ),
    (re.compile(rf"\b(?P<hour>1[0-2]|[1-9])(?P<minute>) ?{_HALF}"), _time),
    # Measures.
    (re.compile(r"\b(?P<century>\d\d)?(?P<tens>[2-9])0s\b"), _decade),
    (re.compile(r"(?<!\w)(\d+)['′] ?(\d+)[\"″]"), r"\1 foot \2"),
    (re.compile(rf"(?<![\w.])(?P<number>{_NUMBER}) ?(?P<unit>{_one_of(_UNITS)})(?![\w/])"), _unit),
    (
        re.compile(rf"(?<![\w.])({_NUMBER}) ?(K|k|M|B|bn|T)\b"),
        lambda match: f"{match[1]} {_SCALES[match[2]]}",
    ),
    (re.compile(r"(?<![\w/.])\d{1,3}/\d{1,3}(?![\w/]|\.\d)|[½¼¾]"), _fraction),
    (re.compile(r"(?:(?<=\d)|(?<=\d [AP] M)) ?[-–] ?(?=\d)"), " to "),
    (re.compile(r"(?<!\w)[~≈] ?(?=\d)"), "about "),
    (re.compile(r"(?<!\w)#(?=\d)|\b[Nn]o\. ?(?=\d)"), "number "),
    (re.compile(r" ?[→⇒] ?"), " to "),
    (re.compile(r" × "), " times "),
    # Abbreviations.
    (re.compile(rf"(?<![\w.])(?:{_one_of(_ABBREVIATIONS)})(?!\w)", re.I), _abbreviation),
    (re.compile(rf"\b({'|'.join(_TITLES)})\.(?= +[A-Z])"), lambda match: _TITLES[match[1]]),
    (
        re.compile(rf"(?<=[a-z])(,? )({'|'.join(_AFTER_NAMES)})\."),
        lambda match: match[1] + _AFTER_NAMES[match[2]] + _stop(match),
    ),
    (
        re.compile(rf"\b({'|'.join(_MONTH_ABBREVIATIONS)})\.? (?=\d)"),
        lambda match: _MONTH_ABBREVIATIONS[match[1]] + " ",
    ),
    (re.compile(r"(?<![\w.])(?:[A-Za-z]\.)+[A-Za-z]\.(?!\w)"), _initials),
    (
        re.compile(r"(?<![\w.'])(?<![AP] )([A-HJ-Z])\.(?= [A-Z])"),
        r"\1",
    ),  # the J. of J. Smith; "So did I. We" is no name
    (re.compile(r"(?<=[A-Za-z])/(?=[A-Za-z])"), " "),
)
