"""Tables of flags for the site, from the parsers themselves: a page cannot fall behind its command."""

import argparse
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from landscape import command
from landscape.errors import LandscapeError

# Every command that takes arguments -> the page that shows how it is used.
COMMANDS = {
    "landscape.hessian": "howto/hessian.md",
    "landscape.surface": "howto/surface.md",
    "landscape.connectivity": "connectivity.md",
    "landscape.series": "howto/series.md",
    "landscape.feature_maps": "howto/feature_maps.md",
    "landscape.fourier": "howto/fourier.md",
    "landscape.frequency_noise": "howto/frequency_noise.md",
    "landscape.predictions": "howto/predictions.md",
    "landscape.robustness": "howto/robustness.md",
    "landscape.selfcheck": "howto/selfcheck.md",
    "landscape.training": "howto/training.md",
    "landscape.nets": "howto/training.md",
    "landscape.store": "reference/results.md",
    "analyses.audit": "howto/audit.md",
    "analyses.gpu": "gpu.md",
    "analyses protocol_sweep": "howto/paper.md",
    "analyses.claims": "howto/paper.md",
    "analyses.keep": "howto/paper.md",
    "figures": "howto/paper.md",
}
_PLACE = re.compile(r"^<!-- flags: ([\w. ]+?) -->$", re.MULTILINE)


class _Caught(Exception):
    pass


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser that a command line goes through, caught before it parses anything."""
    caught: list[argparse.ArgumentParser] = []
    original = command.Parser.parse_args

    def catch(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        caught.append(parser)
        raise _Caught

    command.Parser.parse_args = catch  # type: ignore[assignment,method-assign]
    module, *rest = name.split()
    place = (
        importlib.util.find_spec(f"{module}.cli")
        if importlib.util.find_spec(module).submodule_search_locations
        else None
    )
    try:
        importlib.import_module(place.name if place else module).main(rest or ["x"])
    except (_Caught, LandscapeError):
        pass
    finally:
        command.Parser.parse_args = original  # type: ignore[method-assign]
    return caught[0]


def flags(name: str) -> dict[str, list[argparse.Action]]:
    """Flags and positional arguments of a command by the group that its help shows them in."""
    return {
        str(group.title): [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        for group in parser_of(name)._action_groups
        if group._group_actions
    }


def table(groups: dict[str, list[argparse.Action]]) -> str:
    """One table of flags for each group."""
    parts = []
    for title, actions in groups.items():
        rows = [
            f"| `{_spelled(action)}` | {_escaped((action.help or '').replace('%%', '%'))} |"
            for action in actions
            if action.dest != "help"
        ]
        if rows:
            parts.append("\n".join([f"**{title}**", "", "| flag | what it does |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _spelled(action: argparse.Action) -> str:
    name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
    if action.nargs == 0 or not action.option_strings:
        return name.replace("|", "\\|")
    choices = ",".join(map(str, action.choices)) if action.choices and not action.metavar else None
    value = f"{{{choices}}}" if choices else str(action.metavar or action.dest.upper())
    return f"{name} {value}".replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def filled(markdown: str) -> str:
    """A page with its ``<!-- flags: NAME -->`` replaced by tables."""
    shared = {
        action.option_strings[-1]
        for actions in flags("landscape.hessian").values()
        for action in actions
        if action.option_strings
    }
    shared &= {
        action.option_strings[-1]
        for actions in flags("landscape.surface").values()
        for action in actions
        if action.option_strings
    }

    def put(found: re.Match[str]) -> str:
        name = found[1]
        if name == "shared":
            groups = flags("landscape.hessian")
            chosen = {
                title: [a for a in actions if not a.option_strings or a.option_strings[-1] in shared]
                for title, actions in groups.items()
            }
            return table(chosen)
        groups = flags(name)
        # An instrument's own alone; the others stand under howto/index.md.
        instrument = "checkpoints" in {action.dest for actions in groups.values() for action in actions}
        if instrument:
            groups = {
                title: [a for a in actions if a.option_strings and a.option_strings[-1] not in shared]
                for title, actions in groups.items()
            }
        return table(groups)

    return _PLACE.sub(put, markdown)


def commands() -> str:
    """Every command with its description and all its flags, shared ones included."""
    parts = []
    for name, page in COMMANDS.items():
        parser = parser_of(name)
        description = (parser.description or "").strip().replace("``", "`")
        parts.append(f"## python -m {name}\n\n{description}\n\n[How to use it](../{page})\n\n{table(flags(name))}")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    markdown = markdown.replace("<!-- commands -->", commands())
    return filled(markdown) if "<!-- flags: " in markdown else markdown


def notebook(text: str) -> str:
    """A script in cells (``# %%``) as a page: text cells as they are, code cells as blocks."""
    parts = []
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this once: every notebook becomes a page, its picture below."""
    from mkdocs.structure.files import File

    for script in sorted((Path(config.config_file_path).parent / "examples" / "notebooks").glob("*.py")):
        page = notebook(script.read_text())
        page += f"\n\n![What this notebook draws](../pictures/notebook-{script.stem}.png)\n"
        files.append(File.generated(config, f"notebooks/{script.stem}.md", content=page))
    # What the claims of the paper come to is written by a command, beside the README.
    claims = (Path(config.config_file_path).parent / "CLAIMS.md").read_text().replace("](docs/", "](")
    files.append(File.generated(config, "claims.md", content=claims))
    return files
