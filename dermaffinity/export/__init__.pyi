from .bundle import export_bundle as export_bundle
from .onnx import export_onnx as export_onnx
