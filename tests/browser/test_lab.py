"""What a user of JupyterLab sees: a question and its answer, light and dark, stopped, and opened again."""

from __future__ import annotations

import nbformat
import pytest
from integration.jupyter_servers import until
from scripted_model import ScriptedModel

from fleet_rlm_jupyter.testing import code

LOAD = "%load_ext fleet_rlm_jupyter"
LOG = 'log = "".join(f"level={"ERROR" if n % 7 == 0 else "INFO"} service=s{n % 5}\\n" for n in range(500))'.replace(
    '{"ERROR" if n % 7 == 0 else "INFO"}', "{'ERROR' if n % 7 == 0 else 'INFO'}"
)
ASK = "%%fleet --var log -o result\nWhich service has the most errors?"
PLACES = {"server": "on the server at", "kernel": "in this kernel"}


def contrast(locator) -> float:
    """That of WCAG between an element's text and what is behind it."""
    seen = locator.evaluate(
        """element => {
            const text = getComputedStyle(element).color;
            let behind = element;
            while (behind && /rgba\\(.*, 0(\\.\\d+)?\\)|transparent/.test(getComputedStyle(behind).backgroundColor))
                behind = behind.parentElement;
            return [text, behind ? getComputedStyle(behind).backgroundColor : "rgb(255, 255, 255)"];
        }"""
    )
    lights = sorted(
        luminance([int(float(part)) for part in color[color.index("(") + 1 : -1].split(",")[:3]]) for color in seen
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(rgb: list[int]) -> float:
    parts = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize(("theme", "on"), [("Light", "server"), ("Dark", "kernel")])
def test_a_question_shows_its_answer_and_its_tree_readably(open_lab, theme, on):
    ask = ASK.replace("-o", f"--on {on} -o")
    book = open_lab(FLEET_MODEL="offline/recipes").open([LOAD, LOG, ask], theme)
    book.run_all()
    book.wait_for("Recursion tree")
    for words in ("done", "s0 and s2 share", "Recursion tree", "step 1/20", PLACES[on]):
        shown = book.page.locator(f".jp-OutputArea-output >> text={words}").first
        assert contrast(shown) >= 3, words
    assert book.errors == []
    book.page.close()


def test_the_tree_folds_by_keyboard(open_lab):
    book = open_lab(FLEET_MODEL="offline/recipes").open([LOAD, LOG, ASK])
    book.run_all()
    book.wait_for("Recursion tree")
    summary = book.page.locator(".jp-OutputArea-output summary", has_text="Recursion tree")
    step = book.page.locator(".jp-OutputArea-output >> text=step 1/20").first
    assert step.is_visible()
    summary.focus()
    book.page.keyboard.press("Space")
    step.wait_for(state="hidden")
    book.page.close()


@pytest.mark.parametrize("on", PLACES)
def test_the_square_in_the_toolbar_stops_a_question_and_keeps_what_was_found(open_lab, on):
    steps = iter([code("print('found: half of it')"), code("import time; time.sleep(60)")])
    with ScriptedModel(lambda prompt: next(steps)) as model:
        given = model.settings
        environ = {"FLEET_MODEL": given["model"], "FLEET_API_BASE": given["api_base"], "FLEET_API_KEY": "none-needed"}
        book = open_lab(**environ).open([LOAD, f"%%fleet_rlm --on {on} -o partial\nanything?", "print(partial.status)"])
        book.run_all()
        book.wait_for("step 2/20")
        until(lambda: model.calls == 2, "the second step was not asked for")
        book.page.locator("[data-command='notebook:interrupt-kernel'], [title^='Interrupt the kernel']").first.click()
        book.wait_for("was cancelled")
        assert "what was found is in partial" in book.text()
        assert "Found so far" in book.text()
    assert book.errors == []
    book.page.close()


def test_a_saved_notebook_shows_all_without_a_kernel(open_lab):
    lab = open_lab(FLEET_MODEL="offline/recipes")
    book = lab.open([LOAD, LOG, ASK])
    book.run_all()
    book.wait_for("Recursion tree")
    saved = book.saved()
    book.page.close()
    assert set(saved.cells[-1].outputs[0].data) == {
        "text/plain", "text/html", "application/vnd.fleet-rlm.run+json"
    }  # fmt: skip
    saved.metadata.kernelspec = {"name": "gone", "display_name": "Gone", "language": "python"}
    nbformat.write(saved, book.path)
    again = lab.show(book.path.name)
    again.wait_for("Recursion tree")
    assert "s0 and s2 share" in again.text()
    again.page.close()
