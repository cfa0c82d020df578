"""What a person sees while jobs run."""

import io

from rich.console import Console

from dermaffinity.experiments.progress import RunProgress


def shown(*, terminal: bool) -> str:
    """All that two jobs print, the second one resumed."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    with RunProgress(2, console) as progress:
        for label, seen in (("affinity fold 0 seed 0", 0), ("affinity fold 1 seed 0", 64)):
            progress.start(label, images=128)
            progress.skip(seen)
            progress.images(32)
            progress.epoch(1, 4, 0.75, 0.5)
            progress.bars.refresh()
            progress.finish(f"{label}: balanced accuracy 50.0 %")
    return out.getvalue()


def test_a_terminal_shows_the_job_its_images_and_what_is_done():
    text = shown(terminal=True)
    assert "affinity fold 0 seed 0" in text
    assert "32/128" in text
    assert "96/128" in text  # the second job had 64 images behind it
    assert "epoch 1/4, loss 0.750, validation 50.0 %" in text
    assert "2/2" in text


def test_a_file_gets_one_line_an_epoch_and_one_a_job():
    lines = shown(terminal=False).splitlines()
    assert lines == [
        "affinity fold 0 seed 0: epoch 1/4, loss 0.750, validation 50.0 %",
        "affinity fold 0 seed 0: balanced accuracy 50.0 %",
        "affinity fold 1 seed 0: epoch 1/4, loss 0.750, validation 50.0 %",
        "affinity fold 1 seed 0: balanced accuracy 50.0 %",
    ]
