"""From questions to recipes, and the questions that no recipe answers."""

import pytest
from generate import KINDS, make

from fleet_rlm_jupyter.engine.recipes.parts import chosen
from fleet_rlm_jupyter.engine.recipes.passages import find
from fleet_rlm_jupyter.engine.recipes.plan import RecipePlan
from fleet_rlm_jupyter.engine.recipes.profile import pieces_of, profile
from fleet_rlm_jupyter.engine.recipes.understand import Abstention, understand

TEXTS = {kind: make(kind, 8_000, seed=1).text for kind in KINDS}
EXCEPTIONS = "Which modules define a class that subclasses Exception, and how many such classes are there?"
PYTHON = {"a.py": "class A(Exception): pass\n", "b.py": ""}


def planned(question, context):
    shown = profile(context, question)
    plan = understand(shown["question"], shown)
    return (plan.recipe, dict(plan.slots)) if isinstance(plan, RecipePlan) else plan


MOST_ERRORS = {"field": "service", "order": "most", "k": "1", "where": "level=ERROR"}
UNDERSTOOD = {
    "Which service has the most errors?": ("top_k", MOST_ERRORS),
    "which service logged the most error records": ("top_k", MOST_ERRORS),
    "Which service has the most errors, and how many?": ("top_k", MOST_ERRORS),
    "Which services have the most errors?": ("top_k", MOST_ERRORS),
    "Which service has the fewest errors?": ("top_k", {**MOST_ERRORS, "order": "fewest"}),
    "Which service has the most errors and warnings?": ("top_k", {**MOST_ERRORS, "where": "level=ERROR|WARN"}),
    "Top 3 services by number of errors": ("top_k", {**MOST_ERRORS, "k": "3"}),
    "Which service has the most errors with status 500?": (
        "top_k",
        {**MOST_ERRORS, "where": "level=ERROR and status=500"},
    ),
    "What is the most common level?": ("top_k", {"field": "level", "order": "most", "k": "1"}),
    "Which status is rarest?": ("top_k", {"field": "status", "order": "fewest", "k": "1"}),
    "How many errors are there?": ("count", {"where": "level=ERROR"}),
    "How many errors does the auth service have?": ("count", {"where": "level=ERROR and service=auth"}),
    "How many errors in auth and billing?": ("count", {"where": "level=ERROR and service=auth|billing"}),
    "How many records have status >= 404?": ("count", {"where": "status>=404"}),
    "How many records have latency_ms over 1,000?": ("count", {"where": "latency_ms>1000"}),
    "What percentage of records are warnings?": ("count", {"where": "level=WARN"}),
    'How many records where service is "nobody"?': ("count", {"where": "service=nobody"}),
    "how many records where service is not auth": ("count", {"where": "service!=auth"}),
    'How many lines contain "timed out"?': ("count", {"where": 'line~"timed out"', "unit": "lines"}),
    "How many lines are there?": ("count", {"unit": "lines"}),
    "How many records are there in this file?": ("count", {}),
    "How many errors per service?": ("group_by", {"field": "service", "where": "level=ERROR"}),
    "Count the records by level": ("group_by", {"field": "level"}),
    "distribution of status": ("group_by", {"field": "status"}),
    "How many different services are there?": ("group_by", {"field": "service"}),
    "How many services are there?": ("group_by", {"field": "service"}),
    "Which service has the highest latency_ms?": (
        "top_k",
        {"order": "highest", "by": "latency_ms", "field": "service", "k": "1"},
    ),
    "What is the average latency_ms per service?": ("stats", {"field": "latency_ms", "of": "mean", "by": "service"}),
    "What is the median latency_ms?": ("stats", {"field": "latency_ms", "of": "median"}),
    "sum of latency_ms": ("stats", {"field": "latency_ms", "of": "sum"}),
    "What is the 95th percentile of latency_ms for auth?": (
        "stats",
        {"field": "latency_ms", "of": "p95", "where": "service=auth"},
    ),
    "Which service has the highest average latency_ms?": (
        "stats",
        {"field": "latency_ms", "of": "mean", "by": "service", "order": "highest", "k": "1"},
    ),
    "How many errors not from billing?": ("count", {"where": "level=ERROR and service!=billing"}),
    "How many errors except in auth?": ("count", {"where": "level=ERROR and service!=auth"}),
    "Which two services have the most errors?": ("top_k", {**MOST_ERRORS, "k": "2"}),
    "Which services have status 500?": ("list", {"field": "service", "where": "status=500"}),
    "How many records have latency_ms between 10 and 20?": ("count", {"where": "latency_ms>=10 and latency_ms<=20"}),
    "How many services start with b?": ("group_by", {"field": "service", "where": "service^=b"}),
    "How many distinkt services are there?": ("group_by", {"field": "service"}),
    "Which day has the most errors?": ("top_k", {**MOST_ERRORS, "field": "date"}),
    "top 5 records by latency ms": ("top_k", {"order": "highest", "by": "latency_ms", "k": "5"}),
}
ABSTAINED = """
total revenue
Summarize the log.
Why does billing fail?
Which service is the slowest?
How many latency_ms?
Which service has the most errors after 10:00?
How many errors are not errors?
How many users logged in?
Which user has the most errors?
What happened yesterday?
Is auth healthy?
Which service has the most errors per minute?
What does ERROR mean?
Who is responsible for the errors?
List all errors
How many errors per service per level?
Which service has the highest error rate?
Which service caused the most damage?
How many errors happened before billing failed?
Which two services are the best?
Total errors of latency
What is the average service?
Is the average latency_ms too high?
How many records have status ERROR?
How many records have level over auth?
How many records have level ERROR and level INFO?
How many records have status 500 or service auth?
Which service has the highest level?
How many 5xx errors?
Translate the log to French
the
?
""".strip().split("\n")


REPEATED = """
What percentage of errors are from billing?
What share of billing records are errors?
How many users have no errors?
How many users have no notes?
Which users are not in billing?
How many users are not in billing?
Which users have errors and warnings?
How many users have errors and warnings?
How many services have more than 3 records?
How many amounts have more than 2 records?
How many services have more than 3 errors?
How many services have service over 3?
Which services have no note?
""".strip().split("\n")


@pytest.mark.parametrize("question", REPEATED)
def test_what_goes_for_all_records_of_a_value_is_not_answered_by_single_ones(question):
    levels, services = ("ERROR", "WARN", "INFO"), ("auth", "billing", "web")
    rows = [
        f'{{"level": "{levels[at % 3]}", "service": "{services[at % 7 % 3]}", "user": "u{at % 5}", "amount": {at % 4}'
        + (', "note": "x"}' if at % 2 else "}")
        for at in range(60)
    ]
    assert isinstance(planned(question, "\n".join(rows)), Abstention)


@pytest.mark.parametrize("question", UNDERSTOOD)
@pytest.mark.parametrize("kind", ["kv", "csv", "jsonl"])
def test_a_question_that_is_covered_word_by_word_becomes_a_recipe(kind, question):
    assert planned(question, TEXTS[kind]) == UNDERSTOOD[question]


@pytest.mark.parametrize("question", ABSTAINED)
@pytest.mark.parametrize("kind", KINDS)
def test_anything_else_is_not_guessed_at(kind, question):
    assert isinstance(planned(question, TEXTS[kind]), Abstention)


def test_the_service_of_a_plain_log_is_the_one_name_at_the_head_of_its_lines():
    assert planned("Which service has the most errors?", TEXTS["log"]) == (
        "top_k",
        {**MOST_ERRORS, "field": "bracket1"},
    )
    two = "2026-11-01 10:00:00 [main] ERROR com.acme.Pay - x\n" * 9
    why = planned("Which service has the most errors?", two)
    assert isinstance(why, Abstention)
    assert why.tries == ("field=prefix", "field=bracket1")
    none = planned("Which service has the most errors?", "2026-11-01 10:00:00 ERROR pay timed out\n" * 9)
    assert isinstance(none, Abstention)
    assert "'service'" in none.reason


def test_a_pair_in_a_few_messages_does_not_hide_the_name_at_the_head():
    text = "2026-11-01 10:00:00 ERROR [pay] x\n" * 9 + "2026-11-01 10:00:00 ERROR [pay] x service=auth\n"
    why = planned("Which service has the most errors?", text)
    assert isinstance(why, Abstention)
    assert why.tries == ("field=service", "field=bracket1")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("level=ERROR status=error service=a\n", "where=level=ERROR"),
        ("level=ERROR service_id=a service_name=b\n", "field=service_id"),
        ("level=ERROR service=a error=yes\n", "field=error"),
        ("level=INFO service=error kind=error\n", "where=service=error"),
    ],
)
def test_two_candidates_are_both_named_as_slots(rows, says):
    why = planned("Which service has the most errors?", rows * 5)
    assert isinstance(why, Abstention)
    assert says in why.tries or any(says in one for one in why.tries)
    assert len(why.tries) >= 1


def test_names_differ_in_case_plural_and_separators():
    rows = "serviceName=a severity=E httpStatus=200\nserviceName=b severity=I httpStatus=500\n" * 5
    assert planned("Which service has the most errors?", rows) == (
        "top_k",
        {"field": "serviceName", "order": "most", "k": "1", "where": "severity=E"},
    )
    assert planned("Count records by http status", rows) == ("group_by", {"field": "httpStatus"})
    assert planned("Count records per service name", rows) == ("group_by", {"field": "serviceName"})


def test_fields_inside_objects_and_values_that_are_paths():
    rows = '{"user": {"plan": "pro"}, "path": "/login", "status": 200}\n{"user": {"plan": "free"}, "path": "/"}\n' * 5
    assert planned("Which plan is most common?", rows) == ("top_k", {"field": "user.plan", "order": "most", "k": "1"})
    assert planned("How many records have path /login?", rows) == ("count", {"where": "path=/login"})
    why = planned("Which path has the most errors?", rows)
    assert isinstance(why, Abstention)
    assert "no field of the records says what is meant by 'errors'" in why.reason


def test_a_level_that_no_record_has_is_counted_and_not_invented():
    assert planned("How many errors are there?", "level=INFO a=1\n" * 5) == ("count", {"where": "level=error"})


def test_a_rare_value_far_from_every_sample_is_found():
    text = "level=INFO service=a\n" * 200_000
    at = len(text) // 21 * 10 // 21 * 21
    text = text[:at] + "level=INFO service=zebra\n" + text[at:]
    assert planned("How many records for zebra?", text) == ("count", {"where": "service=zebra"})


def test_figures_by_the_items_of_a_list_are_not_those_of_its_combinations():
    rows = '{"tags": ["a", "b"], "price": 3}\n{"tags": ["b"], "price": 5}\n' * 5
    why = planned("What is the average price per tag?", rows)
    assert isinstance(why, Abstention)
    assert "tags holds lists" in why.reason


def test_files_of_a_folder_can_be_grouped():
    folder = {"a.log": TEXTS["kv"], "b.log": TEXTS["kv"]}
    assert planned("Which file has the most errors?", folder) == ("top_k", {**MOST_ERRORS, "field": "file"})
    assert isinstance(planned("Which file has the most errors?", TEXTS["kv"]), Abstention)


PYTHON_QUESTIONS = {
    EXCEPTIONS: ("subclasses", {"base": "Exception"}),
    "Which modules define a class that subclasses Exception?": ("subclasses", {"base": "Exception"}),
    "Which classes subclass socketserver.BaseServer?": ("subclasses", {"base": "socketserver.BaseServer"}),
    "What classes inherit from `Thread` in the standard library?": ("subclasses", {"base": "Thread"}),
    "List all subclasses of OSError": ("subclasses", {"base": "OSError"}),
    "How many subclasses of OSError are there?": ("subclasses", {"base": "OSError"}),
    "How many classes directly subclass Exception?": ("subclasses", {"base": "Exception"}),
    "Which classes transitively subclass Exception?": ("subclasses", {"base": "Exception", "transitive": "yes"}),
    "Where is OrderedDict defined?": ("definitions", {"name": "OrderedDict"}),
    "Where is the class OrderedDict defined?": ("definitions", {"name": "OrderedDict", "kind": "class"}),
    "Which module defines function urlopen?": ("definitions", {"name": "urlopen", "kind": "function"}),
    "Find the definition of json.loads": ("definitions", {"name": "json.loads"}),
    "What is the value of the constant LIMIT?": ("definitions", {"name": "LIMIT", "kind": "constant"}),
    "What arguments does urlopen take?": ("definitions", {"name": "urlopen"}),
    "Which modules raise TimeoutError, and in which functions?": ("usages", {"name": "TimeoutError", "how": "raise"}),
    "Where is TimeoutError caught?": ("usages", {"name": "TimeoutError", "how": "catch"}),
    "Who calls json.loads()?": ("usages", {"name": "json.loads", "how": "call"}),
    "Which modules import asyncio?": ("usages", {"name": "asyncio", "how": "import"}),
    "Where is `LIMIT` used? Line numbers please.": ("usages", {"name": "LIMIT"}),
    "How many classes are there?": ("count", {"unit": "classes"}),
    "How many functions are there in a.py?": (
        "group_by",
        {"unit": "functions", "field": "kind", "where": "file$=a.py"},
    ),
    "Which functions have no docstring?": ("list", {"unit": "functions", "field": "name", "where": "docstring=no"}),
    "Which async functions are there?": ("list", {"unit": "functions", "field": "name", "where": "async=yes"}),
    "Which methods does A have?": ("list", {"unit": "methods", "field": "name", "where": "within=A"}),
    "Which module defines the most classes?": (
        "top_k",
        {"unit": "modules", "by": "classes.count", "order": "highest", "field": "name"},
    ),
    "What are the 3 longest functions?": (
        "top_k",
        {"unit": "functions", "by": "lines", "order": "highest", "field": "name", "k": "3"},
    ),
}
NOT_PYTHON = """
Which modules do not define a class that subclasses Exception?
Which modules define a class that subclasses Exception without a docstring?
Which classes subclass nothing?  And why?
Which modules define the most classes that subclass Exception?
Does ValueError subclass Exception?
Which modules import too much?
How many functions are too long?
Which functions call json.loads twice?
Who wrote OrderedDict?
Explain OrderedDict
Which modules define a class that subclasses Exception or OSError?
Which classes that subclass Exception are used?
Where is it defined?
Which functions are never called?
Which functions are not called?
Where is nothing raised?
""".strip().split("\n")


@pytest.mark.parametrize("question", PYTHON_QUESTIONS)
def test_questions_about_python(question):
    assert planned(question, PYTHON) == PYTHON_QUESTIONS[question]


@pytest.mark.parametrize("question", NOT_PYTHON)
def test_other_questions_about_python_are_not_guessed_at(question):
    assert isinstance(planned(question, PYTHON), Abstention)


def test_a_recipe_needs_data_that_it_reads():
    assert planned(EXCEPTIONS, TEXTS["kv"]) == Abstention("the context has no Python files")
    why = planned("[recipe group_by field=a] x", "Some prose.")
    assert isinstance(why, Abstention)
    assert "no records" in why.reason


def test_a_few_records_among_other_files_are_not_what_is_asked_about():
    folder = {"big.txt": "Some prose.\n" * 5000, "small.log": TEXTS["kv"]}
    assert isinstance(planned("How many errors are there?", folder), Abstention)
    assert planned('[recipe count where="level=ERROR"] x', folder) == ("count", {"where": "level=ERROR"})


def test_a_named_recipe_is_taken_at_its_word():
    assert planned("[recipe group_by field=level] Why?", TEXTS["kv"]) == ("group_by", {"field": "level"})
    why = planned("[recipe group_by fields=level] Why?", TEXTS["kv"])
    assert isinstance(why, Abstention)
    assert "no slot 'fields'" in why.reason


def test_a_question_too_long_to_be_seen_whole_is_not_answered():
    assert planned("How many errors are there?" + " " * 5000 + "x", TEXTS["kv"]) == Abstention(
        "the question is too long"
    )


PROSE = "Of ships\n\nA crow sat on the fence of an old farm.\n\nThe farmer sold his cows and bought a ship.\n" * 3
TEXT_QUESTIONS = {
    "How many times does the word ship occur?": ("occurrences", {"text": "ship"}),
    "How often is Nineveh mentioned in the book?": ("occurrences", {"text": "Nineveh"}),
    'Where does the phrase "old farm" first appear?': ("occurrences", {"text": "old farm"}),
    "Which word occurs more often, crow or ship?": ("occurrences", {"text": "crow|ship"}),
    "How many paragraphs are there?": ("count", {"unit": "paragraphs"}),
    "Find the passages about ships": ("search", {"query": "ships", "strict": "yes"}),
    "What does the book say about old farms?": ("search", {"query": "old farms", "strict": "yes"}),
    "Who sold his cows?": ("search", {"query": "sold cows", "strict": "yes", "k": "5"}),
    "Where did the crow sit?": ("search", {"query": "crow sit", "strict": "yes", "k": "5"}),
}
NOT_TEXT = """
Why did the crow sit on the fence?
Who is the best farmer, the old or the new?
Should the farmer have sold his cows?
Summarize the story.
Is the crow old?
What is the mood of the farmer?
Who?
What is it about?
Does the farmer like the crow?
Which section has the most farms?
What is the total old farm?
""".strip().split("\n")


@pytest.mark.parametrize("question", TEXT_QUESTIONS)
def test_questions_about_prose(question):
    assert planned(question, PROSE) == TEXT_QUESTIONS[question]


@pytest.mark.parametrize("question", NOT_TEXT)
def test_opinions_and_reasons_are_not_looked_for_in_prose(question):
    plan = planned(question, PROSE)
    if isinstance(plan, tuple):  # a search for words that no passage has together ends in an abstention
        slots = plan[1]
        assert plan[0] == "search"
        assert find(chosen(pieces_of(PROSE), "text", ""), slots)["full"] == 0


THINGS = """thing,kind,size_kb,in_stock,note
apple,fruit,3,true,
pear,fruit,4,false,soft
table,furniture,900,true,
chair,furniture,300,true,oak
lamp,light,40,false,
"""
THING_QUESTIONS = {
    "How many things are there?": ("count", {}),
    "How many fruit things are in stock?": ("count", {"where": "kind=fruit and in_stock=true"}),
    "Which things are not in stock?": ("list", {"field": "thing", "where": "in_stock=false"}),
    "What kind of thing is the lamp?": ("list", {"field": "kind", "where": "thing=lamp"}),
    "What is the size of the chair?": ("list", {"field": "size_kb", "where": "thing=chair"}),
    "Which thing is the biggest?": ("top_k", {"field": "thing", "by": "size_kb", "order": "highest", "k": "1"}),
    "What are the 2 smallest things?": ("top_k", {"field": "thing", "by": "size_kb", "order": "lowest", "k": "2"}),
    "How many things are larger than 100 kb?": ("count", {"where": "size_kb>100"}),
    "How many things have a note?": ("count", {"where": "note=*"}),
    "Which things are without a note?": ("list", {"field": "thing", "where": "note!=*"}),
    "What is the total size per kind?": ("stats", {"field": "size_kb", "of": "sum", "by": "kind"}),
    "How many things end with e?": ("count", {"where": "thing$=e"}),
}
NOT_THINGS = """
How many things are larger than the lamp?
Which things are useful?
How many things cost more than 5?
Which thing is the oldest?
What is the best kind?
How heavy is the table?
What is the thing?
How many things are 5?
""".strip().split("\n")


@pytest.mark.parametrize("question", THING_QUESTIONS)
def test_records_are_named_by_the_field_that_tells_them_apart(question):
    assert planned(question, THINGS) == THING_QUESTIONS[question]


@pytest.mark.parametrize("question", NOT_THINGS)
def test_what_the_records_do_not_say_is_not_guessed_at(question):
    assert isinstance(planned(question, THINGS), Abstention)


def test_settings_are_asked_for_by_their_keys():
    text = "# kernel\nvm.swappiness = 60\nkernel.pid_max = 32768\nnet.ipv4.tcp_syncookies = 1\nvm.laptop_mode = 0\n"
    assert planned("What is vm.swappiness set to?", text) == ("list", {"field": "value", "where": "key=vm.swappiness"})
    assert planned("How many settings are there?", text) == ("count", {})
    assert planned("Which settings start with vm?", text) == ("list", {"field": "key", "where": "key^=vm"})


def test_the_words_of_a_plain_log_are_fields_by_their_place_and_values_name_them():
    text = "".join(
        f"2026-11-{1 + n % 9:02} 10:00:00 {('install', 'upgrade', 'remove')[n % 3]} pkg{n % 7}:amd64 1.{n}\n"
        for n in range(99)
    )
    assert planned("How many upgrades were there?", text) == ("count", {"where": "word3=upgrade"})
    assert planned("Count the lines by action (install, upgrade, remove)", text) == ("group_by", {"field": "word3"})
    assert planned("How many lines for pkg3?", text) == ("count", {"where": "word4=pkg3:amd64"})
    busiest = planned("What is the busiest day, and how many lines does it have?", text)
    assert busiest == ("top_k", {"field": "date", "order": "most", "k": "1"})
