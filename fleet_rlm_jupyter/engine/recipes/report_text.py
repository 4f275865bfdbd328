"""Quotations and counts from prose, in words; passages are ranked by BM25. Runs in the sandbox."""

from __future__ import annotations

import importlib

from fleet_rlm_jupyter.engine.recipes.passages import WORD, Finds, Passage, Times, query_of, stem
from fleet_rlm_jupyter.engine.recipes.report import Report, amount


def report_search(recipe: str, slots: dict[str, str], done: Finds) -> Report:
    """Quote the best passages word for word, each with its place. `strict` asks for all words in one passage."""
    wanted, _ = query_of(slots)
    is_strict = slots.get("strict") == "yes"
    kept = [one for one in done["kept"] if len(one["words"]) == len(wanted)] if is_strict else done["kept"]
    read = f"{amount(done['passages'], 'passage')} in {amount(done['files'], 'file')} read"
    if not kept:
        near = "; ".join(place_of(one) for one in done["kept"][:3])
        none = f"No passage has all of the words {', '.join(wanted)}" if is_strict else "No passage has these words"
        return Report([f"{none}." + (f" Some have a part of them: {near}." if near else ""), read + "."], [], [])
    k = int(slots.get("k", "5"))
    if is_strict and "k" in slots and done["full"] > k:
        return Report([f"{done['full']:,} passages have all of the words: too many to tell.", read + "."], [], [])
    ranked, how = ranking(kept, wanted)
    quotes = [f"{place_of(one)}: “{' '.join(one['text'].split())}”" for one in ranked[:k]]
    also = f" (and {done['joined']:,} times two in a row have)" if done["joined"] else ""
    full = f"{amount(done['full'], 'passage')} with all words{also}" if wanted else amount(done["full"], "passage")
    head = f"{amount(len(ranked[:k]), 'quotation')} for {slots['query']}; {full}"
    sentences = [f"{head}:\n" + "\n".join(quotes) + "\n", f"Quoted as written; {read}; {how}."]
    lines = [(one["path"], one["line"], " ".join(one["text"].split())[:300]) for one in ranked[:k]]
    return Report(sentences, lines, [])


def place_of(one: Passage) -> str:
    under = f" ({one['under']})" if one["under"] else ""
    return f"{one['path']}:{one['line']}{under}"


def ranking(kept: list[Passage], wanted: list[str]) -> tuple[list[Passage], str]:
    """The passages by how many of the words they have, then by BM25; and by what they were ranked."""
    by_words = "ranked by how many of the words they have"
    corpus = [[stem(word) for word in WORD.findall(one["text"])] for one in kept]
    if len(kept) < 2 or not wanted:
        return kept, by_words
    try:
        bm25s = importlib.import_module("bm25s")
    except ImportError:
        return kept, by_words + " (bm25s is not in this sandbox)"
    quiet_progress()
    retriever = bm25s.BM25()
    retriever.index(corpus, show_progress=False)
    scores = [float(score) for score in retriever.get_scores(wanted)]
    order = sorted(range(len(kept)), key=lambda i: (-len(kept[i]["words"]), -scores[i], i))
    return [kept[i] for i in order], by_words + ", then by BM25"


def quiet_progress() -> None:
    """Keep tqdm, where bm25s finds it, from starting a thread that watches progress bars nobody sees."""
    try:
        importlib.import_module("tqdm").tqdm.monitor_interval = 0
    except ImportError:
        return


def report_occurrences(recipe: str, slots: dict[str, str], done: Times) -> Report:
    """How often a text occurs, on how many lines, in which files."""
    how = "" if slots.get("whole") != "no" else ", also inside longer words"
    head = f"{slots['text']!r} occurs {amount(done['times'], 'time')} on {amount(done['on_lines'], 'line')}"
    sentences = [f"{head} in {amount(len(done['by_file']), 'file')}{how}."]
    if "|" in slots["text"]:
        order = sorted(done["by_text"], key=lambda text: (-done["by_text"][text], text))
        sentences.append("Each: " + "; ".join(f"{text}: {done['by_text'][text]:,}" for text in order) + ".")
    if done["exact"] != done["times"]:
        sentences.append(f"Of these {done['exact']:,} are written exactly so; slot case=exact counts only those.")
    if len(done["by_file"]) > 1:
        order = sorted(done["by_file"], key=lambda path: (-done["by_file"][path], path))
        sentences.append("By file: " + "; ".join(f"{path}: {done['by_file'][path]:,}" for path in order[:20]) + ".")
    if done["lines"]:
        under = f" ({done['under']})" if done["under"] else ""
        path, line, text = done["lines"][0]
        sentences.append(f"First: {path}:{line}{under}: “{text.strip()}”.")
    sentences.append(f"{amount(done['files'], 'file')} read.")
    return Report(sentences, done["lines"], [])
