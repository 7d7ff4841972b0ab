"""Learners for models of Keras, PyTorch and scikit-learn, and their parts for those who write `train` themselves.

A framework is imported where it is used: whoever has none of them can import all of this.
"""
