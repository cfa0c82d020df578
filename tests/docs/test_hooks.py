"""The site needs no other host, and shows formulas as formulas."""

import importlib.util
import re
from pathlib import Path

import pytest
from markdown import Markdown

ROOT = Path(__file__).resolve().parents[2]
_SPECIFICATION = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
hooks = importlib.util.module_from_spec(_SPECIFICATION)
_SPECIFICATION.loader.exec_module(hooks)


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img src="http://example.org/a.png">',
        '<link rel="preconnect" href="https://fonts.example">',
    ],
)
def test_what_a_browser_would_fetch_elsewhere_is_found(html):
    assert hooks.loaded_from_elsewhere(html)


def test_links_that_a_person_follows_are_allowed():
    assert not hooks.loaded_from_elsewhere(
        '<a href="https://arxiv.org/abs/1901.07711">paper</a><img src="figures/a.png">'
    )


def test_formulas_become_mathml_and_code_stays():
    text = (
        "Loss.\n\n.. math:: L = \\frac{1}{N} \\sum_i\n    x_i\n\nSee :class:`Head` and :math:`T_1`.\n\n`.. math:: y`\n"
    )
    html = Markdown(extensions=[hooks.Formulas()]).convert(text)
    assert html.count("<math") == 2
    assert "<mfrac>" in html
    assert "<code>Head</code>" in html
    assert "<code>.. math:: y</code>" in html
    assert "wzxhzdk" not in html


def test_every_method_and_loss_is_in_the_catalogue():
    page = hooks.methods_page()
    assert "## affinity_plus" in page
    assert "[AffinityMixtureHead](heads.md#affinitymixturehead) (centers_per_class 2, sigma 0.2)" in page
    losses = hooks.parts_page(hooks.losses, hooks.losses.Loss, "loss", hooks.LOSSES, hooks.OF_LOSS)
    assert re.search(r"Used by .*\[affinity_plus\]\(methods\.md#affinity_plus\)", losses)
    assert "## CoSenLoss" in losses
    assert "[`forward`][dermaffinity.losses.cosen.CoSenLoss.forward] takes a [`HeadOutput`]" in losses
    assert "[UnitNeck][dermaffinity.models.necks.UnitNeck]" in page
