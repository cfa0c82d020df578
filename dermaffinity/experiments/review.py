"""Images that a person should look at again: suspected label errors, and pictures that are hard to read."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.verify import Verification
from dermaffinity.errors import ManifestError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import write_table
from dermaffinity.files import atomic_write
from dermaffinity.metrics.label_errors import label_errors
from dermaffinity.metrics.summary import ScoredImages
from dermaffinity.report.html.render import Case, CaseGroup, render, thumbnail

_SHOWN = 60  # of either kind, on the contact sheet
_TOLD = ["image", "label", "suggested", "confidence"]
_UNREADABLE = {"blurred", "dark", "overexposed"}  # a vignette spoils no picture


@dataclass(frozen=True, eq=False)
class Review:
    """Suspected label errors of a library, and what to decide about them.

    Args:
        path: Folder with ``review.html``, the contact sheet, and ``decisions.csv``.
        suspects: The most suspect first: ``image``, ``label``, ``suggested``, ``score``, ``confidence`` (probability of
            the suggested class), ``suspected``.

    Examples:
        >>> import dermaffinity as da
        >>> found = da.review(da.verify("data_manifests/library.csv"), "runs/small_softmax", out="review")
        >>> found.suspects.columns.tolist()
        ['image', 'label', 'suggested', 'score', 'confidence', 'suspected']
    """

    path: Path
    suspects: pd.DataFrame

    def lines(self, most: int = 5) -> list[str]:
        """How many labels are suspected, and the first of them."""
        found = self.suspects[self.suspects["suspected"]]
        by_class = found["label"].value_counts()
        labels = f": {', '.join(f'{name} {count}' for name, count in by_class.items())}" if len(found) else ""
        return [
            f"{len(found):,} of {len(self.suspects):,} labels are suspected{labels}",
            *(
                f"suspect: {image}: labeled {label}, looks like {suggested} ({100 * confidence:.0f} %)"
                for image, label, suggested, confidence in found[_TOLD].head(most).itertuples(index=False, name=None)
            ),
        ]


def review(
    verification: Verification,
    run: "Experiment | str | Path",
    *,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    images: bool = True,
) -> Review:
    """Ranks the labels of a verified manifest by the out-of-fold probabilities of an experiment on it.

    Writes a contact sheet and ``decisions.csv``, a row per suspect with ``keep`` to be changed to ``relabel`` or
    ``drop``, which ``prepare --decisions`` applies.

    Args:
        verification: What `dermaffinity.verify` found.
        run: The experiment, its folder or its config's name.
        out: Folder; by default ``review`` in the experiment's.
        runs: Folder of all experiments.
        images: Whether the sheet shows images of the library.

    Raises:
        ManifestError: When the experiment was run on another split.

    Examples:
        >>> import dermaffinity as da
        >>> found = da.review(da.verify("data_manifests/library.csv"), "runs/small_softmax", out="review")
        >>> (found.path / "decisions.csv").read_text().splitlines()[0]
        'image,label,decision,new_label,score,confidence,problems'
    """
    experiment, manifest = Experiment.open(run, runs), verification.manifest
    if experiment.record.split_hash != manifest.split_hash:
        raise ManifestError(
            f"{experiment.path} was run on {experiment.record.dataset}, split {experiment.record.split_hash[:12]}, and "
            f"not on {manifest.name}, split {manifest.split_hash[:12]}; name an experiment on this manifest"
        )
    scored = ScoredImages.from_table(experiment.out_of_fold.best, experiment.classes)
    probabilities, names = scored.probabilities.mean(axis=0), np.array(experiment.classes.names)
    ranked = label_errors(scored.labels, probabilities)
    index, suggested = ranked["index"].to_numpy(), ranked["suggested"].to_numpy()
    suspects = pd.DataFrame({
        "image": scored.images[index], "label": names[scored.labels[index]], "suggested": names[suggested],
        "score": ranked["score"], "confidence": probabilities[index, suggested], "suspected": ranked["suspected"],
    })  # fmt: skip
    found = Review(Path(out or experiment.path / "review"), suspects)
    problems = dict(zip(verification.quality["image"], verification.quality["problems"], strict=True))
    _write_decisions(found, problems)
    with atomic_write(found.path / "review.html") as file:
        file.write(_sheet(found, verification, experiment, problems, images))
    return found


def _write_decisions(found: Review, problems: Mapping[str, list[str]]) -> None:
    table = found.suspects[found.suspects["suspected"]].drop(columns="suspected")
    table = table.rename(columns={"suggested": "new_label"})
    table.insert(2, "decision", "keep")
    told = set(table["image"])
    others = [image for image, words in problems.items() if _UNREADABLE & {*words} and image not in told]
    table = pd.concat([table, pd.DataFrame({"image": others, "decision": "keep"})], ignore_index=True)
    words = [" ".join(problems.get(image, ())) for image in table["image"]]
    write_table(table.assign(problems=words), found.path / "decisions.csv")


def _sheet(
    found: Review, verification: Verification, experiment: Experiment, problems: Mapping[str, list[str]], images: bool
) -> str:
    manifest = verification.manifest
    library = ImageLibrary(manifest.root) if images and manifest.root else None

    def case(image: str, suggested: str, *facts: str) -> Case:
        shown = None if library is None else thumbnail(decode_image(library.read(image), image))
        return Case(image, labels[image], suggested, [*facts, *problems.get(image, ())], shown)

    suspected = found.suspects[found.suspects["suspected"]]
    labels = dict(zip(manifest.rows["image"], manifest.rows["label"], strict=True))
    top = suspected[_TOLD].head(_SHOWN)
    groups = [
        CaseGroup(
            "Suspected label errors",
            f"{len(suspected):,} of {len(found.suspects):,} labels fit less well than another class, each measured by "
            "what is usual for its class; the most suspect first. A suspect is not an error: look, then decide.",
            [
                case(image, suggested, f"{100 * confidence:.0f} % {suggested}")
                for image, _, suggested, confidence in top.itertuples(index=False, name=None)
            ],
        )
    ]  # fmt: skip
    for word in sorted(_UNREADABLE):
        own = [image for image, words in problems.items() if word in words]
        lead = f"{len(own):,} images; the first {_SHOWN} are shown."
        cases = [case(image, labels[image]) for image in own[:_SHOWN]]
        groups.append(CaseGroup(word.capitalize(), lead, cases))
    return render(
        {
            "name": "Images to look at again",
            "dataset": manifest.name,
            "created": datetime.now(UTC).strftime("%Y-%m-%d"),
            "intended_use": "Research use only. Not a medical device.",
            "lead": f"By the out-of-fold probabilities of {experiment.name}. Decide in decisions.csv: keep, relabel or "
            "drop; then prepare the library again with --decisions decisions.csv.",
            "quality": verification.quality_lines(),
            "case_groups": groups,
        },
        "review.html.jinja",
    )
