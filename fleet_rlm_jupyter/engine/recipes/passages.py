"""Prose: words and passages with their places; finding and quoting, never rewording. Runs in the sandbox."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

from fleet_rlm_jupyter.engine.recipes.records import Line, Piece, lines_of

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
HEADING = re.compile(
    r"\s*(?P<title>(?:chapter|book|part|section|article|appendix|act|scene|canto|psalm|letter)\s+"
    r"(?:\d{1,4}|[IVXLC]{1,8}))\b[.:]?[^.!?]{0,80}\s*\Z",
    re.IGNORECASE,
)
NAMED = re.compile(r"\s*(?P<title>(?P<name>[A-Z0-9][\w' ]{0,40}?)\s+(?P<number>\d{1,4}))\s*\Z")
NUMBERED = re.compile(r"\s*(?P<title>(?P<number>\d{1,3})\.\s+[A-Z][^.!?]{2,70}\.?)\s*\Z")
ITEM = re.compile(r"\s{0,6}\d{1,3}[.:)]?\s+\S")
MOST_LINES = 10
KEPT_PASSAGES = 60
TEXT_UNITS = ("words", "paragraphs", "chapters", "sections", "verses")


class Heading(NamedTuple):
    """A line that begins a chapter (`Genesis 12`, `CHAPTER IV`) or a numbered section (`3. Protecting …`)."""

    line: int
    title: str
    unit: str


class Passage(TypedDict):
    """Some lines in a row that belong together, and how many of the words asked for are among theirs."""

    path: str
    line: int
    under: str
    text: str
    words: list[str]


class Finds(TypedDict):
    """What a part has found: how many passages there are, have all words, have them with the next; and the best."""

    files: int
    passages: int
    full: int
    joined: int
    kept: list[Passage]


class Times(TypedDict):
    """How often a text occurs, written exactly so, on how many lines, by file; the first lines, and their heading."""

    files: int
    times: int
    exact: int
    on_lines: int
    by_file: dict[str, int]
    by_text: dict[str, int]
    lines: list[Line]
    under: str


def headings(text: str) -> list[Heading]:
    """The headings of a text. A name with a number counts when the name comes again with another number."""
    found: list[Heading] = []
    named: dict[str, list[Heading]] = {}
    for at, line in enumerate(lines_of(text), 1):
        if not line.strip() or len(line) > 120:
            continue
        if plain_heading := HEADING.match(line):
            found.append(Heading(at, plain_heading["title"].strip(), "chapters"))
        elif name := NAMED.match(line):
            named.setdefault(name["name"], []).append(Heading(at, name["title"].strip(), "chapters"))
        elif numbered := NUMBERED.match(line):
            found.append(Heading(at, numbered["title"].strip(), "sections"))
    for same in named.values():
        if len({one.title for one in same}) > 1:
            found.extend(same)
    return sorted(found)


def heading_of(found: list[Heading], line: int) -> str:
    """The last heading at or before a line of the text."""
    return next((one.title for one in reversed(found) if one.line <= line), "")


def units_of(piece: Piece, unit: str) -> Iterator[tuple[int, str]]:
    """The words, paragraphs, chapters or sections of a text, each with its line."""
    if unit in ("chapters", "sections"):
        for heading in headings(piece.text):
            if heading.unit == unit:
                yield piece.first_line + heading.line - 1, heading.title
    elif unit == "verses":
        for line, text in passages_of(piece):
            if ITEM.match(text):
                yield line, text.split("\n", 1)[0]
    elif unit == "paragraphs":
        for line, text in blocks(piece):
            yield line, text.split("\n", 1)[0]
    else:
        for at, line in enumerate(lines_of(piece.text), piece.first_line):
            for word in line.split():
                yield at, word


def blocks(piece: Piece) -> Iterator[tuple[int, str]]:
    """Runs of lines that are not blank."""
    start, lines = 0, list[str]()
    for at, line in enumerate([*lines_of(piece.text), ""], piece.first_line):
        if line.strip():
            start = start if lines else at
            lines.append(line)
        elif lines:
            yield start, "\n".join(lines)
            lines = []


def passages_of(piece: Piece) -> Iterator[tuple[int, str]]:
    """Paragraphs; those of numbered items (verses, list items) by item, long ones in runs of lines; records by line."""
    if piece.kind == "entries":
        for at, line in enumerate(lines_of(piece.text), piece.first_line):
            if line.strip():
                yield at, line
        return
    for start, text in blocks(piece):
        lines = text.split("\n")
        begins = [bool(ITEM.match(line)) for line in lines]
        is_items = sum(begins) >= 2 and 5 * sum(begins) >= len(lines)
        run: list[str] = []
        at = start
        for offset, line in enumerate(lines):
            if run and ((is_items and begins[offset]) or (not is_items and len(run) >= MOST_LINES)):
                yield at, "\n".join(run)
                run, at = [], start + offset
            run.append(line)
        yield at, "\n".join(run)


_FORMS_OF = """
be been was were am is are|become became|begin began begun|bear bore born borne|bind bound|break broke broken
bring brought|build built|buy bought|catch caught|choose chose chosen|come came|cut cutting|die died dying|do
did done|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen|feed fed|fight
fought|find found|flee fled|fly flew flown|forget forgot forgotten|get got gotten|give gave given|go went
gone|grow grew grown|have had has|hear heard|hide hid hidden|hold held|keep kept|know knew known|lay laid|lead
led|leave left|lend lent|lose lost|make made|mean meant|meet met|pay paid|rise rose risen|run ran|say said|see
saw seen|seek sought|sell sold|send sent|shake shook shaken|show shown|sing sang sung|sink sank sunk|sit
sat|sleep slept|slay slew slain|smite smote smitten|speak spoke spoken spake|spend spent|stand stood|steal stole
stolen|strike struck stricken|swear swore sworn|take took taken|teach taught|tell told|think thought|throw threw
thrown|wake woke|wear wore worn|weep wept|win won|write wrote written|man men|woman women|child children|brother
brethren
"""
_IRREGULAR = {form: line.split()[0] for line in " ".join(_FORMS_OF.split()).split("|") for form in line.split()[1:]}


def stem(word: str) -> str:
    """A word without its usual English endings, for comparing only."""
    word = re.sub(r"['’]s?$", "", word.casefold())
    word = _IRREGULAR.get(word, word)
    for ending, put in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("eth", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us")[: ending == "s"]):
            word = word[: -len(ending)] + put
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    if len(word) > 3 and word[-1] in "ey":
        word = word[:-1] + ("i" if word[-1] == "y" else "")
    return word


def query_of(slots: dict[str, str]) -> tuple[list[str], list[str]]:
    """The stems of the plain words of a query, and the quoted phrases, which must stand as they are."""
    phrases = [" ".join(text.split()) for text in re.findall(r'"([^"]+)"', slots["query"])]
    return list(dict.fromkeys(stem(word) for word in WORD.findall(re.sub(r'"[^"]*"', " ", slots["query"])))), phrases


def find(pieces: list[Piece], slots: dict[str, str]) -> Finds:
    """The passages with the most words of `query`, quoted phrases there; two in a row when only both have all words."""
    wanted, phrases = query_of(slots)
    done: Finds = {
        "files": sum(piece.first_line == 1 for piece in pieces),
        "passages": 0,
        "full": 0,
        "joined": 0,
        "kept": [],
    }
    stems_of: dict[str, str] = {}
    for piece in pieces:
        titles = headings(piece.text)
        before: Passage | None = None
        for line, text in passages_of(piece):
            done["passages"] += 1
            folded = " ".join(text.split()).casefold()
            stems = {stems_of.setdefault(word, "") or stem_kept(word, stems_of) for word in WORD.findall(text)}
            has = [word for word in wanted if word in stems]
            under = heading_of(titles, line - piece.first_line + 1)
            one: Passage = {"path": piece.path, "line": line, "under": under, "text": text, "words": has}
            if all(phrase.casefold() in folded for phrase in phrases) and (has or phrases):
                done["full"] += len(has) == len(wanted)
                done["kept"].append(one)
            elif phrases:
                one["words"] = []
            if before and not phrases and piece.kind != "entries" and len(has) < len(wanted) > len(before["words"]):
                both = [word for word in wanted if word in has or word in before["words"]]
                if len(both) == len(wanted):
                    done["joined"] += 1
                    done["kept"].append({**before, "text": f"{before['text']}\n{text}", "words": both})
            before = one
    done["kept"] = best(done["kept"])
    return done


def stem_kept(word: str, stems_of: dict[str, str]) -> str:
    stems_of[word] = stem(word)
    return stems_of[word]


def best(kept: list[Passage]) -> list[Passage]:
    """Those with the most words of the query; equal ones in the order of the text."""
    return sorted(kept, key=lambda one: (-len(one["words"]), one["path"], one["line"]))[:KEPT_PASSAGES]


def merge_finds(parts: list[Finds], slots: dict[str, str]) -> Finds:
    return {
        "files": sum(part["files"] for part in parts),
        "passages": sum(part["passages"] for part in parts),
        "full": sum(part["full"] for part in parts),
        "joined": sum(part["joined"] for part in parts),
        "kept": best([one for part in parts for one in part["kept"]]),
    }


def pattern_of(slots: dict[str, str]) -> re.Pattern[str]:
    """The text as whole words, whatever white space lies between them; with whole=no also inside words."""
    texts = [r"\s+".join(re.escape(word) for word in text.split()) for text in slots["text"].split("|")]
    either = f"(?:{'|'.join(text for text in texts if text)})"
    return re.compile(either if slots.get("whole") == "no" else rf"(?<!\w){either}(?!\w)", re.IGNORECASE)


def times_of(pieces: list[Piece], slots: dict[str, str]) -> Times:
    """Every occurrence of `text`, with the line on which it begins."""
    pattern, written = pattern_of(slots), [" ".join(text.split()) for text in slots["text"].split("|")]
    done: Times = {
        "files": 0,
        "times": 0,
        "exact": 0,
        "on_lines": 0,
        "by_file": {},
        "by_text": {},
        "lines": [],
        "under": "",
    }
    for piece in sorted(pieces, key=lambda piece: (piece.path, piece.first_line)):
        done["files"] += piece.first_line == 1
        last_line = at = 0
        line = piece.first_line
        for found in pattern.finditer(piece.text):
            line += piece.text.count("\n", at, found.start())
            at = found.start()
            text = " ".join(found[0].split())
            is_exact = text in written
            if slots.get("case") == "exact" and not is_exact:
                continue
            done["times"] += 1
            done["exact"] += is_exact
            asked = next(one for one in written if one.casefold() == text.casefold())
            done["by_text"][asked] = done["by_text"].get(asked, 0) + 1
            done["by_file"][piece.path] = done["by_file"].get(piece.path, 0) + 1
            if not done["lines"]:
                done["under"] = heading_of(headings(piece.text), line - piece.first_line + 1)
            if line != last_line:
                done["on_lines"] += 1
                start = piece.text.rfind("\n", 0, at) + 1
                end = piece.text.find("\n", at)
                whole = piece.text[start : end if end >= 0 else None]
                done["lines"].append((piece.path, line, whole if len(whole) <= 300 else whole[:300] + "…"))
                del done["lines"][20:]
            last_line = line
    return done


def merge_times(parts: list[Times], slots: dict[str, str]) -> Times:
    by_file, by_text = Counter[str](), Counter[str]()
    for part in parts:
        by_file.update(part["by_file"])
        by_text.update(part["by_text"])
    return {
        "files": sum(part["files"] for part in parts),
        "times": sum(part["times"] for part in parts),
        "exact": sum(part["exact"] for part in parts),
        "on_lines": sum(part["on_lines"] for part in parts),
        "by_file": dict(by_file),
        "by_text": dict(by_text),
        "lines": sorted((str(p), int(n), str(t)) for part in parts for p, n, t in part["lines"])[:20],
        "under": min(
            (str(p), int(n), part["under"]) for part in parts for p, n, _ in part["lines"][:1] or [("~", 0, "")]
        )[2],
    }
