"""The probe set: image and instruction pairs whose hidden states are watched and never trained on."""
