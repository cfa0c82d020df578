"""LesionClassifier: what a prototype imports. Heavy libraries are imported when a model is loaded, not before."""

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from dermaffinity.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor, device

    from dermaffinity.inference.explain import Explanation
    from dermaffinity.inference.model_folder import Description
    from dermaffinity.models import LesionNetwork


_ACCEPTED = (
    "an image is a path, bytes, a file opened in binary mode, a Pillow image or a NumPy array (height, width, 3), and "
    "several are a list of these"
)
# Decoded images that wait for the network beside its batch: enough to keep several cores at decoding.
_AHEAD = 16

Array = TypeVar("Array", "np.ndarray", "Tensor")


class Assessment(NamedTuple, Generic[Array]):
    """All that a classifier says about N images, for C classes and K fold models; see `LesionClassifier`.

    Examples:
        >>> from dermaffinity import LesionClassifier
        >>> assessment = LesionClassifier.load("runs/library_affinity_plus").assess("lesion.jpg")
        >>> {name: value.shape for name, value in assessment._asdict().items()}
        {'probabilities': (1, 3), 'novelty': (1,), 'p_values': (1, 3), 'disagreement': (1,), 'embedding': (1, 16)}
    """

    probabilities: Array  # (N, C), calibrated
    novelty: Array  # (N,)
    p_values: Array  # (N, C), how usual each image would be among the images of each class
    disagreement: Array  # (N,), share of the fold models that name another class, in [0, 1)
    embedding: Array  # (N, K·D), the fold models' side by side


class LesionClassifier:
    """A trained classifier in scikit-learn's words: fitted, frozen, one model or the mean of several.

    **Images** are a path, the bytes of a file, a file opened in binary mode (or a BytesIO), a Pillow image, a NumPy
    array (height, width, 3), or any iterable of these, which is read a few images ahead; every size and color mode is
    converted as in training. Gray and alpha are accepted; arrays are uint8, uint16, or floats in [0, 1]. One image
    counts as a list of one. Anything else is a TypeError.

    **Several fold models**, the networks of several folds, are averaged: their probabilities, which are then
    calibrated, their novelty and their p-values.

    **Cropping**: a classifier that was trained on crops around the lesion's mask gets no mask here, takes every image
    whole, and warns when it is loaded. Hand it images cut around the lesion.

    **Class frequencies**: some methods answer as if all classes were equally frequent, others for those of the library.
    `with_prior` answers for any.

    **Views** (test-time augmentation): a skin image has no up and no left, so that a classifier may look at each one
    turned and mirrored as well. Each fold model's probabilities are averaged over the views before anything else is
    done, its novelty and its p-values as well; the embedding is that of the untouched image. The calibration was fitted
    on single views: a mean is less sure than its parts, so that probabilities come out somewhat too low for the
    likeliest class, and `set_guarantees` states what a mean of p-values promises. The time is that many times longer.

    Every method raises DataError, naming the image, for one that cannot be used, and ValueError for no images at all.
    Methods may be called from several threads. Use `load` instead of the constructor.

    Attributes:
        classes_: (C,), class codes in the order of all results.
        description: Everything in ``classifier.json``: data, license, split, versions, intended use, fold models.

    Examples:
        >>> from dermaffinity import LesionClassifier
        >>> classifier = LesionClassifier.load("runs/library_affinity_plus")
        >>> classifier.classes_.tolist()
        ['AK', 'BCC', 'ML']
        >>> classifier.predict(["lesion.jpg", "PHOTOS/nevus/P1_a.jpg"]).tolist()
        ['ML', 'ML']
        >>> classifier.predict_proba("lesion.jpg").round(1)
        array([[0.3, 0.3, 0.4]])
    """

    def __init__(
        self,
        description: "Description",
        networks: "Sequence[LesionNetwork]",
        folder: Path,
        *,
        views: int = 1,
        device: "device | str" = "cpu",
    ) -> None:
        import numpy as np
        import torch

        from dermaffinity.data.transforms import EvaluationStage, FixedStage
        from dermaffinity.inference.ensemble import Ensemble

        self.description = description
        # Images come in this layout; weights in another one would be reordered for every image.
        self.networks = [network.to(device).to(memory_format=torch.channels_last) for network in networks]
        self._ensemble = Ensemble(description, self.networks).to(device)
        self.folder = folder
        self.views = views
        self.device = device
        self.classes_ = np.array(description.classes)
        preprocessing = description.preprocessing
        self._fixed_stage = FixedStage(preprocessing.image_size, preprocessing.lesion_crop)
        self._evaluation_stage = EvaluationStage(preprocessing.image_size)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        views: Literal[1, 2, 4, 8] = 1,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        plugins: Sequence[str] = (),
    ) -> "LesionClassifier":
        """Reads a classifier; no code of the source is run.

        Args:
            source: An experiment's folder (all its folds), a job's folder (one fold), a model folder, or an MLflow URI
                such as ``models:/dermofit10@champion``, whose store is the one MLflow is set to.
            views: In how many ways to look at each image, see the class: as it is, 2 with its mirror image, 4 with both
                mirrored by 180 degrees, or 8, all symmetries of the square. A result is then the same for an image and
                the turned and mirrored ones among its views.
            device: Where the networks run; ``"auto"`` is a GPU where there is one. Results are NumPy arrays anyway.
            plugins: Modules outside dermaffinity that parts of the network come from; they are imported.

        Raises:
            DataError: When there is none, or it is damaged, changed, of a newer format, or contradicts itself; or when
                there is no such device.
            ValueError: For other views or devices.

        Examples:
            >>> from dermaffinity import LesionClassifier
            >>> LesionClassifier.load("runs/library_affinity_plus/fold-0", views=8)
            <LesionClassifier toy: AK, BCC, ML; 1 fold model>
        """
        from dermaffinity.inference.model_folder import load_networks, read_description
        from dermaffinity.models import VIEWS

        if views not in VIEWS:
            raise ValueError(f"views must be one of {', '.join(map(str, VIEWS))}, got {views!r}")
        found = _device(device)
        folder = _find(source)
        description = read_description(folder)
        classifier = cls(description, load_networks(folder, description, plugins), folder, views=views, device=found)
        if description.preprocessing.lesion_crop is not None:
            import warnings

            warnings.warn(
                f"{description.name} was trained on squares around the lesion, with a margin of "
                f"{description.preprocessing.lesion_crop:g} lesion sizes, and gets no masks here: cut your images so",
                stacklevel=2,
            )
        return classifier

    @classmethod
    def from_pretrained(
        cls,
        repo: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        views: Literal[1, 2, 4, 8] = 1,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        plugins: Sequence[str] = (),
    ) -> "LesionClassifier":
        """Reads a classifier of a model hub, such as Hugging Face's (extra ``hub``), or a folder as `load` does.

        Args:
            repo: ``OWNER/NAME``, or a folder.
            revision: Branch, tag or commit of the hub's repository.
            token: For private repositories; by default the one that ``hf auth login`` keeps.
            views: As for `load`.
            device: As for `load`.
            plugins: As for `load`.
        """
        if not Path(repo).exists():
            from dermaffinity.inference.hub import pull

            repo = pull(str(repo), revision=revision, token=token)
        return cls.load(repo, views=views, device=device, plugins=plugins)

    def push_to_hub(
        self,
        repo: str,
        *,
        examples: bool = False,
        private: bool = True,
        token: str | None = None,
        message: str = "Upload a classifier of dermaffinity",
    ) -> str:
        """Uploads this classifier and a model card to a model hub; returns the address of the commit.

        Args:
            repo: ``OWNER/NAME``; made if need be.
            examples: Whether to upload the embeddings, names and hashes of the training images as well, which tell of
                single patients; ask whoever is responsible for the images first.
            private: Whether a new repository is.
            token: As for `from_pretrained`.
            message: Of the commit.
        """
        from dermaffinity.inference.hub import push

        return push(self.folder, repo, examples=examples, private=private, token=token, message=message)

    def predict(self, images: Any, *, metadata: "pd.DataFrame | None" = None, abstain: bool = False) -> "np.ndarray":
        """The likeliest class of each image: (N,) class codes.

        Args:
            images: See the class.
            metadata: See `assess`.
            abstain: Answer None where the novelty is above `novelty_threshold`.
        """
        assessed = self.assess(images, metadata)
        predicted = self.classes_[assessed.probabilities.argmax(axis=1)]
        if abstain:
            predicted = predicted.astype(object)
            predicted[assessed.novelty > self.novelty_threshold] = None
        return predicted

    def predict_proba(
        self, images: Any, *, metadata: "pd.DataFrame | None" = None, calibrated: bool = True
    ) -> "np.ndarray":
        """Probabilities (N, C), rows sum to 1.

        Args:
            images: See the class.
            metadata: See `assess`; not with ``calibrated=False``.
            calibrated: Whether at the temperature and for the class frequencies of ``classifier.json``; without them
                one fold gives the numbers of the out-of-fold table.

        Raises:
            ValueError: As for `assess`, and for metadata with ``calibrated=False``.
        """
        if metadata is not None and not calibrated:
            raise ValueError(
                "metadata are evidence beside calibrated probabilities; leave them or calibrated=False out"
            )
        return (self.assess(images, metadata) if calibrated else self._assess(images, calibrated)).probabilities

    def transform(self, images: Any) -> "np.ndarray":
        """Embeddings (N, K·D): those of the fold models side by side, because each has axes of its own.

        For a map with one meaning per axis load the folder of one fold.
        """
        return self.assess(images).embedding

    def novelty(self, images: Any) -> "np.ndarray":
        """Distance of each image from every class, (N,); above `novelty_threshold` it looks like no training image.

        The distance to the nearest class center, in standard deviations from the mean of inner validation images; the
        mean over fold models. It tells of unknown things, not of two classes that look alike: see `predict_sets` for
        that.

        Examples:
            >>> from dermaffinity import LesionClassifier
            >>> classifier = LesionClassifier.load("runs/library_affinity_plus")
            >>> (classifier.novelty("lesion.jpg") > classifier.novelty_threshold).tolist()
            [False]
        """
        return self.assess(images).novelty

    @property
    def novelty_threshold(self) -> float:
        """The novelty that 95 % of each fold model's inner validation images stay below, mean over fold models.

        Fewer than 5 % of new images like those are above it when fold models are averaged, which evens out their
        novelties.
        """
        limits = [fold_model.calibration.novelty_threshold for fold_model in self.description.fold_models]
        return sum(limits) / len(limits)

    def predict_sets(self, images: Any, *, coverage: float = 0.9) -> list[tuple[str, ...]]:
        """The classes that each image may well belong to, the likeliest first.

        A set holds the true class with the probability that `set_guarantees` states, for each class on its own. It may
        be empty, for an image unlike all classes. A class with too few inner validation images is in every set.

        Args:
            images: See the class.
            coverage: The share of images whose set shall hold their class, in (0, 1).

        Examples:
            >>> from dermaffinity import LesionClassifier
            >>> LesionClassifier.load("runs/library_affinity_plus").predict_sets("lesion.jpg", coverage=0.9)
            [('ML', 'BCC', 'AK')]
        """
        _check_coverage(coverage)
        return self.sets(self.assess(images), coverage)

    def set_guarantees(self, coverage: float = 0.9) -> "pd.DataFrame":
        """What `predict_sets` promises for each class.

        The promise is for images that are exchangeable with the inner validation images of their class: the same
        clinic, camera and choice of lesions, and, with several views, no habit of which side is up. With several
        fold models or views the mean of their p-values promises twice the error, and as a rule errs no more than asked
        for.

        Args:
            coverage: As for `predict_sets`.

        Returns:
            Index `class`; columns `images`, the inner validation images of all fold models, `coverage`, the promised
            share, and `always`, whether the class is in every set because there are too few images.
        """
        import pandas as pd

        from dermaffinity.metrics.conformal import promised_coverage

        _check_coverage(coverage)
        rows = {}
        for name in self.description.classes:
            images = [len(fold_model.calibration.scores[name]) for fold_model in self.description.fold_models]
            promised = promised_coverage(coverage, images * self.views)
            rows[name] = (sum(images), promised, promised == 1)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["images", "coverage", "always"]).rename_axis(
            "class"
        )

    def with_prior(
        self, frequencies: "Mapping[str, float] | pd.Series | None" = None, *, strength: float | None = None
    ) -> "LesionClassifier":
        r"""This classifier with answers for other class frequencies than those it was trained to assume.

        .. math:: p_c \propto p^{calibrated}_c \, q_c / \rho_c

        for frequencies q and those that the probabilities assume, ρ: Bayes' rule, after the temperature. Novelty,
        p-values, prediction sets and embeddings stay: sets hold what they promise class by class, for any
        frequencies. An export of the result answers so as well.

        Args:
            frequencies: q by class, such as a clinic's own, or what pandas' `value_counts` gives; they need not sum
                to 1.
            strength: s of :math:`q = \pi^s` with the class shares π in training: 0 for equally frequent classes, 1 for
                those of the library.

        Raises:
            TypeError: For frequencies that are not by class.
            ValueError: Unless one of both is given, and every class has a positive frequency.

        Examples:
            >>> from dermaffinity import LesionClassifier
            >>> classifier = LesionClassifier.load("runs/library_affinity_plus")
            >>> classifier.with_prior({"AK": 0.04, "BCC": 0.01, "ML": 0.95}).predict_proba("lesion.jpg").round(2)
            array([[0.03, 0.01, 0.96]])
        """
        from dermaffinity.inference.model_folder import changed, told_prior
        from dermaffinity.metrics.classification import Classes

        if (frequencies is None) == (strength is None):
            raise ValueError("give either the frequencies of the classes or a strength")
        asked = (
            None if frequencies is None else Classes(self.description.classes).log_frequencies(_as_dict(frequencies))
        )
        told = told_prior(self.description.fold_models, frequencies=asked, strength=strength)
        description = changed(self.description, told=tuple(told))
        return LesionClassifier(description, self.networks, self.folder, views=self.views, device=self.device)

    def assess(self, images: Any, metadata: "pd.DataFrame | None" = None) -> "Assessment[np.ndarray]":
        """Everything at once, for the cost of one prediction.

        Args:
            images: See the class.
            metadata: A row for each image, with the columns that the config named as ``metadata``, or some of them, see
                `MetadataEvidence`: what they say is added to the probabilities. A value that is missing says nothing,
                as do all without this table.

        Raises:
            TypeError: For metadata that are no DataFrame.
            ValueError: For another number of rows, for none of the columns, or for a classifier that was not trained
                with metadata.
        """
        self._check_metadata(metadata)  # before the images take their time
        return self.with_evidence(self._assess(images, calibrated=True), metadata)

    def with_evidence(
        self, assessment: "Assessment[np.ndarray]", metadata: "pd.DataFrame | None"
    ) -> "Assessment[np.ndarray]":
        """What `assess` makes of metadata for images that were assessed before."""
        from dermaffinity.metrics.reliability import with_temperature

        self._check_metadata(metadata)
        if metadata is None:
            return assessment
        if len(metadata) != len(assessment.probabilities):
            raise ValueError(f"{len(assessment.probabilities)} images need as many rows, got {len(metadata)}")
        evidence = self.description.evidence(metadata)
        return assessment._replace(probabilities=with_temperature(assessment.probabilities, 1, evidence))

    def prepare(self, image: Any, name: str = "the image") -> "Tensor":
        """The normalized tensor (3, S, S) that the networks see, by the very steps of training.

        Args:
            image: One image, see the class.
            name: What errors call it.
        """
        return self._evaluation_stage.normalize(self.pixels(image, name))

    def pixels(self, image: Any, name: str = "the image") -> "np.ndarray":
        """The pixels (S, S, 3) uint8 that `prepare` normalizes.

        Args:
            image: One image, see the class.
            name: What errors call it.
        """
        return self._evaluation_stage.square(self._fixed_stage((_pixels(image, name), None)))

    def assess_pixels(self, pixels: "Sequence[np.ndarray]", *, calibrated: bool = True) -> "Assessment[np.ndarray]":
        """What `assess` says about images that `pixels` made ready, all in one pass; at least one."""
        import numpy as np

        return self.assess_prepared(self._evaluation_stage.normalize(np.stack(pixels)), calibrated=calibrated)

    def assess_prepared(
        self, tensors: "Tensor | Sequence[Tensor]", *, calibrated: bool = True
    ) -> "Assessment[np.ndarray]":
        """What `assess` says about images that `prepare` made ready, all in one pass; at least one."""
        import torch

        with torch.inference_mode():
            images = tensors if isinstance(tensors, torch.Tensor) else torch.stack(list(tensors))
            assessed = self._ensemble(images.to(self.device), views=self.views, calibrated=calibrated)
        return Assessment(*(part.cpu().numpy() for part in assessed))

    def sets(self, assessment: "Assessment[np.ndarray]", coverage: float = 0.9) -> list[tuple[str, ...]]:
        """The sets of `predict_sets` for images that were assessed before."""
        from dermaffinity.metrics.conformal import in_set

        inside = in_set(assessment.p_values, coverage)
        order = (-assessment.probabilities).argsort(axis=1, kind="stable")
        return [tuple(str(self.classes_[c]) for c in row if own[c]) for row, own in zip(order, inside, strict=True)]

    def explain(self, image: Any, *, coverage: float = 0.9) -> "Explanation":
        """Why this classifier says what it says about one image; takes about a hundred predictions' time.

        Args:
            image: One image, see the class.
            coverage: Of the prediction set, as for `predict_sets`.

        Raises:
            DataError: As for every method, or when the training examples of the model cannot be read.
        """
        from dermaffinity.inference.explain import Explanation, nearest_centers, nearest_examples, occlusion_map
        from dermaffinity.inference.model_folder import load_examples
        from dermaffinity.inference.predict import predict_batch

        _check_coverage(coverage)
        named = list(islice(_named(image), 2))
        if len(named) != 1:
            raise ValueError(f"explain takes one image at a time, got {'several' if named else 'none'}")
        seen = self.pixels(*named[0])
        tensor = self._evaluation_stage.normalize(seen)
        assessed = self.assess_prepared([tensor])
        batch = tensor[None].to(self.device)
        outputs = [predict_batch(network, batch)[0] for network in self.networks]
        heads = [network.head for network in self.networks]
        examples = [
            load_examples(self.folder, self.description, fold_model) for fold_model in self.description.fold_models
        ]
        return Explanation(
            name=self.description.name,
            intended_use=self.description.intended_use,
            classes=self.description.classes,
            image=seen,
            probabilities=assessed.probabilities[0],
            prediction_set=self.sets(assessed, coverage)[0],
            coverage=coverage,
            novelty=float(assessed.novelty[0]),
            novelty_threshold=self.novelty_threshold,
            disagreement=float(assessed.disagreement[0]),
            centers=nearest_centers(heads, outputs, self.description),
            examples=nearest_examples(heads, outputs, examples),
            saliency=occlusion_map(self._single_view, tensor, int(assessed.probabilities[0].argmax())),
        )

    def score(self, images: Any, labels: Any, sample_weight: Any = None) -> float:
        """Accuracy, as of every classifier of scikit-learn.

        Args:
            images: See the class.
            labels: (N,) true class codes.
            sample_weight: (N,) how much each image counts; equally by default.

        Raises:
            ValueError: When no label is one of the classes.
        """
        import numpy as np
        from sklearn.metrics import accuracy_score

        labels = np.asarray(labels)
        if not np.isin(given := np.unique(labels.astype(str)), self.classes_).any():
            found = ", ".join(given[:5]) or "none"
            raise ValueError(f"labels are class codes, {', '.join(self.description.classes)}; got {found}")
        return float(accuracy_score(labels, self.predict(images), sample_weight=sample_weight))

    def fit(self, images: Any, labels: Any = None) -> "LesionClassifier":
        """Does nothing, so that a Pipeline can be fitted around this classifier, which is fitted already."""
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """No parameters: nothing of a trained classifier can be set."""
        return {}

    def set_params(self, **params: Any) -> "LesionClassifier":
        """Refuses every parameter."""
        if params:
            raise ValueError(f"a LesionClassifier is trained and has no parameters to set, got {', '.join(params)}")
        return self

    def __sklearn_clone__(self) -> "LesionClassifier":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
            requires_fit=False,
        )

    def __repr__(self) -> str:
        fold_models = len(self.networks)
        return (
            f"<LesionClassifier {self.description.name}: {', '.join(self.description.classes)}; "
            f"{fold_models} fold model{'s' if fold_models > 1 else ''}>"
        )

    def _repr_html_(self) -> str:
        table = self.set_guarantees()[["images"]].T.rename({"images": "calibration images"})
        return f"<p>{html.escape(repr(self))}. {html.escape(self.description.intended_use)}</p>{table.to_html()}"

    def _single_view(self, images: "Tensor") -> "Tensor":
        """Calibrated probabilities (N, C) of normalized images (N, 3, S, S) as they are."""
        import torch

        with torch.inference_mode():
            return self._ensemble(images.to(self.device)).probabilities.cpu()

    def _check_metadata(self, metadata: Any) -> None:
        if metadata is None:
            return
        import pandas as pd

        from dermaffinity.inference.metadata import columns_found

        if not self.description.metadata:
            raise ValueError("this classifier was trained without metadata; train one with metadata: [age, sex, site]")
        asked = ", ".join(self.description.metadata)
        if not isinstance(metadata, pd.DataFrame):
            raise TypeError(
                f"metadata are a pandas DataFrame with a row for each image and the columns {asked}, got "
                f"{type(metadata).__name__}; for one image: pd.DataFrame([{{{self.description.metadata[0]!r}: …}}])"
            )
        columns = [str(column) for column in metadata.columns]
        found = columns_found(self.description.metadata, columns)
        if not found:
            raise ValueError(
                f"metadata have none of the columns {asked} that this classifier was trained with; found "
                f"{', '.join(columns) or 'none'}. Rename them, or leave metadata out"
            )
        if twice := sorted(column for column in found.values() if columns.count(column) > 1):
            raise ValueError(f"metadata have several columns {', '.join(map(repr, twice))}; keep one of each")

    def _assess(self, images: Any, calibrated: bool) -> "Assessment[np.ndarray]":
        import numpy as np

        from dermaffinity.inference.ahead import ahead
        from dermaffinity.inference.predict import BATCH_SIZE

        pixels = ahead(lambda named: self.pixels(*named), _ready(_named(images)), _AHEAD)
        parts = []
        while batch := list(islice(pixels, BATCH_SIZE)):
            parts.append(self.assess_pixels(batch, calibrated=calibrated))
        if not parts:
            raise ValueError("there are no images to predict: the list is empty")
        return Assessment(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def explain(
    model: str | Path,
    image: Any,
    *,
    views: Literal[1, 2, 4, 8] = 1,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    plugins: Sequence[str] = (),
) -> "Explanation":
    """Why a trained classifier says what it says about an image; see `LesionClassifier.explain`.

    Examples:
        >>> import dermaffinity as da
        >>> explanation = da.explain("runs/library_affinity_plus", "lesion.jpg")
        >>> explanation.predicted in explanation.classes
        True
    """
    return LesionClassifier.load(model, views=views, device=device, plugins=plugins).explain(image)


def _device(word: str) -> "device":
    import torch

    if word not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'auto', got {word!r}")
    if word == "cuda" and not torch.cuda.is_available():
        raise DataError("device 'cuda': torch finds no GPU that it can use on this machine; use 'cpu' or 'auto'")
    return torch.device("cuda" if word != "cpu" and torch.cuda.is_available() else "cpu")


def _as_dict(frequencies: Any) -> Mapping[str, float]:
    import pandas as pd

    if isinstance(frequencies, Mapping):
        return frequencies
    if not isinstance(frequencies, pd.Series):
        hint = f"; a strength is given as strength={frequencies}" if isinstance(frequencies, int | float) else ""
        raise TypeError(
            "frequencies are numbers by class, as a dict or pandas Series, such as {'nv': 0.9, 'mel': 0.1}, got "
            f"{type(frequencies).__name__}{hint}"
        )
    if not frequencies.index.is_unique:
        twice = ", ".join(map(str, frequencies.index[frequencies.index.duplicated()].unique()))
        raise ValueError(f"frequencies have several numbers for {twice}; give one for each class")
    return {str(name): value for name, value in frequencies.items()}


def _find(source: str | Path) -> Path:
    """The model folder that a source stands for."""
    if str(source).startswith("models:"):
        return _download(str(source))
    path = Path(source)
    # An experiment keeps its classifier in a folder of its own; MLflow keeps a model's files in artifacts/.
    for folder in (path, path / "classifier", path / "artifacts" / "classifier"):
        if (folder / "classifier.json").is_file():
            return folder
    if any((folder / "experiment.json").is_file() for folder in (path, path.parent)):
        raise DataError(
            f"{path}: has no classifier yet, which is written when every fold is finished; run the command that made "
            "it again, crossval with --resume, or load the folder of one finished fold. A method without a network "
            "leaves none"
        )
    found = "nothing is there" if not path.exists() else "no classifier.json is there" if path.is_dir() else "a file"
    raise DataError(f"{path}: expected the folder of a trained classifier or experiment, but found: {found}")


def _download(uri: str) -> Path:
    import os

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    # MLflow would make an empty store here, and then find nothing in it.
    if not mlflow.is_tracking_uri_set() and not Path("mlflow.db").exists():
        raise DataError(
            f"{uri}: this folder has no MLflow store, mlflow.db. Go to the folder that dermaffinity crossval ran in, "
            "or name its store: export MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db"
        )
    try:
        return _find(download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise DataError(f"{uri}: cannot be read from the MLflow store ({error})") from error


def _named(images: Any) -> Iterator[tuple[Any, str]]:
    """Single images and what errors call them."""
    import numpy as np
    from PIL import Image

    is_single_array = isinstance(images, np.ndarray) and 0 < images.ndim < 4 and images.dtype.kind not in "OSU"
    is_scalar = isinstance(images, np.ndarray) and images.ndim == 0
    is_single = is_single_array or isinstance(images, str | Path | bytes | bytearray | Image.Image)
    if is_single or hasattr(images, "read"):
        images = [images]
        names = ["the image"]
    # Tables and mappings are iterable as well: over the names of their columns and over their keys.
    elif hasattr(images, "columns"):
        raise TypeError(f"{_ACCEPTED}, got {type(images).__name__}; give one column of it, of paths for example")
    elif is_scalar or isinstance(images, Mapping) or not isinstance(images, Iterable):
        found = "an array without dimensions" if is_scalar else type(images).__name__
        raise TypeError(f"{_ACCEPTED}, got {found}")
    else:
        names = []
    for index, image in enumerate(images):
        is_path = isinstance(image, str | Path)
        yield image, str(image) if is_path else names[index] if names else f"images[{index}]"


def _ready(named: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, str]]:
    """Images that several threads may decode: the pixels of open files and Pillow images, which one alone may use."""
    import numpy as np

    for image, name in named:
        free = isinstance(image, str | Path | bytes | bytearray | np.ndarray)
        yield image if free else _pixels(image, name), name


def _pixels(image: Any, name: str) -> "np.ndarray":
    """(H, W, 3) uint8 of one image."""
    import numpy as np
    from PIL import Image

    from dermaffinity.data.images import convert_array, convert_image, decode_image

    if isinstance(image, str | Path):
        return decode_image(_read(Path(image)), name)
    if isinstance(image, bytes | bytearray):
        return decode_image(bytes(image), name)
    if isinstance(image, Image.Image):
        return convert_image(image, name)
    if isinstance(image, np.ndarray) and image.ndim > 0:
        return convert_array(image, name)
    if hasattr(image, "read"):
        return decode_image(_read_opened(image, name), name)
    raise TypeError(f"{name}: {_ACCEPTED}, got {type(image).__name__}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give the images in it, or use dermaffinity predict") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise DataError(f"{path}: cannot be read ({error})") from error


def _read_opened(file: Any, name: str) -> bytes:
    """The whole content of an open file, as Pillow reads it: from its beginning where it can be rewound."""
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file, or bytes that are no text
        raise DataError(f"{name}: cannot be read ({error}); open the file in binary mode, 'rb'") from error
    if not isinstance(content, bytes):
        raise TypeError(f"{name}: an open file gives bytes, got {type(content).__name__}; open it with mode 'rb'")
    return content


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be in (0, 1), got {coverage}")
