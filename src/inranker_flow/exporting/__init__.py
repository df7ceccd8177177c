"""A student in the forms that runtimes without torch serve: ONNX, 8 bits, OpenVINO; each compared with its checkpoint."""
