"""What is saved is bounded, masked, and only text."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import CallEnded, CallStarted, CallText, Event, RunEnded
from fleet_rlm_jupyter.domain.masking import STARS, Mask
from fleet_rlm_jupyter.domain.session import Run
from fleet_rlm_jupyter.kernel.bundle import MOST_BYTES, run_json
from fleet_rlm_jupyter.kernel.page import as_html, as_text

DATA = Path(__file__).parents[2] / "data"
GOLDEN = ("plain", "failed_sibling", "over_budget", "kept_session", "optimized", "lost_sandbox")
TAGS = {"div", "span", "strong", "br", "details", "summary", "ul", "li", "pre"}
VOID = {"br"}

TAGS_OF_ATTACKS = ("script", "img", "svg", "iframe", "object", "embed", "a", "body", "style", "link", "meta", "form")
ATTACKS = [
    *(f"<{tag} src=x onerror=alert(1) onload=alert(1) href=javascript:alert(1)>" for tag in TAGS_OF_ATTACKS),
    *(f"</{tag}><{tag}>alert(1)" for tag in ("pre", "summary", "details", "div", "span", "ul", "li", "strong")),
    *(f"{quote}{close}<script>alert(1)</script>" for quote in "'\"` " for close in (">", "/>", " x>", "-->")),
    "<!--", "--><script>alert(1)</script>", "<![CDATA[<script>]]>", "<?php echo 1 ?>", "<!DOCTYPE x>",
    "&lt;script&gt;", "&#60;script&#62;alert(1)", "<scr\0ipt>", "\u202e<script>", "<SCRIPT/XSS>", "<<script>script>",
    '" style="background:url(javascript:alert(1))', "' onmouseover='alert(1)", "javascript:alert(1)", "{{7*7}}${7*7}",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
]  # fmt: skip


class Checker(HTMLParser):
    """Collects what is not on the list, and whether tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name not in ("style", "open") or (name == "style" and ("url" in value or "expression" in value)):
                self.bad.append(f"{tag} {name}={value}")
        if tag not in TAGS:
            self.bad.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"/{tag}")

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.bad.append("comment")

    handle_decl = handle_pi = unknown_decl = handle_comment


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.bad == []
    assert checker.open == []
    return checker


def golden(name: str) -> list[Event]:
    return [Event.decode(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def record(events: list[Event], **more) -> Run:
    tree = fold(events)
    known = {"answer": tree.answer, "error": tree.error, "outputs": tree.outputs, "question": "the question", **more}
    return Run(run_id=tree.run_id, session_id="s-1", program="ask", status=tree.status or "done", **known)


def made(facts) -> list[Event]:
    return [
        Event(seq=seq, at=float(seq), session_id="s-1", run_id="r-1", call_id=call_id, fact=fact)
        for seq, (call_id, fact) in enumerate(facts)
    ]


def hostile(text: str) -> list[Event]:
    start = CallStarted(parent_id=None, kind="code", name=text, depth=1, inputs={text: text, "code": text})
    child = CallStarted(parent_id="a", kind="tool", name=text, depth=1, inputs={"path": text})
    return made(
        [
            ("a", start),
            ("b", child),
            ("a", CallText(channel="stdout", text=text)),
            ("b", CallEnded(outputs=text, error=ErrorText(code="x", text=text, hint=text))),
            ("a", CallEnded(outputs=text + "!")),
            (
                None,
                RunEnded(
                    status="failed", answer=text, outputs={"recipe": text, "slots": {text: text}, "evidence": [text]}
                ),
            ),
        ]
    )


def test_the_corpus_is_large_enough():
    assert len(set(ATTACKS)) >= 40


@pytest.mark.parametrize("attack", ATTACKS)
def test_untrusted_text_stays_text(attack):
    events = hostile(attack)
    run = record(events, question=attack, model=attack, error=ErrorText(code="x", text=attack, hint=attack))
    html = as_html(run, fold(events), Mask(), "here")
    assert attack.strip("\0\u202e").replace("\0", "\\x00") in checked(html).text or "\u202e" in attack


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_run_is_shown_whole(name):
    events = golden(name)
    tree = fold(events)
    page = checked(as_html(record(events), tree, Mask(), "here"))
    assert page.open == []
    text = as_text(record(events), tree, Mask(), "here")
    for call in tree.calls.values():
        if call.kind and call.kind != "rlm":
            assert call.name in page.text
            assert call.name in text


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bundle_is_the_golden_one(name):
    path = DATA / f"{name}.bundle.json"
    made_now = run_json(record(golden(name)), golden(name), Mask(home="/home/nobody"))
    assert json.loads(path.read_text(encoding="utf-8")) == made_now


def test_keys_and_home_are_masked_everywhere():
    key, home = "planted-secret-value-1", "/home/somebody"
    events = hostile(f"{key} {home}/x sk-abcdefghijklmnopqrstuvwx")
    run = record(events, question=f"{key} {home}/data")
    mask = Mask([key], home)
    saved = [
        as_html(run, fold(events), mask, "here"),
        as_text(run, fold(events), mask, "here"),
        json.dumps(run_json(run, events, mask)),
    ]
    for text in saved:
        assert key not in text
        assert home not in text
        assert "sk-abc" not in text
        assert STARS in text


def test_a_large_trace_loses_its_oldest_live_texts_first():
    texts = [("a", CallText(channel="stdout", text=f"{n:06d}" + "x" * 1900)) for n in range(1500)]
    start = CallStarted(parent_id=None, kind="code", name="python", depth=1)
    events = made([("a", start), *texts, ("a", CallEnded()), (None, RunEnded(status="done", answer="yes"))])
    bundle = run_json(record(events), events, Mask())
    assert len(json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()) <= MOST_BYTES
    kept = [event["seq"] for event in bundle["events"] if event["type"] == "call.text"]
    assert kept == list(range(1501 - len(kept), 1501))
    assert {"call.started", "call.ended", "run.ended"} <= {event["type"] for event in bundle["events"]}


def test_a_huge_answer_and_many_calls_stay_below_the_limit_too():
    calls = [
        (f"c{n}", CallStarted(parent_id=None, kind="lm", name="m", depth=1, inputs={"p": "é" * 900}))
        for n in range(4000)
    ]
    events = made([*calls, (None, RunEnded(status="done", answer="y"))])
    bundle = run_json(record(events, answer="x" * 5_000_000), events, Mask())
    assert len(json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()) <= MOST_BYTES


def test_a_deep_or_wide_tree_is_still_a_page():
    deep = [
        (f"c{n}", CallStarted(parent_id=f"c{n - 1}" if n else None, kind="rlm", name="x", depth=n)) for n in range(3000)
    ]
    wide = [("w", CallStarted(parent_id=None, kind="tool", name="w", depth=1))]
    wide += [(f"w{n}", CallStarted(parent_id="w", kind="lm", name="m", depth=1)) for n in range(3000)]
    for facts in (deep, wide):
        events = made([*facts, (None, RunEnded(status="done", answer="a"))])
        assert len(as_html(record(events), fold(events), Mask(), "here")) < 500_000
        checked(as_html(record(events), fold(events), Mask(), "here"))


if __name__ == "__main__":
    for name in GOLDEN:
        bundle = run_json(record(golden(name)), golden(name), Mask(home="/home/nobody"))
        (DATA / f"{name}.bundle.json").write_text(
            json.dumps(bundle, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
