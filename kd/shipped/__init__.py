"""Files that `kdsweep export` puts beside a model, verbatim. They need numpy and onnxruntime only."""
