"""Write the pages of docs/reference/ that follow from the code: `python scripts/reference.py`.

People read these pages on the code host too, so they are committed; tests/test_reference.py compares them with the code.
"""

import ast
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "{{cookiecutter.project_slug}}"
PACKAGE = PROJECT / "{{cookiecutter.project_slug}}"
REFERENCE = ROOT / "docs" / "reference"
QUESTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
NOTICE = "<!-- Written by scripts/reference.py. -->"
SLUG = "wiki"
# The derived values of cookiecutter.json that need no filter of answer_checks.py.
DERIVED_VALUES = [
    name for name in QUESTIONS if name.startswith("__") and "__checked" not in name and name != "__prompts__"
]
# The answers on which variables and settings depend.
VARYING_QUESTIONS = ("starter", "database", "channels", "server", "django_version")

templates = Environment(loader=FileSystemLoader(ROOT), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)


def choices(question: str) -> list[Any]:
    values = QUESTIONS[question]
    return list(values) if isinstance(values, list) else [False, True]


def all_answers() -> Iterator[dict[str, Any]]:
    for values in itertools.product(*map(choices, VARYING_QUESTIONS)):
        answers = dict(zip(VARYING_QUESTIONS, values, strict=True))
        # Some starters always include Channels.
        yield answers | {"channels": bool(templates.from_string(QUESTIONS["__channels"]).render(cookiecutter=answers))}


def render(path: Path, answers: Mapping[str, Any]) -> str:
    """Render a file of the template as cookiecutter does."""
    context: dict[str, Any] = {"project_slug": SLUG, "project_name": "Wiki", "ci": "github", **answers}
    for name in DERIVED_VALUES:
        value = QUESTIONS[name]
        is_template = isinstance(value, str)
        context[name] = templates.from_string(value).render(cookiecutter=context) if is_template else value
    return (
        templates.get_template(path.relative_to(ROOT).as_posix())
        .render(cookiecutter=context)
        .replace("@SITE_NAME@", '"Wiki"')
    )


def condition(answers_with: list[dict[str, Any]]) -> str:
    """Describe the projects that contain something, given all answers with which they contain it."""
    words = []
    for question in VARYING_QUESTIONS:
        values = [value for value in choices(question) if any(each[question] == value for each in answers_with)]
        if len(values) == len(choices(question)):
            continue
        missing = [value for value in choices(question) if value not in values]
        if question == "channels":
            words.append("Channels" if values == [True] else "no Channels")
        elif len(missing) < len(values):
            words.append(f"a `{question}` other than {' and '.join(f'`{value}`' for value in missing)}")
        else:
            words.append(" or ".join(f"`{question}={value}`" for value in values))
    return ", ".join(words)


# Variables and settings


@dataclass
class Variable:
    name: str
    accepted: str
    default: str = ""
    effect: str = ""
    condition: str = ""


LIST_ITEMS = {
    "host": "host names",
    "origin": "origins such as `https://www.example.com`",
    "network": "addresses, networks, or `*`",
    "address": "email addresses",
    "web_url": "`http://` or `https://` URLs",
}
VALIDATED_TEXT = {
    "language": "a language code such as `de`",
    "time_zone": "a time zone such as `Europe/Berlin`",
    "url_path": "a path such as `/app`",
    "rate": "a rate such as `600/m`: per second (`s`), minute, hour or day",
}
# Read by Docker Compose or by Django, not by settings.py.
OTHER_VARIABLES = {
    "DJANGO_SETTINGS_MODULE": "the dotted name of a module",
    "POSTGRES_PASSWORD": "text",
    "REDIS_PASSWORD": "letters and digits",
}
COMPOSE_VARIABLES = [
    ("SITE_ADDRESS", "`localhost`", "The host name for which Caddy gets a certificate."),
    ("HTTP_PORT", "`80`", "The port on which Caddy listens for HTTP. It redirects to HTTPS."),
    ("HTTPS_PORT", "`443`", "The port on which Caddy listens for HTTPS."),
]
# The settings of settings.py that are the project's own, or whose values intentionally differ from a library's default.
SETTINGS = {
    "SITE_NAME": "The name of the site, which every page shows.",
    "SECURITY_HEADERS": "Headers of every response, unless its view sets them.",
    "SCRIPT_NAME": "The value of `DJANGO_SCRIPT_NAME` without the slash at its end.",
    "SERVER_TIMING": "Whether responses have a `Server-Timing` header.",
    "ADDRESS_FAILURE_LIMIT": "How many wrong passwords from one IP address, for any usernames, lock out the address.",
    "AXES_FAILURE_LIMIT": "How many wrong passwords for one username from one IP address lock out that pair.",
    "AXES_COOLOFF_TIME": "How long a lockout lasts.",
    "SILENCED_SYSTEM_CHECKS": "Warnings about HSTS for subdomains and preload lists, which are for the domain's owner to decide.",
}


def read_variables(source: str) -> dict[str, Variable]:
    """Return the variables that settings.py reads, with the values that each accepts."""
    variables = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("env.") and node.args:
            name = ast.literal_eval(node.args[0])
            variables[name] = Variable(name, accepted_values(node))
    return variables


def accepted_values(call: ast.Call) -> str:
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    match ast.unparse(call.func).removeprefix("env."):
        case "bool":
            return "`true` or `false`"
        case "int":
            limits = options[None]  # **whole_number(minimum, maximum)
            assert isinstance(limits, ast.Call)
            minimum, maximum = (eval(ast.unparse(limit)) for limit in limits.args)
            return f"a whole number from {minimum} to {maximum:,}"
        case "csv":
            return f"{LIST_ITEMS[ast.unparse(options['validate_each'])]}, separated by commas"
        case "database_url" | "service_url":
            return ", ".join(f"`{scheme}://…`" for scheme in ast.literal_eval(options["schemes"]))
        case "email_url":
            return "a URL, as in [this table](settings.md)"
        case "str":
            return accepted_text(options.get("validate"))
        case method:
            raise LookupError(f"scripts/reference.py does not know what env.{method} accepts")


def accepted_text(validate: ast.expr | None) -> str:
    if validate is None:
        return "text"
    if isinstance(validate, ast.Call):  # one_of("text", "json")
        return " or ".join(f"`{ast.literal_eval(choice)}`" for choice in validate.args)
    return VALIDATED_TEXT[ast.unparse(validate)]


def read_readme_table(readme: str) -> dict[str, tuple[str, str]]:
    """Return the default and the effect of each variable, from the table in the project's README."""
    rows = [line[2:-2].split(" | ", 2) for line in readme.splitlines() if line.startswith("| `")]
    return {name.strip("`"): (default, effect) for name, default, effect in (row for row in rows if len(row) == 3)}


def collect_variables() -> list[Variable]:
    variables: dict[str, Variable] = {}
    answers_with: dict[str, list[dict[str, Any]]] = {}
    defaults: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for answers in all_answers():
        table = read_readme_table(render(PROJECT / "README.md", answers))
        accepted = {name: Variable(name, text) for name, text in OTHER_VARIABLES.items()}
        accepted |= read_variables(render(PACKAGE / "settings.py", answers))
        for name, (default, effect) in table.items():
            if name not in accepted:
                raise LookupError(f"{name} is in the project's README, and settings.py does not read it")
            variable = variables.setdefault(name, accepted[name])
            if accepted[name].accepted not in variable.accepted:
                variable.accepted += f", {accepted[name].accepted}"
            if not variable.effect or len(effect) < len(variable.effect):
                variable.effect = effect
            answers_with.setdefault(name, []).append(answers)
            defaults.setdefault(name, {}).setdefault(default, []).append(answers)
        # With daphne, which runs one process, settings.py reads WEB_CONCURRENCY and the README leaves it out.
        missing = accepted.keys() - table.keys() - {*OTHER_VARIABLES, "WEB_CONCURRENCY"}
        if missing:
            raise LookupError(f"settings.py reads {missing}, and the project's README does not say so")
    for name, variable in variables.items():
        variable.condition = condition(answers_with[name])
        texts = defaults[name]
        variable.default = "; ".join(
            f"{text} ({condition(each)})" if len(texts) > 1 else text for text, each in texts.items()
        )
    return list(variables.values())


def sentence(text: str) -> str:
    """Return the text with a capital letter at the beginning and a period at the end."""
    text = text.strip()
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def variables_page() -> str:
    lines = [
        "# Environment variables and settings",
        "",
        "This page lists the environment variables that configure a generated project, and the settings that the project",
        "adds to Django's. To learn how they work together, read [how settings work](settings.md).",
        "",
        "`settings.py` reads the variables from the environment and, in development, from `.env`. An empty variable counts",
        "as not set. An invalid variable stops startup with an error that names the variable and what it accepts.",
        "",
        "## Environment variables",
    ]
    for variable in collect_variables():
        lines += ["", f"### `{variable.name}`", "", sentence(variable.effect), ""]
        lines += [f"- Accepts: {variable.accepted}", f"- Default: {variable.default}"]
        if variable.condition:
            lines.append(f"- Only in projects with {variable.condition}")
    lines += ["", "## Docker Compose", "", "`compose.yaml` and `Caddyfile` also read these variables:", ""]
    lines += ["| variable | default | effect |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {default} | {effect} |" for name, default, effect in COMPOSE_VARIABLES]
    lines += ["", "## Settings of the ASGI core", ""]
    lines += [
        "To change one of these, set it in `settings.py`. You can also set `ASGI_THREADS` in the environment.",
        "",
    ]
    lines += ["| setting | type | default | effect |", "| --- | --- | --- | --- |", *core_settings()]
    lines += ["", "## Other settings", ""]
    lines += [
        "Settings that are the project's own, or whose values intentionally differ from the defaults of Django or a library:",
        "",
    ]
    lines += ["| setting | type | value | effect |", "| --- | --- | --- | --- |", *other_settings()]
    return "\n".join(lines)


def core_settings() -> Iterator[str]:
    source = (PACKAGE / "serving" / "conf.py").read_text(encoding="utf-8")
    [defaults] = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DEFAULTS"
    ]
    assert isinstance(defaults, ast.Dict)
    comment: list[str] = []
    values = ast.literal_eval(defaults)
    for line in source.splitlines():
        if line.startswith("    # "):
            comment.append(line.removeprefix("    # "))
        elif line.startswith('    "ASGI_'):
            name = line.split('"')[1]
            yield f"| `{name}` | `{type(values[name]).__name__}` | `{values[name]}` | {' '.join(comment)} |"
            comment = []


def other_settings() -> Iterator[str]:
    values: dict[str, str] = {}
    for answers in all_answers():
        for node in ast.walk(ast.parse(render(PACKAGE / "settings.py", answers))):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values.setdefault(node.targets[0].id, ast.unparse(node.value))
    for name, effect in SETTINGS.items():
        if name not in values:
            raise LookupError(f"scripts/reference.py explains {name}, and settings.py does not set it")
        value = values[name]
        is_from_environment = "env." in value or "script_name" in value
        shown = (
            "from the environment" if is_from_environment else f"`{value}`" if len(value) < 60 else "see `settings.py`"
        )
        yield f"| `{name}` | `{setting_type(value)}` | {shown} | {effect} |"


def setting_type(value: str) -> str:
    node = ast.parse(value, mode="eval").body
    if isinstance(node, ast.Call):
        return "bool" if ".bool(" in value else "str" if "script_name" in value else "timedelta"
    return type(ast.literal_eval(node)).__name__


# The serving package

# The question to which each folder of `_parts` belongs.
PART_QUESTIONS = {"servers": "server", "databases": "database", "django": "django_version", "starters": "starter"}
# The names that a project's own code may import. All others are internal.
FOR_PROJECTS = {
    "streams": ["EventStreamResponse", "ServerSentEvent", "get_last_event_id"],
    "pubsub": ["publish", "publish_sync", "subscribe", "Subscription", "PayloadTooLarge"],
    "lifespan": ["LifespanState", "LifespanMiddleware"],
    "deferred_calls": ["defer"],
    "middleware": ["AsyncMiddlewareMixin"],
    "handler": ["get_asgi_application"],
    "threads": ["ThreadPool", "BackgroundThreadsMiddleware"],
}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    name: str
    tree: ast.Module
    condition: str = ""

    @property
    def summary(self) -> str:
        return first_line(self.tree)

    def definitions(self) -> list[Definition]:
        return [node for node in self.tree.body if isinstance(node, Definition) and not node.name.startswith("_")]


def read_modules() -> list[Module]:
    """Return the modules of serving/, including those that come with certain answers."""
    answers = {
        "starter": "live",
        "database": "postgresql",
        "channels": True,
        "server": "uvicorn",
        "django_version": "5.2",
    }
    modules = [
        Module(path.stem, ast.parse(render(path, answers)))
        for path in sorted((PACKAGE / "serving").glob("*.py"))
        if path.stem != "__init__"
    ]
    parts = PROJECT / "_parts"
    for path in sorted(parts.glob("*/*/{{cookiecutter.project_slug}}/serving/*.py")):
        question, value = path.relative_to(parts).parts[:2]
        name = PART_QUESTIONS[question]
        modules.append(Module(path.stem, ast.parse(render(path, answers)), f"`{name}={value}`"))
    return modules


def first_line(node: ast.Module | Definition) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def signature(node: Definition, prefix: str = "") -> str:
    """Return the signature as code, with annotations, on as many lines as it needs."""
    name = prefix + node.name
    if isinstance(node, ast.ClassDef):
        arguments, returns = constructor_arguments(node), ""
    else:
        arguments = argument_list(node.args)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        name = f"async {name}" if isinstance(node, ast.AsyncFunctionDef) else name
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= 88:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){returns}"])


def constructor_arguments(node: ast.ClassDef) -> list[str]:
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return argument_list(method.args)
    if any("dataclass" in ast.unparse(each) for each in node.decorator_list) or "NamedTuple" in bases(node):
        return [ast.unparse(field) for field in node.body if isinstance(field, ast.AnnAssign)]
    return []


def bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base) for base in node.bases]


def argument_list(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    words = [argument(each, default) for each, default in zip(positional, defaults, strict=True) if each.arg != "self"]
    if arguments.posonlyargs:
        words.insert(len([each for each in arguments.posonlyargs if each.arg != "self"]), "/")
    if arguments.vararg:
        words.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        words.append("*")
    words += [argument(*each) for each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        words.append(f"**{ast.unparse(arguments.kwarg)}")
    return words


def argument(node: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(node) + (f" = {ast.unparse(default)}" if default else "")


def documented_definition(node: Definition) -> list[str]:
    lines = ["", f"### `{node.name}`", "", "```python", signature(node), "```", "", ast.get_docstring(node) or ""]
    for method in node.body if isinstance(node, ast.ClassDef) else []:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or method.name.startswith("_"):
            continue
        if ast.get_docstring(method):
            lines += ["", "```python", signature(method, f"{node.name}."), "```", "", ast.get_docstring(method) or ""]
    return lines


def serving_page() -> str:
    modules = read_modules()
    by_name = {module.name: module for module in reversed(modules)}
    lines = [
        "# The serving package",
        "",
        "This page lists the classes and functions of the package `<slug>/serving/`, which each project has. The first",
        f"section describes those that your own code can use. In imports, replace `{SLUG}` with your project's slug.",
        "",
        "## For your code",
    ]
    for module, names in FOR_PROJECTS.items():
        lines += ["", f"From `{SLUG}.serving.{module}`:"]
        definitions = {node.name: node for node in by_name[module].definitions()}
        for name in names:
            lines += documented_definition(definitions[name])
    lines += [
        "",
        "## All modules",
        "",
        "Names that are not in the first section are internal, and may change with any version.",
    ]
    for each in modules:
        lines += [
            "",
            f"### `serving/{each.name}.py`" + (f" ({each.condition})" if each.condition else ""),
            "",
            each.summary,
        ]
        entries = [
            f"- `{' '.join(signature(node).split())}`".replace("( ", "(").replace(", )", ")")
            for node in each.definitions()
        ]
        notes = [first_line(node) for node in each.definitions()]
        lines += [""] + [entry + (f": {note}" if note else "") for entry, note in zip(entries, notes, strict=True)]
    return "\n".join(lines)


# System checks


def checks_page() -> str:
    lines = [
        "# System checks",
        "",
        "This page lists the system checks that a project has in addition to Django's. Look here when `manage.py check`",
        "reports an id that begins with `serving`. The checks run if `INSTALLED_APPS` contains `<slug>.serving`. To silence",
        "one, add its id to `SILENCED_SYSTEM_CHECKS`.",
    ]
    tree = ast.parse((PACKAGE / "serving" / "checks.py").read_text(encoding="utf-8"))
    entries: dict[str, list[str]] = {}
    texts: dict[str, ast.expr] = {}  # the value of each variable at the current line
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.Assign):
            texts[ast.unparse(node.targets[0])] = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("Warning", "Error"):
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            entries[ast.literal_eval(options["id"])] = [
                f"- Level: {ast.unparse(node.func).lower()}",
                f"- Message: {text_of(node.args[0], texts)}",
                f"- Hint: {text_of(options['hint'], texts)}",
            ]
    for identifier, entry in sorted(entries.items(), key=lambda item: item[0].split(".")[1][1:]):
        lines += ["", f"## `{identifier}`", "", *entry]
    return "\n".join(lines)


def text_of(node: ast.expr, variables: Mapping[str, ast.expr]) -> str:
    """Return the text of a string or an f-string, with its variables in angle brackets."""
    if isinstance(node, ast.Name):
        return text_of(variables[node.id], variables)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"`<{ast.unparse(part.value)}>`" if isinstance(part, ast.FormattedValue) else str(ast.literal_eval(part))
            for part in node.values
        )
    return str(ast.literal_eval(node))


# Questions


def questions_page() -> str:
    lines = [
        "# Questions",
        "",
        "This page lists the questions that cookiecutter asks when it generates a project, with the possible answers. Press",
        "Enter to accept a default. To generate a project without questions, pass the answers as arguments. Questions that",
        "you leave out get their defaults:",
        "`uvx cookiecutter --no-input gh:ORG/cookiecutter-django-asgi project_name=wiki server=granian`.",
    ]
    for name, prompt in QUESTIONS["__prompts__"].items():
        default = QUESTIONS[name]
        text = prompt if isinstance(prompt, str) else prompt["__prompt__"]
        lines += ["", f"## `{name}`", "", text, ""]
        if isinstance(default, list):
            for number, choice in enumerate(default):
                label = prompt[choice].partition("-")[2].strip()
                lines.append(f"- `{choice}`{' (default)' if number == 0 else ''}: {label}")
        elif isinstance(default, bool):
            lines += ["- `no` (default)", "- `yes`"]
        elif "{{" in default:
            lines.append("- Default: derived from `project_name`")
        else:
            lines.append(f"- Default: `{default}`")
    return "\n".join(lines)


PAGES = {
    "variables.md": variables_page,
    "serving.md": serving_page,
    "checks.md": checks_page,
    "questions.md": questions_page,
}


def write_pages(folder: Path) -> None:
    for name, make_page in PAGES.items():
        (folder / name).write_text(f"{NOTICE}\n{make_page().rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    write_pages(REFERENCE)
