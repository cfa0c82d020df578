from .base import NullTracker as NullTracker
from .base import Run as Run
from .base import Tracker as Tracker
from .mlflow_tracker import MlflowTracker as MlflowTracker
