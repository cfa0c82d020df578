from .batch import find_images as find_images
from .batch import predict_files as predict_files
from .classifier import Assessment as Assessment
from .classifier import LesionClassifier as LesionClassifier
from .metadata import MetadataEvidence as MetadataEvidence
from .model_folder import join_models as join_models
from .model_folder import read_description as read_description
from .shards import predict_shards as predict_shards
