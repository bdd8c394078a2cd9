"""The joint step, retrieval and generation in PyTorch on Hugging Face's modules: the other side of
a comparison (extra [torch]).
"""
