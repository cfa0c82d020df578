"""The record: what affinity+ gains over CoSen as a method and as a system, by the plan of docs/record_plan.md.

    dermaffinity benchmark hamfit7_{cosen,softmax,cosen_plus,logit_adjusted,vs,balanced_softmax_plus} \\
        hamfit7_affinity{,_plus} --seeds 0,1,2 --external
    python pipelines/record.py hamfit7 trained

Trains nothing: it reads the finished experiments of all arms, chooses the strength of the class frequencies on inner
validation images, averages the seeds of each fold, adds what metadata say, and writes every measure and gain with its
interval to ``runs/record/``. Other parts need other experiments. ``eight`` gives rivals the eight views of affinity+:

    dermaffinity crossval hamfit7_cosen --set backbone.views=8 name=hamfit7_cosen_eight --seeds 0,1,2

``frozen`` holds the methods on frozen features against trained ones:

    dermaffinity crossval hamfit7_affinity_frozen --seeds 0,1,2 --external
    dermaffinity crossval hamfit7_logistic_frozen --seeds 0,1,2 --external

``printed`` holds the loss as the paper prints it against others:

    dermaffinity crossval hamfit7_affinity_as_printed --seeds 0,1,2 --external

``joined`` holds means of a trained network and a method on frozen features against others, ``several`` means of several
trained networks and one of those; `JOINED` and `SEVERAL` say which:

    dermaffinity join hamfit7_affinity_joined hamfit7_affinity_plus hamfit7_affinity_frozen
    dermaffinity join hamfit7_affinity_vs_joined hamfit7_{affinity_plus,vs,affinity_frozen}
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from dermaffinity.experiments.experiment import STRENGTHS, Experiment
from dermaffinity.experiments.results import Results, write_table
from dermaffinity.metrics.comparison import Comparison, adjusted, compare
from dermaffinity.metrics.summary import Measured, ScoredImages
from dermaffinity.report.method_tables import MEASURES
from dermaffinity.report.tables import console_table

ARMS = ("softmax", "cosen", "cosen_plus", "logit_adjusted", "vs", "balanced_softmax_plus", "affinity", "affinity_plus")
PRIOR_LEFT_OUT = ("logit_adjusted", "vs", "balanced_softmax_plus", "affinity_plus")
"""Arms whose scores are those of equally frequent classes."""
FROZEN = ("affinity_frozen", "logistic_frozen")
TRAINED = ("softmax", "cosen", "affinity_plus")
"""Arms that the methods on frozen features are held against."""
PRINTED = ("affinity_as_printed",)
HELD_AGAINST = ("softmax", "cosen", "affinity", "affinity_plus")
"""Arms that the loss as the paper prints it is held against."""
EIGHT = ("softmax", "cosen", "logit_adjusted", "vs")
"""Arms of one view, which are trained for the record; the names of the same with eight end in ``_eight``."""
WITH_EIGHT = ("cosen_plus", "balanced_softmax_plus", "affinity_plus")
"""Arms that have eight views as they ship."""
JOINED = {
    "cosen_plus_joined": ("cosen_plus", "logistic_frozen"),
    "logit_adjusted_joined": ("logit_adjusted", "logistic_frozen"),
    "vs_joined": ("vs", "logistic_frozen"),
    "balanced_softmax_joined": ("balanced_softmax_plus", "logistic_frozen"),
    "affinity_joined": ("affinity_plus", "affinity_frozen"),
}
"""Means of a trained arm and one on frozen features."""
SEVERAL = {
    "affinity_logit_adjusted_joined": ("affinity_plus", "logit_adjusted", "affinity_frozen"),
    "affinity_vs_joined": ("affinity_plus", "vs", "affinity_frozen"),
    "affinity_balanced_softmax_joined": ("affinity_plus", "balanced_softmax_plus", "affinity_frozen"),
    "affinity_all_joined": ("affinity_plus", "logit_adjusted", "vs", "balanced_softmax_plus", "affinity_frozen"),
    "logit_adjusted_vs_joined": ("logit_adjusted", "vs", "logistic_frozen"),
    "logit_adjusted_balanced_softmax_joined": ("logit_adjusted", "balanced_softmax_plus", "logistic_frozen"),
    "vs_balanced_softmax_joined": ("vs", "balanced_softmax_plus", "logistic_frozen"),
}
"""Means of several trained arms and one on frozen features, and what each is the mean of."""
CHOSEN = ("affinity_logit_adjusted_joined", "vs_balanced_softmax_joined")
"""The candidate and the control that the plan's rule chose on inner validation images of hamfit-7 and hamfit-5."""
LED = ("affinity_plus", "affinity_joined", "logit_adjusted_joined", "vs_joined", "balanced_softmax_joined")
"""What the chosen ones are held against besides one another and CoSen."""
APART = ("cosen", "cosen_plus", "affinity_plus")
"""Arms that all means are held against."""
METADATA = ("age", "sex", "site")
BOUNDS = ("value", "low", "high")
GAINS = {name: MEASURES[name] for name in ("balanced_accuracy", "minority_recall", "majority_recall")}


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", help="of the arms' configs, such as hamfit7")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    measured, names = PARTS[arguments.part]
    results = measured({arm: Experiment.open(f"{arguments.dataset}_{arm}", arguments.runs) for arm in names})
    dataset = Experiment.open(f"{arguments.dataset}_{names[0]}", arguments.runs).record.dataset
    results.insert(0, "experiment", dataset)
    write_table(results, arguments.runs / "record" / f"{arguments.dataset}_{arguments.part}.csv")
    console = Console(highlight=False)
    for part, table in tables(results).items():
        console.print(console_table(table, f"{part}: percent [95 % interval]", console.width))


def record(trained: Mapping[str, Experiment]) -> pd.DataFrame:
    """Everything that the plan asks, of the arms as trained: columns part, method, measure, value, low, high."""
    chosen = {arm: trained[arm].chosen_strengths() for arm in PRIOR_LEFT_OUT}
    as_softmax = {arm: trained[arm].chosen_strengths(reference=trained["softmax"]) for arm in PRIOR_LEFT_OUT}
    arms = dict(trained)
    arms |= {f"{arm}, prior": trained[arm].with_prior(strength=own) for arm, own in chosen.items()}
    arms |= {f"{arm}, prior as softmax": trained[arm].with_prior(strength=own) for arm, own in as_softmax.items()}
    scored = {name: parts(arm) for name, arm in arms.items()}
    informed = {name: parts(arm.with_metadata(*METADATA)) for name, arm in trained.items()}
    found = [
        measures(scored),
        gains(
            {
                name: own
                for name, own in scored.items()
                if name.startswith("affinity_plus") or not name.endswith("as softmax")
            }
        ),
    ]
    found += [strengths("strength of the prior", chosen), strengths("strength of the prior, as softmax", as_softmax)]
    found += [inner(trained), sizes(arms), measures(informed, ", with metadata")]
    for part in next(iter(scored.values())):
        comparisons = {name: compare(scored[name][part].measured, informed[name][part].measured) for name in trained}
        for name, one in comparisons.items():
            found.append(rows(f"{part}: gain by metadata", name, one.gains, GAINS))
            found.append(rows("gain by metadata", name, one.gains, {"balanced_accuracy": part}))
    return pd.concat(found, ignore_index=True)


def frozen(arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """The methods on frozen features, and what they gain over trained networks; columns as of `record`."""
    return single_models(arms, FROZEN, TRAINED)


def printed(arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """The loss as the paper prints it, and what it gains over other arms; columns as of `record`."""
    return single_models(arms, PRINTED, HELD_AGAINST)


def single_models(arms: Mapping[str, Experiment], own: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    """The single models of some arms, and what they gain over those of others."""
    scored = {}
    for name, arm in arms.items():
        assert arm.external is not None
        scored[name] = {"out-of-fold": arm.out_of_fold, "external": arm.external}
    found = [measures({name: scored[name] for name in own})]
    for part in ("out-of-fold", "external"):
        measured = {name: results[part].measured for name, results in scored.items()}
        for base in others:
            for name in own:
                gained = compare(measured[base], measured[name]).gains
                found.append(rows(f"{part}: gain", f"{name} over {base}", gained, GAINS))
    return pd.concat(found, ignore_index=True)


def eight(arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """Rivals of one view with eight: their measures, what the views add, and what affinity+ gains over them."""
    scored = {
        name: {"single models": arm.out_of_fold, "ensembles of three": arm.ensemble().out_of_fold}
        for name, arm in arms.items()
    }
    found = [measures({name: own for name, own in scored.items() if name.endswith("_eight") or name in WITH_EIGHT})]
    for part in ("single models", "ensembles of three"):
        measured = {name: own[part].measured for name, own in scored.items()}
        for name in EIGHT:
            gained = compare(measured[name], measured[f"{name}_eight"]).gains
            found.append(rows(f"{part}: gain by eight views", name, gained, GAINS))
        rivals = {name: own for name, own in measured.items() if name not in (*EIGHT, "affinity_plus")}
        held = adjusted({name: compare(other, measured["affinity_plus"]) for name, other in rivals.items()})
        found += [compared(f"{part}: gain of affinity_plus", name, comparison) for name, comparison in held.items()]
    return pd.concat(found)


def joined(arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """The means of models, as trained and told class frequencies by either rule, and what they gain over others."""
    means, found = with_priors(arms, JOINED)
    trained = {name: own for name, (own, _) in JOINED.items()}
    scored = {name: parts(arm) for name, arm in (arms | means).items() if name in {*means, *APART, *trained.values()}}
    found.insert(0, measures({name: own for name, own in scored.items() if name in means}))
    for part in next(iter(scored.values())):
        measured = {name: own[part].measured for name, own in scored.items()}
        for base in APART:
            for name in means:
                gained = compare(measured[base], measured[name]).gains
                found.append(rows(f"{part}: gain over {base}", name, gained, GAINS))
        for name, own in trained.items():
            gained = compare(measured[own], measured[name]).gains
            found.append(rows(f"{part}: gain by joining", name, gained, GAINS))
            if name != "affinity_joined":
                gained = compare(measured[name], measured["affinity_joined"]).gains
                found.append(rows(f"{part}: gain of affinity_joined", name, gained, GAINS))
    for name, own in trained.items():
        gained = compare(arms[own].inner.measured, arms[name].inner.measured).gains
        found.append(rows("inner validation: gain by joining", name, gained, GAINS))
    return pd.concat([*found, system_effects(scored, list(means))])


def several(arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """Every mean of several on inner validation images, and the chosen two like those of `joined`."""
    means, found = with_priors(arms, CHOSEN)
    scored = {name: parts(arm) for name, arm in (arms | means).items() if name in {*means, "cosen", *LED}}
    found.insert(0, measures({name: own for name, own in scored.items() if name in means}))
    for part in next(iter(scored.values())):
        measured = {name: own[part].measured for name, own in scored.items()}
        for name in CHOSEN:
            for base in ("cosen", *LED, *(other for other in CHOSEN if other != name)):
                gained = compare(measured[base], measured[name]).gains
                found.append(rows(f"{part}: gain of {name}", base, gained, GAINS))
    for name in ("cosen", *SEVERAL):
        found.append(rows("inner validation", name, arms[name].inner.summary, GAINS))
    return pd.concat([*found, system_effects(scored, list(means))])


def with_priors(
    arms: Mapping[str, Experiment], names: Iterable[str]
) -> tuple[dict[str, Experiment], list[pd.DataFrame]]:
    """Means as trained and told class frequencies by either rule, and the strengths that the rules chose."""
    means = {name: arms[name] for name in names}
    told = [name for name in means if name != "cosen_plus_joined"]
    chosen = {name: arms[name].chosen_strengths() for name in told}
    as_softmax = {name: arms[name].chosen_strengths(reference=arms["softmax"]) for name in told}
    means |= {f"{name}, prior": arms[name].with_prior(strength=own) for name, own in chosen.items()}
    means |= {f"{name}, prior as softmax": arms[name].with_prior(strength=own) for name, own in as_softmax.items()}
    found = [strengths("strength of the prior", chosen), strengths("strength of the prior, as softmax", as_softmax)]
    return means, found


def parts(arm: Experiment) -> dict[str, Results]:
    """What is measured of an arm."""
    joined = arm.ensemble()
    assert arm.external is not None
    assert joined.external is not None
    return {
        "single models": arm.out_of_fold,
        "ensembles of three": joined.out_of_fold,
        "external": arm.external,
        "external, ensembles": joined.external,
    }


def tables(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What to show of each part: an arm a row, a measure a column, or the other way round where arms are fewer."""
    shown = {}
    for part, found in results.groupby("part", sort=False):
        cells = [f"{value} [{low}, {high}]" if low else value for value, low, high in found[list(BOUNDS)].to_numpy()]
        row, column = sorted(("method", "measure"), key=lambda name: -found[name].nunique())
        table = found.assign(cell=cells).pivot_table(
            index=["part", row], columns=column, values="cell", aggfunc="first", sort=False
        )
        shown[str(part)] = table.rename_axis(index=["part", "row"], columns=None)
    return shown


def measures(scored: Mapping[str, Mapping[str, Results]], kind: str = "") -> pd.DataFrame:
    """Every measure of every arm."""
    found = []
    for name, own in scored.items():
        for part, results in own.items():
            titles = {measure: title for measure, title in MEASURES.items() if measure in results.summary.index}
            titles |= {f"recall.{one}": f"{one} (n={count})" for one, count in results.counts.items()}
            found.append(rows(f"{part}{kind}", name, results.summary, titles))
            found.append(rows(f"calibration error, calibrated{kind}", name, results.summary, {"ece.calibrated": part}))
    return pd.concat(found)


def gains(scored: Mapping[str, Mapping[str, Results]]) -> pd.DataFrame:
    """What each arm gains over CoSen and softmax, affinity+ over each rival, and the system effect."""
    found = []
    for part in next(iter(scored.values())):
        measured = {name: own[part].measured for name, own in scored.items()}
        for base in ("cosen", "cosen_plus", "softmax"):
            for name, other in measured.items():
                if name != base:
                    found.append(rows(f"{part}: gain over {base}", name, compare(measured[base], other).gains, GAINS))
        for ours in ("affinity_plus", "affinity_plus, prior"):
            rivals = {name: other for name, other in measured.items() if not name.startswith("affinity_plus")}
            held = adjusted({name: compare(other, measured[ours]) for name, other in rivals.items()})
            found += [compared(f"{part}: gain of {ours}", name, comparison) for name, comparison in held.items()]
    found.append(system_effects(scored, [name for name in scored if name != "cosen"]))
    return pd.concat(found)


def system_effects(scored: Mapping[str, Mapping[str, Results]], names: Sequence[str]) -> pd.DataFrame:
    """What ensembles of some arms gain over CoSen's single models."""
    found = []
    for single, ensemble in (("single models", "ensembles of three"), ("external", "external, ensembles")):
        base = scored["cosen"][single]
        seeds = base.table["seed"].unique()
        for name in names:
            repeated = pd.concat([scored[name][ensemble].table.assign(seed=seed) for seed in seeds])
            measured = Measured.of(ScoredImages.from_table(repeated, base.classes))
            effect = compare(base.measured, measured).gains
            found.append(rows(f"{ensemble}: gain over cosen, {single}", name, effect, GAINS))
    return pd.concat(found)


def inner(trained: Mapping[str, Experiment]) -> pd.DataFrame:
    """Every strength of the class frequencies on the inner validation images, each model's as images of its own."""
    found = []
    for name in PRIOR_LEFT_OUT:
        for strength in STRENGTHS:
            summary = trained[name].with_prior(strength=strength).inner.summary
            found.append(rows("every strength, inner validation", f"{name} at {strength:g}", summary, GAINS))
    return pd.concat(found)


def sizes(arms: Mapping[str, Experiment]) -> pd.DataFrame:
    """The first seeds of each fold, averaged."""
    found = []
    for name, arm in arms.items():
        if name.endswith("as softmax"):
            continue
        for number in range(1, len(arm.seeds) + 1):
            first = [arm.job(fold, seed) for seed in arm.seeds[:number] for fold in range(arm.record.folds)]
            of_some = Experiment(arm.path, jobs=first, averaged=True, strengths=arm.strengths).out_of_fold
            found.append(rows("first seeds averaged", f"{name}: {number}", of_some.summary, GAINS))
    return pd.concat(found)


def rows(part: str, method: str, summary: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Results in percent as they are printed, one row per measure; gains with their sign."""
    names = {name.removeprefix("gain."): name for name in summary.index}
    spoken = "{:+.1f}" if "gain" in part else "{:.1f}"
    shown = (100 * summary.loc[[names[name] for name in titles], list(BOUNDS)]).map(spoken.format)
    return shown.assign(part=part, method=method, measure=list(titles.values()))[["part", "method", "measure", *BOUNDS]]


def compared(part: str, method: str, comparison: Comparison) -> pd.DataFrame:
    """Gains over a rival, and the p value of the first, adjusted over the rivals."""
    tests = comparison.tests.set_index(["test", "metric"])["p_holm"]
    p = one(part, method, "p (Holm)", tests["sign_flip", "balanced_accuracy"])
    return pd.concat([rows(part, method, comparison.gains, GAINS), p])


def one(part: str, method: str, measure: str, value: float) -> pd.DataFrame:
    """A row of a number without an interval."""
    return pd.DataFrame(
        [[part, method, measure, f"{value:.3f}", "", ""]], columns=["part", "method", "measure", *BOUNDS]
    )


def strengths(part: str, chosen: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    """The chosen strength of each arm and fold."""
    return pd.concat([one(part, arm, f"fold {k}", s) for arm, shares in chosen.items() for k, s in shares.items()])


PARTS = {
    "trained": (record, ARMS),
    "eight": (eight, (*EIGHT, *(f"{name}_eight" for name in EIGHT), *WITH_EIGHT)),
    "frozen": (frozen, (*FROZEN, *TRAINED)),
    "printed": (printed, (*PRINTED, *HELD_AGAINST)),
    "joined": (joined, (*JOINED, "softmax", "cosen", *(own for own, _ in JOINED.values()))),
    "several": (several, (*SEVERAL, "softmax", "cosen", *LED)),
}
"""What can be measured, and which experiments it needs."""


if __name__ == "__main__":
    main()
