"""A trained network at work: pictures, the web page, ONNX."""
