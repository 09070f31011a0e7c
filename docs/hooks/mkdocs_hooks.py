"""Hooks of mkdocs: generated pages, their place in the menu, and a check that no public name is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import api_pages
import command_page

_COMMANDS = "commands.md"


def on_config(config: Any) -> Any:
    """Fill in the menu: the section of the API, whose pages are known only now."""
    for section in config["nav"]:
        if "API reference" in section:
            section["API reference"] = [{page.module: page.path} for page in api_pages.pages()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    for page in api_pages.pages():
        files.append(File.generated(config, page.path, content=api_pages.markdown(page)))
    files.append(File.generated(config, _COMMANDS, content=command_page.markdown()))
    return files


_anchors: set[str] = set()


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Remember which names have a place."""
    if page.file.src_uri.startswith("api/"):
        _anchors.update(name for name in api_pages.public_names() if f'id="{name}"' in html)
    return html


def on_post_build(config: Any) -> None:
    """Fail if a public name has none."""
    if missing := set(api_pages.public_names()) - _anchors:
        raise PluginError(f"public names without a place in the API reference: {', '.join(sorted(missing))}")
