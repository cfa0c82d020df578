from .calibration import calibrate as calibrate
from .calibration import ensemble_temperature as ensemble_temperature
from .calibration import learned_prior as learned_prior
from .memory import training_memory as training_memory
from .precision import has_bfloat16 as has_bfloat16
from .trainer import Trainer as Trainer
