"""The saved view of an experiment's runs: what MLflow's table and charts show when its link is opened.

MLflow has no interface to write one. It keeps each view as a tag of the experiment, in the words of its own browser
code (here those of 3.17), and leaves at its default whatever it does not understand.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

_KEY = "methods"
_NAME = "Methods side by side"

# Opens the pages for trained models and not those for language models.
_TRAINING = "workflowType=machine_learning"

VIEW_TAG = f"mlflow.sharedViewState.{_KEY}"

# In pixels, so that five metrics fit a laptop's screen.
_WIDTHS = {"attributes.`Run Name`": 180, "runDateAndNestInfo": 120}


def view_address(experiment_id: str) -> str:
    """Give what follows the server's address and ``#``: one experiment's runs in their saved view."""
    return f"/experiments/{experiment_id}/runs?{_TRAINING}&viewStateShareKey={_KEY}"


def artifact_address(experiment_id: str, run_id: str, path: str) -> str:
    """Give what follows the server's address and ``#``: a file that a run keeps."""
    return f"/experiments/{experiment_id}/runs/{run_id}/artifacts/{path}?{_TRAINING}"


def saved_view(columns: Sequence[str], charts: Sequence[str], rows: Mapping[str, str], *, saved_at: int) -> str:
    """Write a view as MLflow keeps it.

    Args:
        columns: Names of metrics, as MLflow has them. The runs are sorted by the first, largest on top.
        charts: Names of metrics, one bar chart each. What shares the part before the last slash shares a section.
        rows: Tags that a run must have to be listed.
        saved_at: Milliseconds since 1970.
    """
    metrics = {f"metrics.`{name}`": 34 + 6 * len(name) for name in columns}  # with their widths
    sections = {name: name.rpartition("/")[0] for name in charts}
    view = {
        # Other runs are left out: MLflow folds child runs only while it sorts by date, and then loads them all.
        "searchFilter": " and ".join(f"tags.{key} = '{value}'" for key, value in rows.items()),
        "orderByKey": next(iter(metrics)),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(metrics),
        "columnOrder": [*_WIDTHS, *metrics],
        "columnWidths": _WIDTHS | metrics,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [
            {
                "uuid": name,
                "type": "BAR",
                "metricKey": name,
                "metricSectionId": section,
                "runsCountToCompare": 20,
                "isGenerated": True,
                "deleted": False,
            }
            for name, section in sections.items()
        ],
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "isGenerated": True, "deleted": False}
            for name in dict.fromkeys(sections.values())
        ],
        # Or MLflow sorts the sections by name, and puts new ones between them.
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
    return json.dumps({"name": _NAME, "createdAt": saved_at, "updatedAt": saved_at, "state": f"deflate;{packed}"})
