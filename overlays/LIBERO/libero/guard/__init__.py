"""Reading LIBERO's pickled files without running what they name.

``torch_arrays`` and ``torch_models`` are torch with another ``load``; a module imports one of them under the name
torch, and so all its loads go that way, however many there are.
"""
