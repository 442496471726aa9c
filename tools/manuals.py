"""A Sphinx extension that generates manual pages, with descriptions from the programs' --help.

The page of a subcommand is generated from its argument parser. Other pages are written by hand, and
include generated texts by the directive ``from-program``: the options of a native program, the list
of subcommands, or the records of a launch.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from root_pages import write_changed
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from usernsctl.cli.completion.model import help_entries
from usernsctl.cli.parser import VERBS, Parser, option_metavar, usernsctl
from usernsctl.gvisor.launch.steps import VERBS as RECORDS

#: The directory of all manual pages, relative to Sphinx's source directory.
PAGES = "manual"
#: The directory of the generated manual pages, relative to Sphinx's source directory.
MADE = f"{PAGES}/verbs"

#: The pages that are written by hand, with their sections and descriptions. The page of the program
#: usernsctl-exec is also the page of the subcommand exec.
WRITTEN = {
    "usernsctl": ("1", "run programs in user namespaces and in gVisor, without root"),
    "usernsctl-exec": ("1", "execute a command in a new user namespace, or in gVisor"),
    "usernsctl-entrypoint": ("1", "run a container's command in gVisor"),
    "usernsctl-launch": ("5", "file with the steps of a program's start in gVisor"),
}

# The page of the documentation site with more about a subcommand, by the subcommand's first word.
_MORE = {
    "run": ("run.md", "Running a command in gVisor"),
    "freeze": ("run.md", "Running a command in gVisor"),
    "wrap": ("run.md", "Running a command in gVisor"),
    "bundle": ("bundle.md", "Bundles"),
    "ns": ("namespaces.md", "Persistent namespaces"),
    "template": ("templates.md", "Templates"),
    "ps": ("python.md", "Detached sandboxes"),
    "cp": ("python.md", "Detached sandboxes"),
    "plan": ("maps.md", "Maps"),
    "doctor": ("doctor.md", "doctor"),
    "explain": ("explain.md", "explain"),
    "seccomp-profile": ("docker.md", "Docker"),
    "apparmor-profile": ("docker.md", "Docker"),
    "docker-args": ("docker.md", "Docker"),
}

# The core's table of launch records.
_RULES = Path(__file__).parent.parent / "csrc" / "launch" / "verbs.h"
# Matches a record in _RULES, and captures the name of the record and the part of a launch to which
# the record belongs.
_RULE = re.compile(r'VERB\(\w+, "([a-z-]+)", ([A-Z_]+),')
_PARTS = {
    "REMEDY": "Remedy",
    "IDS": "The ids",
    "SOURCES": "Files of the machine",
    "ASSUMED": "Programs that must not change",
    "SCRATCH": "The run's own tmpfs",
    "STEPS": "The root filesystem",
    "FILES": "The run's own files",
    "CONFIG": "config.json, in pieces",
    "MOMENT": "What the command gets of whoever starts it",
    "PRIVILEGES": "Privileges to drop",
    "WATCHER": "What is executed",
    "END": "The end",
}
# The arguments and effects of the records that are not in RECORDS.
_EFFECTS: dict[str, tuple[tuple[str, ...], str]] = {
    "idmap": (("option",), "an option of usernsctl-exec about the map of ids"),
    "json": (("text",), "write {text}"),
    "json-several": (("text",), "write {text}, if several ids are mapped"),
    "json-args": ((), "write the command and its arguments"),
    "json-env": ((), "write the environment"),
    "json-cwd": ((), "write the directory that the command starts in"),
    "json-hostname": ((), "write the name of the host"),
    "json-uid-map": ((), "write the map of uids"),
    "json-gid-map": ((), "write the map of gids"),
    "json-root": ((), "write the path of the root filesystem"),
    "json-bind-source": (("bind",), "write the source of a bind mount"),
    "json-bind-destination": (("bind",), "write the destination of a bind mount"),
    "env-all": ((), "pass on all variables"),
    "env-name": (("name",), "pass on the variable {name}, if there is one"),
    "env-need": (("name",), "pass on the variable {name}, which must be there"),
    "env-set": (("setting",), "set a variable: NAME=VALUE"),
    "arg": (("word",), "a word of the command, unless there are words to take its place"),
    "watch": (("word",), "a word of the watcher's command line, which ends with that of runsc"),
    "runsc-env": (("setting",), "a variable of the watcher and runsc: NAME=VALUE"),
    "end": ((), "nothing follows"),
}

# Matches a word of a manual page. A backslash escape or a link may contain spaces.
_WORD = re.compile(r"(?:\\X'[^']*'|\\.|[^ \\])+")

# Descriptions of options that --help lists without a description.
_ALWAYS = {"-h, --help": "show a summary and end", "-V, --version": "show the version and end"}

# Maximum length of a line of text in a manual page, in characters.
_WIDTH = 80

# Address of the manual pages of other projects.
_OTHERS = "https://manpages.debian.org/"

# Related manual pages of each subcommand, besides usernsctl(1).
_RELATED = {
    "run": ("usernsctl-freeze(1)", "usernsctl-doctor(1)", "usernsctl-explain(1)"),
    "freeze": ("usernsctl-run(1)", "usernsctl-exec(1)", "usernsctl-launch(5)"),
    "wrap": ("usernsctl-run(1)", "usernsctl-template(1)"),
    "ns": ("usernsctl-exec(1)", "nsenter(1)", "user_namespaces(7)"),
    "template": ("usernsctl-run(1)",),
    "ps": ("usernsctl-cp(1)",),
    "cp": ("usernsctl-run(1)", "usernsctl-ps(1)"),
    "plan": ("usernsctl-exec(1)", "subuid(5)", "newuidmap(1)", "user_namespaces(7)"),
    "doctor": ("usernsctl-explain(1)",),
    "explain": ("usernsctl-doctor(1)",),
    "bundle": ("usernsctl-run(1)",),
}

# Matches an option, environment variable or program of usernsctl in a sentence, to format it as
# literal text.
_TYPED = re.compile(
    r"`([^`]+)`"
    r"|(?<![\w-])(--?[A-Za-z][\w-]*|\$[A-Z_]+|--"
    rf"|usernsctl(?:-[a-z]+| (?:{'|'.join(VERBS)})))(?![\w-])"
)
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~^$!])")
_STATUS = re.compile(r"^(The exit status|Exit status: )")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Option:
    """An option as written in a manual page, with its names and argument, and its description."""

    written: str
    help: str


# ---- text ----------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Return a text of --help as Markdown: special characters escaped, options as literals."""
    text = _SPACES.sub(" ", text)
    found, end = "", 0
    for typed in _TYPED.finditer(text):
        found += _SPECIAL.sub(r"\\\1", text[end : typed.start()]) + f"`{typed[1] or typed[2]}`"
        end = typed.end()
    return found + _SPECIAL.sub(r"\\\1", text[end:])


def _block(name: str, argument: str, content: Iterable[str] = ()) -> Iterator[str]:
    yield f":::{{{name}}} {argument}"
    yield from content
    yield ":::"
    yield ""


def _listed(program: str, options: Iterable[Option]) -> Iterator[str]:
    """Yield lines with a Sphinx directive for each of a program's options."""
    yield from _block("program", program)
    for option in options:
        yield from _block("option", option.written, [prose(option.help)])


# ---- the page of a subcommand --------------------------------------------------------------------


def _help_parts(verb: Parser) -> tuple[list[str], list[str], list[str]]:
    """Return a subcommand's description, the paragraphs about its exit status, and its examples."""
    description: list[str] = []
    status: list[str] = []
    examples: list[str] = []
    for paragraph in verb.paragraphs():
        if paragraph.startswith("    "):
            examples += ("```sh", *textwrap.dedent(paragraph).splitlines(), "```", "")
        elif _STATUS.match(paragraph):
            status += (prose(paragraph.removeprefix("Exit status: ")), "")
        else:
            description += (prose(paragraph), "")
    return description, status, examples


def commands_of(verb: Parser) -> Iterator[Parser]:
    """Yield the subcommand `verb`, or all subcommands of the group `verb`."""
    if not verb.verbs:
        yield verb
    for name in verb.verbs:
        yield from commands_of(verb.find(name))


def _options_section(verb: Parser, level: str) -> Iterator[str]:
    for heading, actions in verb.headings.items():
        # Omit --help, because every subcommand has it.
        options = [
            Option(_written(one), str(one.help))
            for one in actions
            if "--help" not in one.option_strings
        ]
        if heading and options:
            yield from (f"{level} {heading}", "")
        if options:
            yield from _listed(verb.prog.replace(" ", "-"), options)


def _written(option: argparse.Action) -> str:
    value = "" if option.nargs == 0 else f" {option_metavar(option)}"
    return ", ".join(f"{flag}{value}" for flag in option.option_strings)


def _one_command(verb: Parser) -> Iterator[str]:
    """Yield the lines of all sections about a subcommand that is not a group."""
    description, status, examples = _help_parts(verb)
    sections = (
        ("Description", description),
        ("Options", [*_options_section(verb, "###")]),
        ("Exit status", status),
        ("Examples", examples),
    )
    for heading, lines in sections:
        if lines:
            yield from (f"## {heading}", "", *lines)


def _group(group: Parser) -> Iterator[str]:
    description, _, _ = _help_parts(group)
    yield from ("## Description", "", *description, "## Commands", "")
    for verb in commands_of(group):
        description, status, examples = _help_parts(verb)
        yield from (f"### {verb.prog}", "", *description, *status)
        yield from (*_options_section(verb, "####"), *examples)


def _page(name: str, verb: Parser) -> str:
    lines = [f"# usernsctl-{name}", "", "## Synopsis", "", "```text"]
    lines += [one.format_usage().strip().removeprefix("Usage: ") for one in commands_of(verb)]
    lines += ["```", ""]
    lines += (_group if verb.verbs else _one_command)(verb)
    related = ("usernsctl(1)", *_RELATED.get(name, ()))
    lines += ["## See also", "", ", ".join(f"{{manpage}}`{page}`" for page in related), ""]
    if name in _MORE:
        page, title = _MORE[name]
        lines += [":::{only} html", f"[{title}](../../{page}) tells more.", ":::", ""]
    return "\n".join(lines)


# ---- native programs -----------------------------------------------------------------------------


def help_of(program: str, *words: str) -> list[str]:
    """Return the lines of an installed program's ``--help``, or of its subcommand `words`."""
    places = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    path = shutil.which(program, path=places)
    if path is None:
        raise ExtensionError(f"{program} is not installed: its --help is part of its manual page")
    done = subprocess.run([path, *words, "--help"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def native_options(program: str) -> dict[str, list[Option]]:
    """Return a dict that maps each heading in a native program's ``--help`` to its options."""
    found: dict[str, list[Option]] = {}
    for heading, written, about in help_entries("\n".join(help_of(program))):
        option = Option(written, about or _ALWAYS.get(written, ""))
        found.setdefault(heading, []).append(option)
    return found


def _native(program: str) -> Iterator[str]:
    for heading, options in native_options(program).items():
        if heading:
            yield from (f"### {heading}", "")
        yield from _listed(program, [one for one in options if one.help])


def _page_list(pages: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    for name, section, about in pages:
        yield from (f"{{manpage}}`{name}({section})`", f": {prose(about)}", "")


def _rules() -> dict[str, list[str]]:
    """Return a dict that maps each section of a launch to the verbs of its records (verbs.h)."""
    found: dict[str, list[str]] = {}
    for name, part in _RULE.findall(_RULES.read_text()):
        found.setdefault(part, []).append(name)
    if {name for names in found.values() for name in names} != set(RECORDS) | set(_EFFECTS):
        raise ExtensionError(f"{_RULES} and the records of this tool differ")
    return found


def _record(name: str) -> Iterator[str]:
    words, effect = _EFFECTS.get(name) or RECORDS[name]
    yield " ".join([f"`{name}`", *(f"*{prose(word)}*" for word in words)])
    parts = re.split(r"\{(\w+)\}", effect)
    text = (f"*{prose(part)}*" if number % 2 else prose(part) for number, part in enumerate(parts))
    yield f": {''.join(text)}"
    yield ""


def _records() -> Iterator[str]:
    rules = _rules()
    for part, heading in _PARTS.items():
        yield from (f"### {heading}", "")
        # Sort the records as RECORDS does: in the order in which most launches contain them.
        order = [*RECORDS, *_EFFECTS]
        for name in sorted(rules.pop(part), key=order.index):
            yield from _record(name)
    if rules:
        raise ExtensionError(f"{_RULES}: there are no headings for {', '.join(rules)}")


class FromProgram(SphinxDirective):
    """The directive ``from-program``, which includes generated texts.

    Its argument is the name of a native program, whose options are included, or ``verbs`` (the list
    of subcommands), ``records`` (of a launch) or ``index`` (of the manual pages).
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        what = self.arguments[0]
        if what == "verbs":
            lines = _page_list((f"usernsctl-{n}", "1", about) for n, (about, _) in VERBS.items())
        elif what == "index":
            lines = _page_list((name, section, about) for _, name, about, _, section in manuals())
        else:
            lines = _records() if what == "records" else _native(what)
        text = list(lines)
        return self.parse_text_to_nodes(StringList(text, what), allow_section_headings=True)


def pages() -> dict[str, str]:
    """Return a dict that maps the names of generated pages to their texts, in MyST's Markdown."""
    whole = usernsctl()
    return {
        f"usernsctl-{name}": _page(name, whole.find(name))
        for name in VERBS
        if f"usernsctl-{name}" not in WRITTEN
    }


def manuals() -> list[tuple[str, str, str, list[str], str]]:
    """Return all manual pages in the form of Sphinx's setting ``man_pages``."""
    found: list[tuple[str, str, str, list[str], str]] = []
    for page, (section, about) in WRITTEN.items():
        found.append((f"{PAGES}/{page}", page, about, [], section))
    for name, (summary, _) in VERBS.items():
        page = f"usernsctl-{name}"
        if page not in WRITTEN:
            about = summary.rstrip(".")
            found.append((f"{MADE}/{page}", page, about[:1].lower() + about[1:], [], "1"))
    return found


# ---- correction of docutils' manual pages --------------------------------------------------------


def tidy(page: str) -> str:
    """Return a manual page without unneeded macros and long lines, of which mandoc(1) warns."""
    lines: list[str] = []
    block = ""
    for line in page.splitlines():
        begins_block = re.match(r"\.(EX|nf|TS)\b", line)
        if begins_block or re.match(r"\.(EE|fi|TE)\b", line):
            block = line if begins_block else ""
        if line == ".sp" and lines and re.match(r"\.(SH|SS)\b", lines[-1]):
            continue
        is_text = not block and not line.startswith((".", "'"))
        lines += _wrapped(line) if is_text else [line]
    return "\n".join([*lines, ""])


def _wrapped(line: str) -> Iterator[str]:
    """Wrap a line of text. Yield its parts, none of which looks like a macro."""
    short = ""
    for word in _WORD.findall(line):
        if short and len(short) + len(word) >= _WIDTH:
            yield short
            short = f"\\&{word}" if word.startswith((".", "'")) else word
        else:
            short = f"{short} {word}" if short else word
    yield short


def _tidy(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.name == "man":
        for _, name, _, _, section in app.config.man_pages:
            path = Path(app.outdir) / f"{name}.{section}"
            path.write_text(tidy(path.read_text()))


def _write(app: Sphinx) -> None:
    write_changed(Path(app.srcdir) / MADE, {f"{name}.md": text for name, text in pages().items()})


def _link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link each reference to a manual page to the page on this site, or on the site of its project.

    Sphinx's setting ``manpages_url`` would also add the addresses to the manual pages themselves.
    """
    if app.builder.format != "html":
        return
    ours = {name: place for place, name, _, _, _ in app.config.man_pages}
    for page in list(doctree.findall(addnodes.manpage)):
        is_ours = page["page"] in ours
        target = f"{_OTHERS}{page.astext()}"
        if is_ours:
            target = app.builder.get_relative_uri(docname, ours[page["page"]])
        name = addnodes.literal_emphasis("", page.astext())
        page.replace_self(nodes.reference("", "", name, internal=is_ours, refuri=target))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the hooks with Sphinx."""
    app.add_directive("from-program", FromProgram)
    app.connect("builder-inited", _write)
    app.connect("doctree-resolved", _link)
    app.connect("build-finished", _tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
