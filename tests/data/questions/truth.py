"""The true answers of questions.jsonl, computed from the data when asked (standard library only).

``python truth.py`` prints every answerable question's id and what a right answer must contain.
A truth is a list of strings: each has to occur in the answer as a whole token; ``a || b`` means either will do.
"""
import ast
import csv
import importlib.util
import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXTS = HERE / "texts"


# ---- judging ---------------------------------------------------------------

def occurs(token, answer):
    """Whether the token stands in the answer by itself (not inside a longer word or number)."""
    pattern = r"\s+".join(re.escape(part) for part in token.split())
    if re.search(r"[A-Za-z]", token):  # a name is not found inside a longer hyphenated name
        pattern = r"(?<!\w-)" + pattern + r"(?!-\w)"
    return re.search(r"(?<!\w)(?<!\d[.,])" + pattern + r"(?!\w)(?![.,]\d)", answer, re.IGNORECASE) is not None


def judge(answer, truth):
    """True when every item of the truth occurs in the answer."""
    return all(any(occurs(choice.strip(), answer) for choice in item.split("||")) for item in truth)


def num(*values):
    """One item: any of the values, with or without thousands separators, floats at 1 to 4 decimals (0 from 100 on)."""
    out = []
    for value in values:
        if isinstance(value, float) and not value.is_integer():
            for digits in (4, 3, 2, 1, 0) if abs(value) >= 100 else (4, 3, 2, 1):
                out += [f"{value:.{digits}f}", f"{value:,.{digits}f}"]
            out += [repr(value)]
        else:
            value = int(value)
            out += [str(value), f"{value:,}", f"{value:,}".replace(",", " "), f"{value}.0", f"{value:,}.0"]
    return " || ".join(dict.fromkeys(out))


def choice(*values):
    return " || ".join(dict.fromkeys(str(value) for value in values))


# ---- reading ---------------------------------------------------------------

def lines(name):
    return (TEXTS / name).read_text(encoding="utf-8").splitlines()


def table(name):
    with open(TEXTS / name, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def records(name):
    return [json.loads(line) for line in lines(name) if line.strip()]


def dpkg():
    return [line.split() for line in lines("log/dpkg.log")]


def top(counter, n):
    """The n most frequent; refuses a tie at the edge, which would make the question unfair."""
    ranked = counter.most_common()
    assert len(ranked) == n or ranked[n - 1][1] > ranked[n][1], ranked[: n + 2]
    return ranked[:n]


def packages():
    return [{**row, "size": int(row["installed_size_kib"])} for row in table("csv/packages.csv")]


def mime():
    return records("jsonl/mime.jsonl")


def pkgrec():
    return records("jsonl/packages.jsonl")


def settings():
    out = {}
    for line in lines("kv/sysctl.conf"):
        key, _, value = line.partition("=")
        out[key.strip()] = value.strip()
    return out


def verses(name):
    """{(chapter, verse): text} of one book."""
    out, chapter, last = {}, 0, None
    for line in lines(name):
        head = re.fullmatch(r"[A-Z][a-z]+ (\d+)", line)
        start = re.match(r"  (\d+) (.*)", line)
        if head:
            chapter = int(head[1])
        elif start:
            last = (chapter, int(start[1]))
            out[last] = start[2]
        elif line.strip():
            out[last] += " " + line.strip()
    return out


def line_of(name, fragment):
    hits = [number for number, line in enumerate(lines(name), 1) if fragment in line]
    assert len(hits) == 1, (fragment, hits)
    return hits[0]


def python_files(package):
    spec = importlib.util.find_spec(package)
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), ast.parse(path.read_bytes())


def python_nodes(package, kind):
    for path, tree in python_files(package):
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield path, node


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def tail(node):
    """The last name of a dotted expression."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def subclasses(package, base):
    names = [node.name for _, node in python_nodes(package, ast.ClassDef) if base in map(tail, node.bases)]
    assert names
    return sorted(set(names))


def owners(package, wanted):
    """Names of the innermost functions that hold a node for which wanted(node) is true."""
    found = set()

    def walk(node, owner):
        if wanted(node):
            found.add(owner)
        for child in ast.iter_child_nodes(node):
            walk(child, node.name if isinstance(node, FUNCTION) else owner)

    for _, tree in python_files(package):
        walk(tree, None)
    found.discard(None)
    assert found
    return sorted(found)


def calls(name):
    return lambda node: isinstance(node, ast.Call) and tail(node.func) == name


def the_class(package, name):
    (hit,) = [(path, node) for path, node in python_nodes(package, ast.ClassDef) if node.name == name]
    return hit


def constant(package, name):
    (value,) = [node.value.value for _, node in python_nodes(package, ast.Assign)
                if tail(node.targets[0]) == name and isinstance(node.value, ast.Constant)]
    return value


# ---- the log ---------------------------------------------------------------

def log_half_installed():
    return [num(sum(row[2:4] == ["status", "half-installed"] for row in dpkg()))]


def log_may_upgrades():
    hits = [row[3] for row in dpkg() if row[0] == "2026-05-09" and row[2] == "upgrade"]
    return [num(len(hits), len(set(hits)))]


def log_top_package():
    count = Counter(row[4] if row[2] == "status" else row[3] for row in dpkg() if row[2] != "startup")
    ((name, _),) = top(count, 1)
    return [choice(name, name.split(":")[0])]


def log_busiest_day():
    ((day, n),) = top(Counter(row[0] for row in dpkg()), 1)
    return [day, num(n)]


def log_minute():
    hits = [row[1] for row in dpkg() if row[0] == "2026-05-09" and "07:29:00" <= row[1] <= "07:30:00"]
    return [num(len(hits), sum(stamp < "07:30:00" for stamp in hits))]


def log_first_librsvg():
    begun = next(row[1] for row in dpkg() if row[2] == "install" and row[3].startswith("librsvg2-bin:"))
    done = next(row[1] for row in dpkg() if row[2:4] == ["status", "installed"] and row[4].startswith("librsvg2-bin:"))
    return [choice(begun, done)]


def log_actions():
    return [item for name, n in Counter(row[2] for row in dpkg()).items() for item in (name, num(n))]


def log_span():
    stamps = [(row[0], row[1]) for row in dpkg()]
    first, last = min(stamps), max(stamps)
    return [choice(f"{first[0]} {first[1]}", f"{first[0]}T{first[1]}"), choice(f"{last[0]} {last[1]}", f"{last[0]}T{last[1]}")]


def log_tzdata():
    (row,) = [row for row in dpkg() if row[2] == "upgrade" and row[3] == "tzdata:all"]
    return [row[4], row[5]]


def log_mandb_triggers():
    return [num(sum(row[2] == "trigproc" and row[3].startswith("man-db:") for row in dpkg()))]


def log_installs_vs_upgrades():
    count = Counter(row[2] for row in dpkg())
    return [num(count["install"]), num(count["upgrade"])]


def alt_link_groups():
    return [num(sum("link group" in line for line in lines("log/alternatives.log")))]


# ---- tables ----------------------------------------------------------------

def pkg_mean():
    return [num(statistics.mean(float(row["size"]) for row in packages()))]


def pkg_median():
    return [num(statistics.median(row["size"] for row in packages()))]


def pkg_sum_java():
    return [num(sum(row["size"] for row in packages() if row["section"] == "java"))]


def pkg_top5():
    sizes = {row["package"]: row["size"] for row in packages()}
    return [name for name, _ in top(Counter(sizes), 5)]


def pkg_big_libs():
    return [num(sum(row["section"] == "libs" and row["size"] > 10000 for row in packages()))]


def pkg_section_winner():
    ((name, n),) = top(Counter(row["section"] for row in packages()), 1)
    return [name, num(n)]


def pkg_sections():
    return [num(len({row["section"] for row in packages()}))]


def pkg_git_vs_perl():
    sizes = {row["package"]: row["size"] for row in packages()}
    return [num(sizes["git"]), num(sizes["perl"])]


def tz_north():
    return [max(table("csv/timezones.csv"), key=lambda row: float(row["latitude"]))["zone"]]


def tz_south():
    return [num(sum(float(row["latitude"]) < 0 for row in table("csv/timezones.csv")))]


def tz_regions():
    return [item for name, n in Counter(row["region"] for row in table("csv/timezones.csv")).items() for item in (name, num(n))]


def tz_many_countries():
    rows = [row["zone"] for row in table("csv/timezones.csv") if int(row["countries_covered"]) >= 8]
    assert 3 <= len(rows) <= 9, rows
    return rows


# ---- JSON lines ------------------------------------------------------------

def mime_without_extension():
    return [num(sum(not row["extensions"] for row in mime()))]


def mime_families():
    return [item for name, n in top(Counter(row["family"] for row in mime()), 3) for item in (name, num(n))]


def mime_epub():
    (row,) = [row for row in mime() if "epub" in row["extensions"]]
    return [row["type"]]


def rec_mean_deps():
    return [num(statistics.mean(float(row["dependency_count"]) for row in pkgrec()))]


def rec_essential():
    return [num(sum(row["essential"] for row in pkgrec()))]


def rec_top_sources():
    return [name for name, _ in top(Counter(row["source"] for row in pkgrec()), 3)]


def rec_no_homepage():
    return [num(sum(row["homepage"] is None for row in pkgrec()))]


# ---- key = value -----------------------------------------------------------

def kv_swappiness():
    return [settings()["vm.swappiness"]]


def kv_ipv4():
    return [num(sum(key.startswith("net.ipv4.") for key in settings()))]


def kv_65536():
    hits = [key for key, value in settings().items() if value == "65536"]
    assert len(hits) < 8
    return hits


def kv_codename():
    (hit,) = [line.split("=", 1)[1].strip('"') for line in lines("kv/os-release") if line.startswith("VERSION_CODENAME=")]
    return [hit]


# ---- prose -----------------------------------------------------------------

def gen_egypt():
    text = " ".join(verses("prose/genesis.txt").values())
    words = len(re.findall(r"\bEgypt\b", text))
    in_lines = sum(bool(re.search(r"\bEgypt\b", line)) for line in lines("prose/genesis.txt"))
    return [num(words, in_lines)]


def gen_quote():
    number = line_of("prose/genesis.txt", "the mighty hunter before the LORD")
    ((chapter, verse),) = [at for at, text in verses("prose/genesis.txt").items() if "Nimrod the mighty hunter before the LORD" in text]
    return [choice(number, f"{chapter}:{verse}", f"chapter {chapter}", f"Genesis {chapter}")]


def gen_melchizedek():
    ((chapter, _),) = [at for at, text in verses("prose/genesis.txt").items() if "Melchizedek" in text]
    return [choice(line_of("prose/genesis.txt", "Melchizedek"), f"chapter {chapter}", f"Genesis {chapter}", f"{chapter}:18")]


def gen_chapters():
    return [num(max(chapter for chapter, _ in verses("prose/genesis.txt")))]


def gen_methuselah():
    assert "Enoch lived sixty and five years, and begat Methuselah" in " ".join(verses("prose/genesis.txt").values())
    return ["Enoch"]


def acts_tabitha():
    return [num(*[n for n, line in enumerate(lines("prose/acts.txt"), 1) if "Tabitha" in line][:1]),
            num(*[n for n, line in enumerate(lines("prose/acts.txt"), 1) if "Tabitha" in line][1:2])]


def acts_window():
    (text,) = [text for text in verses("prose/acts.txt").values() if "sat in a window" in text]
    assert "Eutychus" in text
    return ["Eutychus"]


def acts_aceldama():
    (text,) = [text for text in verses("prose/acts.txt").values() if "Aceldama" in text]
    assert "The field of blood" in text
    return ["field of blood"]


def gpl_quote():
    text = (TEXTS / "prose/gpl-3.txt").read_text()
    assert text.count("Anti-Circumvention Law") == 1
    return [choice(line_of("prose/gpl-3.txt", "Anti-Circumvention Law"), "section 3", "3. Protecting Users' Legal Rights")]


def gpl_propagate():
    assert "permission, would make you directly or secondarily liable for" in (TEXTS / "prose/gpl-3.txt").read_text()
    return ["without", "secondarily liable"]


# ---- Python sources --------------------------------------------------------

def py_mime_subclasses():
    return subclasses("email", "MIMENonMultipart")


def py_http_exceptions():
    return subclasses("http", "HTTPException")


def py_header_registry():
    path, node = the_class("email", "HeaderRegistry")
    return [choice(path, "email/" + path, path.removesuffix(".py")), num(node.lineno)]


def py_loads_callers():
    return owners("json", calls("loads"))


def py_rfc2231_callers():
    return owners("email", calls("decode_rfc2231"))


def py_queuefull_raisers():
    def raises(node):
        if not isinstance(node, ast.Raise) or node.exc is None:
            return False
        exc = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return tail(exc) == "QueueFull"
    return owners("asyncio", raises)


def py_badstatus_uses():
    found = [node.lineno for _, tree in python_files("http") for node in ast.walk(tree)
             if isinstance(node, ast.Name) and node.id == "BadStatusLine"]
    assert found
    return [num(n) for n in sorted(set(found))]


def py_queue_methods():
    _, node = the_class("asyncio", "Queue")
    return [child.name for child in node.body if isinstance(child, FUNCTION)]


def py_dump_arguments():
    (node,) = [node for path, node in python_nodes("json", FUNCTION) if node.name == "dump" and path == "__init__.py"]
    return [a.arg for a in node.args.args + node.args.kwonlyargs]


def py_https_port():
    return [num(constant("http", "HTTPS_PORT"))]


def py_longest_json():
    ranked = sorted(((node.end_lineno - node.lineno + 1, node.name) for _, node in python_nodes("json", FUNCTION)), reverse=True)
    assert ranked[0][0] > ranked[1][0] + 10, ranked[:3]
    return [ranked[0][1]]


def py_email_import_re():
    hits = [path for path, tree in python_files("email") if any(
        isinstance(node, ast.Import) and any(a.name == "re" for a in node.names) for node in ast.walk(tree))]
    return [choice(path, path.removesuffix(".py"), Path(path).stem) for path in hits]


def questions():
    with open(HERE / "questions.jsonl", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle if line.strip()]


def truth_of(question):
    """The list of tokens a right answer holds, or None for a question that has no deterministic answer."""
    return globals()[question["truth"]]() if question["truth"] else None


if __name__ == "__main__":
    for question in questions():
        if question["truth"]:
            print(question["id"], question["truth"], json.dumps(truth_of(question), ensure_ascii=False), sep="\t")
    sys.exit(0)
