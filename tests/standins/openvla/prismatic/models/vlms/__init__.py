from .prismatic import PrismaticVLM

__all__ = ["PrismaticVLM"]
