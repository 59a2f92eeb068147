"""A trained model in forms that other tools load: ONNX files, and folders of sentence-transformers and transformers."""
