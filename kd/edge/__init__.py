"""What a trained model costs and how it is shipped: ONNX, int8, C header, stopwatch, microcontroller.

Knows no sweep; trains nothing.
"""
