"""Where a report answers the items of CLAIM and TRIPOD+AI, and which of them nobody has answered.

Sources: Mongan, Moy and Kahn, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM)", Radiology: AI 2(2),
2020; Collins et al., "TRIPOD+AI statement", BMJ 385:e078378, 2024. The words here are short names of the items.
"""

from dermaffinity.report.html.render import Table

_ASK = "Not reported: the authors of the study have to add it."


def checklist(
    *, external: bool, baseline: bool, subgroups: list[str], leaks: bool, novelty: bool, thumbnails: bool
) -> Table:
    """The items with where this report answers them.

    Args:
        external: Whether an external set was scored.
        baseline: Whether there is a comparison.
        subgroups: Columns by which results are split.
        leaks: Whether test images have relatives in training.
        novelty: Whether the models could be run again, for novelty and the map.
        thumbnails: Whether cases are shown.
    """
    who = f"Results by {', '.join(subgroups)}: see Subgroups." if subgroups else "Not reported: not in the manifest."
    rows = [
        ("Title identifies the kind of AI", "1", "1", "Title; What was run."),
        ("Structured summary", "2", "2", "At a glance."),
        ("Background, clinical role", "3", "3a–3b", _ASK),
        ("Health inequalities", "–", "3c", _ASK),
        ("Objectives", "4", "4", "Model card states the intended use; the study's hypotheses are not reported."),
        ("Study design: retrospective", "5–6", "5a", "Retrospective reuse of an image library: see Data and split."),
        ("Data source, dates, setting", "7", "5a–6a", "Source and license: see Data and split. Dates and setting: not "
         "reported here, see the source."),
        ("Eligibility of patients and images", "8, 10", "6b", "Counts: see Data and split. Criteria: not reported "
         "here, see the source."),
        ("Preprocessing", "9", "7", "What was run; the config under How to reproduce."),
        ("De-identification, ethical approval", "12", "17", _ASK),
        ("Missing data", "13", "11", "Every image of the manifest is scored; missing entries are rows 'not recorded' "
         "in Subgroups." if subgroups else "Every image of the manifest is scored; it holds nothing else."),
        ("Reference standard and annotators", "14–18", "8a–8c", "Labels are those of the source. How they were made, "
         "by whom, and how far readers agree: not reported here, see the source."),
        ("Sample size", "19", "10", "Counts: see Data and split. No sample size was calculated; intervals show what "
         "the number of images allows."),
        ("Partitions, and the level at which they are disjoint", "20–21", "12a", "Leak statement"
         + (": some test images have relatives in training." if leaks else ": disjoint by group.")),
        ("Model, software, initialization", "22–24", "12c, 22", "What was run; How to reproduce."),
        ("Training, choice of the final model", "25–26", "12c", "What was run; Inner validation and test."),
        ("Ensembling", "27", "12g", "Out-of-fold results are of each fold's own model, or of the mean of several "
         "that are joined; external results of the mean of the folds' models."),
        ("Class imbalance", "–", "13", "Recall of every class, minority and worst-class recall: see Results."),
        ("Measures, intervals, tests", "28–29", "12e", "Results" + ("; Gain over the baseline." if baseline else
         "; no baseline was compared.")),
        ("Robustness", "30", "12d", "Intervals resample patients or lesions. Other devices, corruptions and light: not "
         "reported."),
        ("Explanation of predictions", "31", "–", "Embedding map." if novelty else "Not reported."),
        ("External validation", "32", "16, 20c", "See External images." if external else "Not reported: no external "
         "images were scored."),
        ("Flow of participants", "33", "20a", "Counts by class, fold and set: see Data and split. Exclusions before "
         "the manifest: not reported."),
        ("Demographics", "34", "20b", who),
        ("Performance with precision", "35–36", "23a", "Results, Discrimination, Calibration, with 95 % intervals."),
        ("Fairness, results in subgroups", "–", "14, 23b", who + " Skin tone: see Model card."),
        ("Errors", "37", "–", "Confusion matrix; Cases" + (" with pictures." if thumbnails else " by name.")),
        ("Limitations, implications, use", "38–39", "25–27", "Model card."),
        ("Registration, protocol", "40–41", "18c–18d", _ASK),
        ("Data and code", "41", "18e–18f", "How to reproduce."),
        ("Funding, conflicts, patient involvement", "42", "18a–18b, 19", _ASK),
    ]  # fmt: skip
    caption = "Items of CLAIM (2020) and TRIPOD+AI (2024), by their numbers, and where this report answers them"
    return Table(caption, ["Item", "CLAIM", "TRIPOD+AI", "Where"], rows, wraps=True)
