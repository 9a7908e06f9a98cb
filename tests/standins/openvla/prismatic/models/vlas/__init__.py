from .openvla import OpenVLA

__all__ = ["OpenVLA"]
