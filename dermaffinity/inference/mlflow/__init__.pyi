from .model import write_mlflow_model as write_mlflow_model
