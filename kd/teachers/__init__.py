"""Teachers from anywhere: ONNX files, ports, models of other sweeps, ready outputs. What they say of windows.

Knows no sweep and trains no student; torch and onnxruntime are imported where they are used.
"""
