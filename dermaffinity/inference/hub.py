"""Classifiers on a model hub that speaks the Hugging Face Hub's interface: safetensors, JSON and a model card."""

import tempfile
from pathlib import Path
from types import ModuleType

import yaml

from dermaffinity.errors import DataError
from dermaffinity.files import atomic_write
from dermaffinity.inference.model_folder import FILE, Description, join_models, read_description


def push(folder: Path, repo: str, *, examples: bool, private: bool, token: str | None, message: str) -> str:
    """Uploads a model folder with a model card; returns the address of the commit.

    Args:
        folder: With ``classifier.json``.
        repo: ``OWNER/NAME``; made if need be.
        examples: Whether to upload the embeddings, names and hashes of the training images as well.
        private: Whether a new repository is.
        token: Of the hub; by default the one that ``hf auth login`` keeps.
        message: Of the commit.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory(prefix="dermaffinity-") as temporary:
        target = Path(temporary)
        join_models([folder], target, read_description(folder).temperature, examples=examples)
        with atomic_write(target / "README.md") as file:
            file.write(model_card(read_description(target), repo))
        api = hub.HfApi(token=token)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=target, commit_message=message))
        except (hub.errors.HfHubHTTPError, ValueError, OSError) as error:
            raise DataError(f"{repo}: cannot be uploaded to {api.endpoint} ({_first_line(error)})") from error


def pull(repo: str, *, revision: str | None, token: str | None) -> Path:
    """Downloads a classifier, or finds it in the hub's cache; nothing but JSON and safetensors.

    Args:
        repo: ``OWNER/NAME``.
        revision: Branch, tag or commit.
        token: As for `push`.
    """
    hub = _hub()
    try:
        folder = hub.snapshot_download(repo, revision=revision, token=token, allow_patterns=[FILE, "*.safetensors"])
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, ValueError, OSError) as error:
        raise DataError(f"{repo}: cannot be read from the hub ({_first_line(error)})") from error
    return Path(folder)


def model_card(description: Description, repo: str) -> str:
    """What a reader of the hub must know: use, data, their license, evidence, limits; with YAML metadata.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.inference import model_card, read_description
        >>> description = read_description(Path("runs/library_affinity_plus/classifier"))
        >>> "library_name: dermaffinity" in model_card(description, "clinic/toy")
        True
    """
    data = description.data
    metadata = {
        "license": "other",
        "license_name": "license-of-the-training-images",
        "pipeline_tag": "image-classification",
        "tags": ["dermatology", "medical-imaging", "class-imbalance", "safetensors"],
        "library_name": "dermaffinity",
    }
    counts = ", ".join(f"{name} {count:,}" for name, count in data.class_counts.items())
    evidence = (
        "Its networks were cross-validated: each was scored on a fold that it was not trained on."
        if description.cross_validated
        else "It was trained on the images of all folds and **was never scored**. Expect about what cross-validation "
        "of the same method on the same images gives."
    )
    malignant = ", ".join(description.malignant) or "none stated"
    return f"""---
{yaml.safe_dump(metadata, sort_keys=True).rstrip()}
---

# {description.name}

**{description.intended_use}**

Classifies images of skin lesions into {len(description.classes)} classes: {", ".join(description.classes)} (malignant:
{malignant}). {len(description.fold_models)} networks; their mean is calibrated.

```python
from dermaffinity import LesionClassifier

LesionClassifier.from_pretrained("{repo}").predict_proba("lesion.jpg")
```

## Training data

{data.name}: {counts or "counts not recorded"}. Source: {data.source or "not recorded"}

License of the images: **{data.license or "not recorded"}**. The classifier is bound by it as far as it reaches.

## Evidence and limits

{evidence}

* Every image is given one of these classes, whatever it shows. Novelty and empty prediction sets warn of some others.
* Images of other cameras, clinics and skin tones may be classified much worse: run `dermaffinity evaluate` on your own.
* How often a class occurred in training is not how often it occurs in a clinic, so probabilities do not carry over.
"""


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise DataError("a hub needs a package that is not installed: pip install 'dermaffinity[hub]'") from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
