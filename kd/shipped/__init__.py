"""What travels with an exported student? Files that `kdsweep export` puts beside it, verbatim.

They need numpy and onnxruntime only, and know nothing else of kdsweep.
"""
