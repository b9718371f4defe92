"""System calls, one thin typed function each; the only package that speaks ctypes."""
