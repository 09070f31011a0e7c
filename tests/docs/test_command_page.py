"""The reference of the command line has every verb, option and default of the commands as they are."""

from __future__ import annotations

import command_page
import pytest

PAGE = command_page.markdown()
VERBS = dict(command_page.verbs())


def _section(verb: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {verb.removeprefix('fasti3d ')}\n")
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("verb", VERBS)
def test_section_of(verb: str) -> None:
    text = _section(verb)
    assert VERBS[verb].help.partition("\n")[0] in text
    terms = [
        line for line in text.splitlines() if line.startswith("`") and line.endswith("`") and line != "```"
    ]
    options = [name for p in VERBS[verb].params for name in p.opts if name.startswith("--")]
    assert [
        word
        for word in options
        if not any(word in term.strip("`").split() or f"{word}," in term for term in terms)
    ] == []
    shown = [p for p in VERBS[verb].params if not getattr(p, "hidden", False)]
    assert len(terms) == len(shown)


def test_defaults_and_what_is_required() -> None:
    classify, finetune = _section("classify"), _section("finetune")
    assert "`--top <int>`\n:   Classes to print. Default: 5.\n" in classify
    assert "Required." in finetune.partition("`--dataset NAME`")[2].partition("\n`")[0]
    assert "Default: 5000.\n" in finetune


def test_nested_verbs_are_there() -> None:
    assert {"fasti3d weights list", "fasti3d dataset check", "fasti3d classify"} <= set(VERBS)
